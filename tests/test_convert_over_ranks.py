"""Conversion by several processes under torchrun: what one process makes, byte for byte, or nothing."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_converting import SIZES, Job, Outcome, register_packed
from safetensors.torch import save_file

from kinfold.conversion.unfinished import stage_of
from kinfold.errors import CheckpointError
from kinfold.loader import load_model

SCRIPT = Path(__file__).with_name("ranks_converting.py")
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
LAYOUTS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "many files": ("llama", {"max_shard_size": "50KB"}),
    "one file": ("llama", {}),
    "rotary halves permuted": ("llama", {"to": "reference", "max_shard_size": "100KB"}),
    "cast": ("llama", {"to": "hf", "dtype": "bfloat16", "max_shard_size": "50KB"}),
    "unpacked": ("packed", {}),
    "unpacked, many files": ("packed", {"max_shard_size": "50KB"}),
    "packed": ("native", {"to": "packed"}),
}
"""What is converted, and how."""


@pytest.fixture(autouse=True)
def _packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_model.registrations, "_values", dict(load_model.registrations._values))
    register_packed()


def torchrun(processes: int, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start processes, and wait until all have ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [TORCHRUN, "--standalone", "--nproc-per-node", str(processes), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=environment, timeout=300
    )


def by_ranks(processes: int, jobs: Iterable[Job], folder: Path) -> list[list[Outcome]]:
    """What came of each job on each rank."""
    folder.mkdir()
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    done = torchrun(processes, str(SCRIPT), str(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return [[Outcome(**outcome) for outcome in outcomes] for outcomes in zip(*ranks, strict=True)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def jobs(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> dict[str, Job]:
    """All of `LAYOUTS`, which nobody has begun."""
    sources = {"llama": tiny_checkpoint("llama"), "native": tmp_path / "native", "packed": tmp_path / "packed"}
    Job(str(sources["llama"]), str(sources["native"])).convert()
    Job(str(sources["native"]), str(sources["packed"]), family="packed", options={"to": "packed"}).convert()
    families = {"llama": "llama", "native": "packed", "packed": "packed"}
    return {
        name: Job(str(sources[source]), str(tmp_path / f"by ranks/{name}"), family=families[source], options=options)
        for name, (source, options) in LAYOUTS.items()
    }


def assert_as_by_one_process(job: Job, folder: Path) -> None:
    alone = Job(**{**asdict(job), "destination": str(folder)})
    alone.convert()
    assert content(Path(job.destination)) == content(folder)


def larger_than_parts(folder: Path) -> Job:
    """A conversion of 128 MB in tensors of 4 MB, to be dealt out in parts of the usual size."""
    sizes = {**SIZES, "model_dim": 512, "ffn_inner_dim": 2048, "num_layers": 10}
    state = {"model.embed_tokens.weight": torch.zeros(256, 512), "lm_head.weight": torch.zeros(256, 512)}
    state["model.norm.weight"] = torch.ones(512)
    for layer in range(10):
        prefix = f"model.layers.{layer}."
        state |= {f"{prefix}{norm}.weight": torch.ones(512) for norm in ("input_layernorm", "post_attention_layernorm")}
        state |= {
            f"{prefix}self_attn.{x}_proj.weight": torch.zeros(r, 512) for x, r in (("q", 64), ("k", 32), ("v", 32))
        }
        state[f"{prefix}self_attn.o_proj.weight"] = torch.zeros(512, 64)
        state |= {f"{prefix}mlp.{x}_proj.weight": torch.zeros(2048, 512) for x in ("gate", "up")}
        state[f"{prefix}mlp.down_proj.weight"] = torch.zeros(512, 2048)
    (folder / "large").mkdir()
    save_file(state, folder / "large" / "model.safetensors")
    options = {"to": "reference", "dtype": "bfloat16"}
    return Job(str(folder / "large"), str(folder / "by ranks/large"), sizes=sizes, options=options, part=None)


def test_two_processes(tmp_path: Path, jobs: dict[str, Job]) -> None:
    usual = list(jobs.values())
    large = larger_than_parts(tmp_path)
    intruded = Job(usual[0].source, str(tmp_path / "by ranks/intruded"), intruder=True)
    differs = Job(usual[0].source, str(tmp_path / "differs"), others={"1": {"to": "hf"}})
    dcp = Job(usual[0].source, str(tmp_path / "dcp"), options={"format": "dcp"})
    outcomes = by_ranks(2, [*usual, large, intruded, differs, dcp], tmp_path / "ranks")
    for number, job in enumerate([*usual, large, intruded]):
        assert_as_by_one_process(job, tmp_path / f"alone {number}")
        first, second = outcomes[number]
        assert (first.error, second.error) == ("", "")
        assert first.tensors
        assert second.tensors
        assert max(Counter(first.tensors + second.tensors).values()) == 1
        assert first.progress == sorted(first.progress)
        assert first.progress[-1] == 100
        assert second.progress == []
    for name in ("unpacked", "packed"):  # what becomes several neighbours, or is made of them, is worked out by one
        steps = Counter(step for outcome in outcomes[list(jobs).index(name)] for step in set(outcome.steps))
        neighbours = {step: count for step, count in steps.items() if "output_proj" not in step}
        assert len(neighbours) == 6
        assert set(neighbours.values()) == {1}
    for outcome in outcomes[len(usual)]:
        most, before = outcome.private
        assert most <= 500 * 2**20
        assert most - before <= 3 * 4 * 512 * 2048
    assert "Another process is at work" in outcomes[-3][0].intruder
    for outcome in outcomes[-2]:
        assert outcome.error == "RankError"
        assert "Rank 1 has failed: It is asked for something else than rank 0:" in outcome.said
        assert 'layouts: ["hf", "native"], not ["hf", "hf"]' in outcome.said
    assert [outcome.said.splitlines()[0] for outcome in outcomes[-1]] == [
        "DCP is written by one process, not by 2."
    ] * 2
    assert not [path for path in (tmp_path / "by ranks").iterdir() if path.name.startswith(".")]


def test_four_processes_which_also_take_up_what_others_have_left(tmp_path: Path, jobs: dict[str, Job]) -> None:
    usual = list(jobs.values())
    begun = Job(usual[0].source, str(tmp_path / "by ranks/begun"), options={"max_shard_size": "50KB"})
    full = Job(usual[0].source, str(tmp_path / "full"), options={"max_shard_size": "50KB"}, full=2)

    def interrupt(done: int, total: int) -> None:
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun.convert(progress=interrupt)
    kept = inodes(stage_of(Path(begun.destination)) / "checkpoint")
    assert len(kept) >= 3
    outcomes = by_ranks(4, [*usual, begun, full], tmp_path / "ranks")
    for number, job in enumerate([*usual, begun]):
        assert_as_by_one_process(job, tmp_path / f"alone {number}")
        assert [outcome.error for outcome in outcomes[number]] == [""] * 4
    assert kept.items() <= inodes(Path(begun.destination)).items()
    for outcome in outcomes[-1]:
        assert outcome.error == "RankError"
        assert outcome.said.startswith(f"Rank 2 has failed: {full.destination} could not be written: ")
        assert "No space left on device" in outcome.said
    assert not Path(full.destination).exists()
    assert_as_by_one_process_after(full, tmp_path)


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*.safetensors")}


def assert_as_by_one_process_after(job: Job, folder: Path) -> None:
    """One process makes an end of what several have begun."""
    kept = inodes(stage_of(Path(job.destination)) / "checkpoint")
    job.convert()
    assert kept.items() <= inodes(Path(job.destination)).items()
    assert not stage_of(Path(job.destination)).exists()
    assert_as_by_one_process(job, folder / "after")


def test_a_process_that_is_killed_leaves_no_destination_and_one_process_goes_on(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    job = Job(str(tiny_checkpoint("llama")), str(tmp_path / "x"), options={"max_shard_size": "50KB"}, killed=1)
    (tmp_path / "ranks").mkdir()
    (tmp_path / "ranks" / "jobs.json").write_text(json.dumps([asdict(job)]))
    done = torchrun(2, str(SCRIPT), str(tmp_path / "ranks"), folder=tmp_path)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert not Path(job.destination).exists()
    left = sorted(path.name for path in (stage_of(Path(job.destination)) / "checkpoint").iterdir())
    assert any(name.endswith(".partial") for name in left)
    assert len([name for name in left if name.endswith(".safetensors")]) >= 2
    assert_as_by_one_process_after(job, tmp_path)


def test_nobody_begins_before_the_last_of_several_ranks_has_ended(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    job = Job(str(tiny_checkpoint("llama")), str(tmp_path / "x"))
    stage_of(tmp_path / "x").mkdir()
    with (stage_of(tmp_path / "x") / "lock").open("w+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a rank holds it, whatever rank 0 does
        with pytest.raises(CheckpointError, match="Another process is at work"):
            job.convert()
    job.convert()


def test_the_command_under_torchrun(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    (tmp_path / "cards").mkdir()
    card = {"name": "tiny", "model_family": "llama", "model_config": SIZES, "checkpoint": str(tiny_checkpoint("llama"))}
    (tmp_path / "cards" / "tiny.yaml").write_text(json.dumps(card))
    scaffold = str(Path(sys.executable).with_name("scaffold"))
    arguments = [
        "--no-python",
        scaffold,
        "convert",
        str(tmp_path / "cards" / "tiny.yaml"),
        str(tmp_path / "x"),
        "--json",
    ]
    done = torchrun(2, *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"] == sorted(os.listdir(tmp_path / "x"))  # said once
    done = torchrun(2, *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Error: Rank 0 has failed: {tmp_path / 'x'} exists." in done.stderr
