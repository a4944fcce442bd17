"""One checkpoint tried: a family made from it by one command, what `scaffold verify` proves of it, and its shards.

Public names alone are called, each command in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import yaml

PROJECT = "zoolab"
SCAFFOLD = str(Path(sys.executable).with_name("scaffold"))
SHARDING = (sys.executable, str(Path(__file__).with_name("sharding.py")))
SECONDS = 120
"""How long a command may take; it takes two or three seconds."""

WRONG_SHARDS = "what its ranks have does not make up the whole:"
LONGEST = 40
"""Characters of a value that is shown; the rules of a key map are longer."""

SIZES = {
    "model_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_inner_dim", "vocab_size", "max_seq_len",
    "norm_eps", "rope_theta", "description",
}  # fmt: skip
"""What every arch has: it does not tell one family from another."""


@dataclass(slots=True)
class Trial:
    """What came of one checkpoint.

    Attributes:
        name: The name of its folder.
        holds: Whether a family was made and everything asked for was proved of it.
        reason: Why not, in a line.
        faults: Every fault of the error, or of the check that failed.
        spec: What its spec says beyond sizes.
        certificate: What the certificate says.
        parity: How far the logits are from the reference, relative to the largest; None where nothing was computed.
        round_trip: What came back when the checkpoint was exported.
        indivisible: By the number of ranks, what cannot be divided among them (`zoo.sharding`); nothing where what
            they have of the model makes up the whole.
        open: The facts that are assumed, as `name = value`.
        same_under_another_name: Whether nonsense for `model_type` and `architectures` gives the same files; None
            where that was not tried.
        seconds: Of each command.
    """

    name: str
    holds: bool = False
    reason: str = ""
    faults: list[str] = field(default_factory=list)
    spec: str = ""
    certificate: str = ""
    parity: float | None = None
    round_trip: str = ""
    indivisible: dict[str, list[str]] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)
    same_under_another_name: bool | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Failed(Exception):
    """A command or a check that failed: why in a line, and every fault."""

    def __init__(self, reason: str, faults: list[str]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.faults = faults


def init_project(folder: Path) -> Path:
    """An empty project in `folder`, to be copied for each trial."""
    _run("init", PROJECT, cwd=folder)
    return folder / PROJECT


def try_checkpoint(
    checkpoint: Path, *, project: Path, work: Path, alone: bool = False, nonsense: bool = False
) -> Trial:
    """Make a family of a checkpoint in a copy of a project, and verify it.

    Args:
        checkpoint: A folder with `reference.safetensors` (`token_ids`, `logits` in float64) beside the weights, by
            which `new-family` settles what is open. Parity is proved by that in `unseen/`, if there is one.
        project: An empty project.
        work: A folder that does not exist yet, for what is made.
        alone: Let `new-family` settle nothing by a reference: what is open stays as it is assumed.
        nonsense: Try also that the family does not depend on what the config calls it.
    """
    trial = Trial(checkpoint.name)
    try:
        options = ("--against", "nothing") if alone else ()
        made = _make_family(trial, checkpoint, shutil.copytree(project, work / PROJECT), options)
        if nonsense:
            _rename_family(trial, made, checkpoint, shutil.copytree(project, work / "other" / PROJECT), options)
        _verify(trial, checkpoint, work / PROJECT)
        _shard(trial, work / PROJECT)
        trial.holds = True
    except Failed as failure:
        shown = [_without_places(text, checkpoint, work) for text in (failure.reason, *failure.faults)]
        trial.reason, trial.faults = shown[0], shown[1:]
    return trial


def _make_family(trial: Trial, checkpoint: Path, project: Path, options: Sequence[str]) -> dict[str, bytes]:
    """Make the family; the files of the project then."""
    outcome = _new_family(trial, "new-family", checkpoint, project, options)
    trial.certificate = "; ".join(outcome["certificates"].values())
    facts = outcome["facts"]
    trial.open = [f"{fact['name']} = {fact['value']}" for fact in facts if fact["evidence"].startswith("assumed")]
    trial.spec = spec_in_words(yaml.safe_load((project / ".kinfold" / _family(trial) / "spec.yaml").read_text()))
    return _files(project, checkpoint)


def _rename_family(
    trial: Trial, made: dict[str, bytes], checkpoint: Path, project: Path, options: Sequence[str]
) -> None:
    """Make the family again, of a copy that is called something else."""
    copy = shutil.copytree(checkpoint, project.parent / "checkpoint")
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "zzyzx", "architectures": ["ZzyzxForNothing"]}
    (copy / "config.json").write_text(json.dumps(config))
    _new_family(trial, "renamed", copy, project, options)
    again = _files(project, copy)
    different = sorted(path for path in made.keys() | again.keys() if made.get(path) != again.get(path))
    trial.same_under_another_name = not different
    if different:
        raise Failed("what is written depends on model_type or architectures:", different)


def _verify(trial: Trial, checkpoint: Path, project: Path) -> None:
    unseen = checkpoint.resolve() / "unseen" / "reference.safetensors"
    reference = unseen if unseen.exists() else checkpoint.resolve() / "reference.safetensors"
    command = ("verify", _family(trial), "--reference", str(reference), "--json")
    proof = _timed(trial, "verify", *command, cwd=project, allowed=(0, 1))
    checks = {check["name"].split(" with ")[0]: check for check in proof["checks"]}
    trial.round_trip = checks["round trip"]["detail"] if "round trip" in checks else ""
    if "parity" in checks and (gap := re.search(r"differ by (\S+) of", checks["parity"]["detail"])):
        trial.parity = float(gap[1])
    if failed := [check for check in checks.values() if not check["holds"]]:
        faults = [fault for check in failed for fault in check["faults"]]
        raise Failed("; ".join(f"{check['name']}: {check['detail']}" for check in failed), faults)
    if missing := {"certificate", "round trip", "finite", "parity"} - checks.keys():
        raise Failed(f"`scaffold verify` did not check {', '.join(sorted(missing))}", [])


def _shard(trial: Trial, project: Path) -> None:
    found = json.loads(_run(str(project), f"{PROJECT}.{_family(trial)}", program=SHARDING, cwd=project))
    trial.indivisible = found["indivisible"]
    if found["wrong"]:
        raise Failed(WRONG_SHARDS, found["wrong"])


def spec_in_words(spec: dict[str, Any]) -> str:
    """What a spec says beyond sizes: `qk_norm, ffn.activation gelu`."""
    said = {key: value for key, value in spec.items() if key != "archs"}
    for arch in spec.get("archs", {}).values():
        said |= {key: value for key, value in arch.items() if key not in SIZES}
    return ", ".join(_words(said))


def _words(values: dict[str, Any], prefix: str = "") -> list[str]:
    words = []
    for key, value in values.items():
        if isinstance(value, dict):
            words += _words(value, f"{prefix}{key}.")
        elif value is True:
            words.append(f"{prefix}{key}")
        elif value not in (None, False, ""):
            words.append(f"{prefix}{key} {value if len(str(value)) <= LONGEST else '...'}")
    return words


def _new_family(trial: Trial, label: str, checkpoint: Path, project: Path, options: Sequence[str]) -> dict[str, Any]:
    command = ("new-family", _family(trial), "--from", str(checkpoint.resolve()), *options, "--json")
    return _timed(trial, label, *command, cwd=project)


def _timed(trial: Trial, label: str, *command: str, cwd: Path, allowed: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Run a command that prints JSON; what it prints."""
    start = monotonic()
    try:
        printed = _run(*command, cwd=cwd, allowed=allowed)
    finally:
        trial.seconds[label] = round(monotonic() - start, 1)
    return json.loads(printed)


def _run(*command: str, cwd: Path, allowed: tuple[int, ...] = (0,), program: Sequence[str] = ()) -> str:
    """Run a command of `scaffold`, or another program; what it prints.

    Raises:
        Failed: It ends with another exit status than those allowed, prints nothing, or does not end.
    """
    program = program or (SCAFFOLD,)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*program, *command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"`{Path(program[-1]).name} {command[0]}` does not end within {SECONDS} s", []) from None
    if done.returncode in allowed and done.stdout:
        return done.stdout
    raise _failure(done.stderr or f"exit status {done.returncode}")


def _failure(said: str) -> Failed:
    """What a message of Kinfold's says, or the end of a traceback."""
    lines = said.strip().splitlines()
    if not lines[0].startswith("Error: "):
        places = [line.strip() for line in lines[:-1] if line.strip(" ^~")]
        return Failed(f"crashed: {lines[-1]}", places[-4:])
    faults = [line.removeprefix("  - ") for line in lines[1:]]
    return Failed(lines[0].removeprefix("Error: "), faults)


def _family(trial: Trial) -> str:
    """A name that no shipped family has."""
    return re.sub(r"\W+", "_", f"zoo_{trial.name}").lower()


def _files(project: Path, checkpoint: Path) -> dict[str, bytes]:
    """Every file of a project, with no word of where the checkpoint lies."""
    uri = checkpoint.resolve().as_uri().encode()
    files = (path for path in sorted(project.rglob("*")) if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(project)): path.read_bytes().replace(uri, b"CHECKPOINT") for path in files}


def _without_places(text: str, checkpoint: Path, work: Path) -> str:
    """A message without folders of this machine."""
    text = text.replace(str(checkpoint.resolve()), checkpoint.name).replace(str(work), "")
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", ".../", text)
