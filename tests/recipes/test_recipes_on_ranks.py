"""Recipes under torchrun, as people call them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_lm import VALUES, options
from verses import SIZES, SPECIAL, TEXT, VOCAB_SIZE, call, losses, metrics, weights, write_rows, write_tokenizer

from kinfold import load_model
from kinfold.assets import user_cards_folder, write_card
from kinfold.errors import ConfigError
from kinfold.recipes.config import LmConfig
from kinfold.recipes.data import collate
from kinfold.recipes.packing import Sample
from kinfold.recipes.run import completed
from kinfold.recipes.start import started

BIN = Path(sys.executable).parent
LM = ("--no-python", "scaffold", "train", "lm")
TIMEOUT = 300.0


def torchrun(ranks: int, *arguments: Any) -> subprocess.Popen[str]:
    """What is called `torchrun --nproc-per-node RANKS ...`."""
    command = [BIN / "torchrun", "--nproc-per-node", ranks, *arguments]
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def said_by(process: subprocess.Popen[str], *, status: int = 0) -> tuple[str, str]:
    """What came out of a run that ended with that status."""
    out, err = output_of(process)
    assert process.returncode == status, err
    return out, err


def output_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What came out of a run; one that does not end takes its ranks with it."""
    try:
        return process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.terminate()
        pytest.fail("\n".join(process.communicate()))


def assert_near(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """The same lines of metrics, but for rounding."""
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        assert {key: ours[key] for key in ("kind", "step")} == {key: theirs[key] for key in ("kind", "step")}
        numbers = {key: value for key, value in ours.items() if key != "kind"}
        assert numbers == pytest.approx({key: theirs[key] for key in numbers}, rel=1e-4)


def test_ranks_learn_what_one_process_learns_and_go_on_in_another_layout(tiny: Path) -> None:
    shared: dict[str, Any] = {"valid_share": 0.2, "validate_every_n_steps": 4, "batch_size": 5}
    call("train", "lm", *options(output="one", name="one", **shared))
    many = options(output="many", name="many", **shared)
    switches = ("--sequence-parallel", "--activation-checkpointing")
    out, _ = said_by(torchrun(4, *LM, *many, "--tp", 2, "--fsdp", 2, *switches))
    assert [line.partition(":")[0] for line in out.splitlines()].count("Training") == 1
    assert "Training: 12 steps of 5 sequences in float32 on cpu, tp=2, fsdp=2" in out
    assert_near(metrics(tiny / "many"), metrics(tiny / "one"))

    for made in ("model", "checkpoints/step_12"):
        shutil.rmtree(tiny / "many" / made)
    out, _ = said_by(torchrun(2, "-m", "kinfold.recipes.lm", *many))
    assert out.count(f"Going on from {tiny / 'many' / 'checkpoints' / 'step_10'}.") == 1
    assert_near(metrics(tiny / "many"), metrics(tiny / "one"))

    ours, theirs, before = weights(tiny / "many"), weights(tiny / "one"), load_model("tiny").state_dict()
    assert ours.keys() == theirs.keys() == before.keys()
    for name, weight in theirs.items():
        learned = float((weight - before[name]).abs().max())
        assert float((ours[name] - weight).abs().max()) < 0.01 * learned  # Adam makes much of rounding in float32
    assert call("generate", "many", "Verse 3: the") == call("generate", "one", "Verse 3: the")


def test_a_run_that_torchrun_is_asked_to_end_stops_with_a_checkpoint(tiny: Path) -> None:
    process = torchrun(2, *LM, *options(max_num_steps=1_000_000, checkpoint_every_n_steps=1_000_000, tp=2))
    run = tiny / "runs" / "tiny-lm"
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and len(metrics(run)) >= 3):
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = output_of(process)
    step = metrics(run)[-1]["step"]
    assert f"Stopped after step {step}; the same command goes on." in out, err
    assert [path.name for path in (run / "checkpoints").glob("step_*")] == [f"step_{step}"]
    assert not (run / "model").exists()


def test_an_error_is_said_once_and_nothing_is_written(tiny: Path) -> None:
    _, err = said_by(torchrun(3, *LM, *options(tp=3)), status=1)
    assert err.count("Error: This LlamaModel cannot be spread over tp=3") == 1
    assert err.count("query heads cannot be divided among 3 ranks") == 1
    assert [path.name for path in tiny.iterdir()] == ["verses.txt"]


def test_pairs_are_learned_over_ranks_as_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path, special=SPECIAL, template="$A </s>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    sizes = {
        "model_dim": 64, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_heads": 4,
        "num_decoder_heads": 4, "ffn_inner_dim": 96, "vocab_size": VOCAB_SIZE, "max_seq_len": 64, "dropout_p": 0.0,
    }  # fmt: skip
    cards = user_cards_folder()
    write_card(cards, name="plan", model_family="transformer", model_config=sizes, tokenizer=tmp_path)
    write_rows(tmp_path / "pairs.jsonl", *({"source": n[:9], "target": n[9:30]} for n in TEXT.splitlines()[:13]))
    said = {"model": "plan", "data": "pairs.jsonl", "lr": 3e-3, "max-num-epochs": 3, "batch-size": 4,
            "publish-metrics-every-n-steps": 1, "decoder-start-token": "</s>"}  # fmt: skip
    command = ["--from-scratch", *(part for name, value in said.items() for part in (f"--{name}", str(value)))]
    call("train", "seq2seq", *command, "--output", "one", "--name", "one")
    ranks = ["--output", "many", "--name", "many", "--tp", "2", "--sequence-parallel"]
    said_by(torchrun(4, "-m", "kinfold.recipes.seq2seq", *command, *ranks))
    assert len(losses(tmp_path / "many")) == 12
    assert_near(metrics(tmp_path / "many"), metrics(tmp_path / "one"))


def test_sequences_that_ranks_share_are_padded_so_that_they_can() -> None:
    samples = [Sample(torch.arange(n), torch.arange(n) > 2, torch.arange(n + 1)) for n in (7, 5)]
    batch = collate(samples, 9, multiple=4)
    inputs, targets = batch.as_auto_regressive()
    assert batch.source is not None
    assert (inputs.seqs.shape, targets.is_target.shape, batch.source.seqs.shape) == ((2, 8), (2, 8), (2, 8))
    assert targets.num_target_elements() == collate(samples, 9).as_auto_regressive()[1].num_target_elements() == 6
    assert batch.seqs[1].tolist() == [0, 1, 2, 3, 4, 9, 9, 9, 9]


def test_what_is_padded_is_not_longer_than_the_model_is_made_for(tiny: Path) -> None:
    config = LmConfig(**{**VALUES, "max_seq_len": 128}, tp=3, sequence_parallel=True)
    with started(config) as start, pytest.raises(ConfigError, match="`max_seq_len` = 128 becomes 129") as caught:
        completed(config, "lm", start)
    assert caught.value.hint == "Set `max_seq_len` to 126."


def test_activations_that_are_computed_again_are_the_same(tiny: Path) -> None:
    call("train", "lm", *options(output="kept", max_num_steps=3))
    call("train", "lm", *options(output="again", name="again", max_num_steps=3), "--activation-checkpointing")
    assert losses(tiny / "again") == losses(tiny / "kept")


def test_stages_learn_what_one_process_learns_and_go_on_in_other_layouts(
    tiny: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    folder = tiny / "tied"
    shutil.copytree(tiny_checkpoint("llama", vocab_size=VOCAB_SIZE, tie_word_embeddings=True), folder)
    checkpoint = write_tokenizer(folder)
    sizes = {**SIZES, "tied_embeddings": True}  # the first stage and the last share a weight
    write_card(user_cards_folder(), name="tied", model_family="llama", model_config=sizes, checkpoint=checkpoint)
    shared: dict[str, Any] = {
        "model": "tied", "valid_share": 0.2, "validate_every_n_steps": 4, "batch_size": 5, "gradient_accumulation": 2,
    }  # fmt: skip
    call("train", "lm", *options(output="one", name="one", **shared))
    many = options(output="many", name="many", **shared)
    out, _ = said_by(torchrun(4, *LM, *many, "--pp", 2, "--tp", 2, "--microbatches", 2))
    assert "Training: 12 steps of 10 sequences in float32 on cpu, tp=2, pp=2" in out
    assert_near(metrics(tiny / "many"), metrics(tiny / "one"))

    for ranks, layout in ((4, ("--pp", 2, "--fsdp", 2)), (1, ())):
        for made in ("model", "checkpoints/step_12"):
            shutil.rmtree(tiny / "many" / made)
        out, _ = said_by(torchrun(ranks, "-m", "kinfold.recipes.lm", *many, *layout))
        assert f"Going on from {tiny / 'many' / 'checkpoints' / 'step_10'}." in out
        assert_near(metrics(tiny / "many"), metrics(tiny / "one"))
    assert weights(tiny / "many").keys() == weights(tiny / "one").keys()
