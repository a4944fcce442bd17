"""A llama of ours in training, beside the same one of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from llama_peer import peer_of, tiny_llama
from toy import Kept, collate, summed_loss, toy_samples

import kinfold
from kinfold import open_checkpoint
from kinfold.training import AbstractTrainUnit, BatchReader, SequenceBatch, Trainer


class LlamaUnit(AbstractTrainUnit[SequenceBatch]):
    def __call__(self, batch: SequenceBatch, /) -> tuple[torch.Tensor, int | None]:
        return summed_loss(self.model, batch)


def reader() -> BatchReader[SequenceBatch]:
    return BatchReader(toy_samples(), 4, collate)


def losses_of(model: torch.nn.Module, **options: Any) -> list[float]:
    kept = Kept()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    Trainer(
        unit=LlamaUnit(model), data_reader=reader(), optimizer=optimizer, max_num_steps=12, max_gradient_norm=1.0,
        publish_metrics_every_n_steps=1, recorders=[kept], **options,
    )()  # fmt: skip
    return kept.of("loss")


def test_the_losses_are_those_of_transformers_in_a_loop_by_hand(tmp_path: Path) -> None:
    ours = tiny_llama()
    theirs = peer_of(ours).train()
    losses = losses_of(ours, checkpoint_dir=tmp_path)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    numbers = reader()
    expected = []
    for batch in [*numbers, *numbers][:12]:
        assert batch.padding_mask is not None
        labels = batch.seqs.masked_fill(~batch.padding_mask, -100)
        loss = theirs(batch.seqs, labels=labels).loss  # a mean over all targets
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-6)  # transformers takes the logits to float32
    assert losses[-1] < losses[0] - 1
    checkpoint = open_checkpoint(tmp_path / "step_12")
    assert list(checkpoint.manifest) == list(ours.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(checkpoint.tensor(name), value)


def test_a_compiled_llama_has_the_same_losses() -> None:
    compiled = losses_of(tiny_llama(), compile="eager")
    assert compiled == losses_of(tiny_llama())


def test_the_examples_of_the_docs_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    code, ranks = (part.split("```")[0] for part in text.split("```python\n")[1:])
    monkeypatch.setattr(kinfold, "load_model", lambda _name, *, dtype, **_: tiny_llama(dtype=dtype))
    monkeypatch.chdir(tmp_path)
    for steps in ("3", "6"):
        names: dict[str, Any] = {"samples": toy_samples(40), "__name__": "example"}
        exec(code.replace("1000", steps), names)
        assert (names["result"].step_nr, names["result"].stopped) == (int(steps), False)
        exec(ranks.replace("1000", steps).replace("tp=2", "tp=1"), names)  # the one rank that there is
        assert (names["result"].step_nr, names["result"].stopped) == (int(steps), False)
    assert sorted(path.name for path in (tmp_path / "runs" / "first").iterdir()) == [
        ".lock", "metrics.jsonl", "step_3", "step_6",
    ]  # fmt: skip
