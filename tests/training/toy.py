"""A model of two layers that is trained in milliseconds, its data, and a trainer of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from kinfold.training import AbstractTrainUnit, BatchReader, JsonLinesRecorder, SequenceBatch, Trainer

VOCAB = 16


class ToyModel(nn.Module):
    """Says a token from the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.inner = nn.Linear(8, 12)
        self.dropout = nn.Dropout(0.2)
        self.final = nn.Linear(12, VOCAB)

    def forward(self, seqs: Tensor) -> Tensor:  # (B, S) -> (B, S, V)
        return self.final(self.dropout(self.inner(self.embed(seqs)).relu()))


class ToyUnit(AbstractTrainUnit[SequenceBatch]):
    """The summed cross-entropy of the next tokens, or its mean.

    Args:
        model: A `ToyModel`, or another that gives logits for tokens.
        mean: Whether to give means.
        on_step: Called with the number of each step.
    """

    def __init__(self, model: nn.Module, *, mean: bool = False, on_step: Callable[[int], object] | None = None) -> None:
        super().__init__(model)
        self._mean = mean
        self._on_step = on_step

    def set_step_nr(self, step_nr: int) -> None:
        if self._on_step is not None:
            self._on_step(step_nr)

    def __call__(self, batch: SequenceBatch, /) -> tuple[Tensor, int | None]:
        loss, num_targets = summed_loss(self.model, batch)
        return (loss / num_targets, None) if self._mean else (loss, num_targets)


def summed_loss(model: nn.Module, batch: SequenceBatch) -> tuple[Tensor, int]:
    inputs, targets = batch.as_auto_regressive()
    logits = model(inputs.seqs)[targets.is_target]
    return cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets.seqs[targets.is_target],
                         reduction="sum"), targets.num_target_elements()  # fmt: skip


def toy_model(*, seed: int = 1, dtype: torch.dtype = torch.float32) -> ToyModel:
    torch.manual_seed(seed)
    return ToyModel().to(dtype)


def toy_samples(count: int = 22) -> list[Tensor]:
    """Sequences of 2 to 9 tokens."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 10, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCAB, (length,), generator=generator) for length in lengths]


def collate(samples: Sequence[Tensor]) -> SequenceBatch:
    mask = pad_sequence([torch.ones_like(sample, dtype=torch.bool) for sample in samples], batch_first=True)
    return SequenceBatch(pad_sequence(list(samples), batch_first=True), mask)


def toy_reader(count: int = 22, batch_size: int = 3, **options: Any) -> BatchReader[SequenceBatch]:
    return BatchReader(toy_samples(count), batch_size, collate, **options)


def toy_trainer(folder: Path | None = None, **options: Any) -> Trainer[SequenceBatch]:
    """A trainer of a new `ToyModel` with AdamW, a schedule, and metrics of every step in `folder`/metrics.jsonl."""
    unit = options.pop("unit", None) or ToyUnit(toy_model())
    optimizer = options.pop("optimizer", None) or torch.optim.AdamW(unit.model.parameters(), lr=1e-2)
    if folder is not None:
        options = {"recorders": [JsonLinesRecorder(folder / "metrics.jsonl")], "checkpoint_dir": folder, **options}
    defaults: dict[str, Any] = {
        "data_reader": toy_reader() if "data_reader" not in options else None,
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.9) if "lr_scheduler" not in options else None,
        "max_num_steps": 10,
        "publish_metrics_every_n_steps": 1,
    }
    return Trainer(unit=unit, optimizer=optimizer, **{**defaults, **options})


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What was told, without the times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


class Kept:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, dict[str, float]]] = []
        self.started: tuple[int, int | None] | None = None
        self.closed = False

    def start(self, step_nr: int, max_num_steps: int | None) -> None:
        self.started = (step_nr, max_num_steps)

    def record(self, kind: str, step_nr: int, values: Any) -> None:
        self.rows.append((kind, step_nr, dict(values)))

    def close(self) -> None:
        self.closed = True

    def of(self, name: str, kind: str = "train") -> list[float]:
        """One value, of each step that it was told of."""
        return [values[name] for told, _, values in self.rows if told == kind]
