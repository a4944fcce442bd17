"""Conversions by several ranks: `torchrun tests/ranks_converting.py FOLDER`, with `FOLDER/jobs.json`, a list of `Job`.

Every rank does one after the other and writes what came of each to `FOLDER/RANK.json`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kinfold import (
    AssetCard,
    CheckpointConverter,
    KeyMap,
    StandardModelConfigLoader,
    StandardModelLoader,
    convert_checkpoint,
)
from kinfold.checkpoint import shards, write
from kinfold.conversion.unfinished import stage_of
from kinfold.errors import KinfoldError
from kinfold.keymap import Step, chain, permute_rotary, rename, split, transpose, unstack
from kinfold.loader import load_model
from kinfold.parallel import Gangs, setup_gangs
from kinfold_zoo.llama import LlamaConfig, create_llama_model, llama_archs

LAYER = "decoder.layers.{layer}."
SIZES = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1, "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip

packed_key_map = KeyMap(
    rename("wte", "decoder_frontend.embed.weight"),
    chain(
        split("h.{layer}.qkv", into=("q.{layer}", "k.{layer}", "v.{layer}"), sizes=(64, 32, 32)),
        permute_rotary("q.{layer}", LAYER + "self_attn.q_proj.weight", heads="num_heads"),
        permute_rotary("k.{layer}", LAYER + "self_attn.k_proj.weight", heads="num_kv_heads"),
        rename("v.{layer}", LAYER + "self_attn.v_proj.weight"),
    ),
    transpose("h.{layer}.o", LAYER + "self_attn.output_proj.weight"),
    split("h.{layer}.up", into=(LAYER + "ffn.gate_proj.weight", LAYER + "ffn.inner_proj.weight"), sizes=(96, 96)),
    unstack("down", LAYER + "ffn.output_proj.weight", over="layer", count="num_layers"),
    rename("h.{layer}.ln1", LAYER + "self_attn_layer_norm.weight"),
    rename("h.{layer}.ln2", LAYER + "ffn_layer_norm.weight"),
    rename("ln", "decoder.layer_norm.weight"),
    rename("head", "final_proj.weight"),
)
"""Of a Llama of `SIZES`: query, key and value in one, so are gate and up, and what goes down of all layers."""


def register_packed() -> None:
    """Make the family `packed` known, whose checkpoints have tensors that become several, and the other way round."""
    loader = StandardModelLoader(
        config_loader=StandardModelConfigLoader("packed", LlamaConfig, llama_archs),
        factory=create_llama_model,
        checkpoint_converter=CheckpointConverter(packed=packed_key_map),
    )
    load_model.register("packed", loader)


@dataclass
class Job:
    """One conversion.

    Attributes:
        source: The path of a Llama's checkpoint.
        destination: The folder to make.
        family: Its family.
        sizes: Values of its config.
        options: Of `convert_checkpoint`.
        part: About how many bytes are dealt out at a time; None for as many as otherwise.
        others: Other options on some ranks.
        full: The rank whose disk is full.
        killed: The rank that is killed once some files are complete.
        intruder: Whether another process comes to the same destination meanwhile.
    """

    source: str
    destination: str
    family: str = "llama"
    sizes: dict[str, Any] = field(default_factory=lambda: SIZES)
    options: dict[str, Any] = field(default_factory=dict)
    part: int | None = 4096
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    full: int | None = None
    killed: int | None = None
    intruder: bool = False

    def convert(self, **options: Any) -> Any:
        """Do it."""
        card = AssetCard("x", self.family, source=Path("none"), model_config=self.sizes, checkpoint=Path(self.source))
        return convert_checkpoint(card, self.destination, **self.options, **options)


@dataclass
class Outcome:
    """What came of a job on one rank.

    Attributes:
        error: The class of an error.
        said: What it says.
        tensors: The tensors that this rank has written.
        steps: The steps of key maps that it has carried out, by what they give.
        progress: What it was told of the bytes written so far.
        private: The most private memory it had while it wrote, and how much of that was there before.
        intruder: What was said to another process.
    """

    error: str = ""
    said: str = ""
    tensors: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    private: tuple[int, int] = (0, 0)
    intruder: str = ""


def do(job: Job, number: int, folder: Path, gangs: Gangs) -> Outcome:
    """Do a job; gives what came of it here."""
    outcome, rank = Outcome(), gangs["world"].rank
    before = private_bytes()

    def seen(done: int, total: int) -> None:
        outcome.progress.append(done * 100 // total)

    def at_tensor(name: str) -> None:
        outcome.tensors.append(name)
        outcome.private = (max(outcome.private[0], private_bytes()), before)
        if len(outcome.tensors) == 1:
            everybody_is_at_work(folder / f"job{number}", gangs)
            if rank == job.full:
                raise OSError(28, "No space left on device")
            if job.intruder and rank == 0:
                outcome.intruder = what_it_says(job.convert)
        if job.killed is not None and len(outcome.tensors) == 12:
            until(lambda: len(list(stage_of(Path(job.destination)).glob("checkpoint/*.safetensors"))) >= 2)
            if rank == job.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)  # until torchrun ends it

    with (
        replaced(write, "_write_tensor", lambda inner: lambda *a, **o: at_tensor(a[1]) or inner(*a, **o)),
        noting(outcome.steps),
    ):
        shards.PART = job.part or shards.PART
        try:
            job.convert(gangs=gangs, progress=seen, **job.others.get(str(rank), {}))
        except KinfoldError as error:
            outcome.error, outcome.said = type(error).__name__, str(error)
    return outcome


def everybody_is_at_work(folder: Path, gangs: Gangs) -> None:
    """Wait until every rank has a tensor to write, so that none does everything before another has begun."""
    folder.mkdir(exist_ok=True)
    (folder / str(gangs["world"].rank)).touch()
    until(lambda: len(list(folder.iterdir())) == gangs["world"].size)


def until(ready: Callable[[], bool]) -> None:
    """Wait."""
    while not ready():
        time.sleep(0.01)


def what_it_says(call: Callable[[], Any]) -> str:
    """The message of the error that a call raises."""
    try:
        call()
    except KinfoldError as error:
        return str(error)
    return ""


@contextmanager
def replaced(place: Any, name: str, wrap: Callable[[Any], Any]) -> Any:
    """Something of a module or class wrapped, for the length of a block."""
    kept = getattr(place, name)
    setattr(place, name, wrap(kept))
    try:
        yield
    finally:
        setattr(place, name, kept)


@contextmanager
def noting(steps: list[str]) -> Any:
    """Note which steps are carried out that give several tensors, or take several."""

    def noted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def carry_out(step: Step, read: Any) -> Any:
            if len(step.sources) + len(step.targets) > 2:
                steps.append(" ".join(step.targets))
            return inner(step, read)

        return carry_out

    with replaced(Step, "load", noted), replaced(Step, "export", noted):
        yield


def private_bytes() -> int:
    """What this process has in memory that is no page of a file."""
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


def main(folder: Path) -> None:
    register_packed()
    jobs = [Job(**job) for job in json.loads((folder / "jobs.json").read_text())]
    with setup_gangs(device="cpu") as gangs:
        outcomes = [asdict(do(job, number, folder, gangs)) for number, job in enumerate(jobs)]
        (folder / f"{gangs['world'].rank}.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
