"""The rows of the table. Each function prepares what its commands need, and gives the row."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import computing
import scaling
from fixtures import BENCH, SCAFFOLD, TOP, checkpoint_1b, family, project, smollm2
from measure import Command, Row, timed

from kinfold.scaffold.wire import remove_family

PYTHON = sys.executable
PEER = str(Path(PYTHON).parent)
TESTS = TOP / "tests"


OURS = """
    from kinfold import load_model
    from kinfold.scaffold.project import require_project
    require_project().activate()
    load_model.get({family!r})
"""
THEIRS = """
    import torch
    from transformers import AutoModelForCausalLM
"""


DEEPSEEK = """
    from deepseek import checkpoint, key_map, regular_expressions
    source = checkpoint()
    target = key_map().bind().target_manifest(source)
"""


SHARDS = """
    import os
    from pathlib import Path
    files = list(Path("{folder}").glob("*-of-*"))
"""


def help_() -> Row:
    """The start-up of the command line."""
    return Row(
        "`--help`",
        Command("scaffold", [SCAFFOLD, "--help"], TOP),
        [
            Command("transformers", [f"{PEER}/transformers", "--help"], TOP),
            Command("copier", [f"{PEER}/copier", "--help"], TOP),
        ],
        "<= 0.15 s",
    )


def new_family() -> Row:
    """A family from the default spec: rendered, formatted, wired, certified."""
    folder = project()
    lines = remove_family((folder / "benchlab" / "registry.py").read_bytes(), "fresh")  # of an earlier run

    def clean() -> None:
        (folder / "benchlab" / "registry.py").write_bytes(lines)
        for path in (folder / "benchlab" / "fresh", folder / ".kinfold" / "fresh"):
            shutil.rmtree(path, ignore_errors=True)
        for path in (folder / "benchlab" / "cards" / "fresh.yaml", folder / "tests" / "test_fresh.py"):
            path.unlink(missing_ok=True)

    return Row(
        "`scaffold new-family x`",
        Command("scaffold", [SCAFFOLD, "new-family", "fresh"], folder, before=clean),
        [Command("import torch alone", [PYTHON, "-c", "import torch"], folder)],
        "<= 3 s",
    )


def registry() -> Row:
    """The registry of 200 families."""
    folder = BENCH / "many"
    (folder / "many").mkdir(parents=True, exist_ok=True)
    (folder / "many" / "__init__.py").write_text("")
    table = {f"family_{number}": f"many.family_{number}" for number in range(200)}
    (folder / "many" / "registry.py").write_text(f"FAMILIES = {table!r}\n")
    code = (
        "from many.registry import FAMILIES; from kinfold.registry import families, model_factories; "
        "families.add(FAMILIES); assert len(model_factories.names()) >= 200"
    )
    return Row(
        "know 200 families",
        Command("kinfold", [PYTHON, "-c", code], folder),
        [Command("bare interpreter", [PYTHON, "-c", "pass"], folder)],
        "<= 50 ms over a bare interpreter",
        runs=9,
    )


def load_mapped() -> Row:
    """1.1 billion parameters in bfloat16, nothing to change."""
    checkpoint = checkpoint_1b()
    folder = family("llama_1b", checkpoint)
    read = "for f in files:\n    data = open(f, 'rb').read()"
    return Row(
        "2.2 GB bf16 checkpoint to a model, as it is",
        timed("kinfold", folder, OURS.format(family="llama_1b"), "model = load_model('llama_1b')"),
        [
            timed("transformers", folder, THEIRS,
                  f"AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, dtype=torch.bfloat16)"),
            timed("raw read", folder, SHARDS.format(folder=checkpoint), read),
        ],
        ">= 10 x transformers",
    )  # fmt: skip


def load_copied() -> Row:
    """The same, with every weight copied into fresh memory."""
    checkpoint = checkpoint_1b()
    folder = family("llama_1b", checkpoint)
    work = "model = load_model('llama_1b', mmap=False)"
    theirs = (
        f"model = AutoModelForCausalLM.from_pretrained({str(checkpoint)!r}, dtype=torch.bfloat16)\n"
        "for p in model.parameters(): p.data = p.data.clone()"
    )
    raw = "data = []\nfor f in files:\n    b = bytearray(os.path.getsize(f)); open(f, 'rb').readinto(b); data.append(b)"
    return Row(
        "the same, every weight in fresh memory",
        timed("kinfold", folder, OURS.format(family="llama_1b"), work),
        [
            timed("transformers", folder, THEIRS, theirs),
            timed("raw read", folder, SHARDS.format(folder=checkpoint), raw),
        ],
        "<= 1.1 x the raw read",
    )  # fmt: skip


def load_ranks() -> Row:
    """The same over ranks that share each tensor, nothing to change."""
    return _over_ranks("2.2 GB bf16 checkpoint to a model over ranks on one machine, as it is")


def load_ranks_copied() -> Row:
    """The same, with every part copied into fresh memory."""
    return _over_ranks("the same, every part in fresh memory", "--copied")


def _over_ranks(what: str, *options: str) -> Row:
    folder = family("llama_1b", checkpoint_1b())
    script = str(TESTS / "bench" / "ranks.py")

    def command(ranks: int) -> Command:
        read = subprocess.run([PYTHON, script, "llama_1b", str(ranks)], cwd=folder, check=True, capture_output=True)
        torchrun = [f"{PEER}/torchrun", "--standalone", "--nproc-per-node", str(ranks)]
        name = f"{ranks} rank{'s' * (ranks > 1)}, {int(read.stdout) / 1e6:.0f} MB read by each"
        return Command(name, [*torchrun, script, "llama_1b", *options], folder, inner=True)

    return Row(what, command(4), [command(1), command(2)], "read a quarter")


def load_gguf() -> Row:
    """SmolLM2 from its GGUF (Q4_1)."""
    path = smollm2()
    folder = family("smollm2", path)
    theirs = f"AutoModelForCausalLM.from_pretrained({str(path.parent)!r}, gguf_file={path.name!r})"
    return Row(
        "SmolLM2's GGUF to a model",
        timed("kinfold", folder, OURS.format(family="smollm2"), "model = load_model('smollm2')"),
        [timed("transformers", folder, THEIRS, theirs)],
        "<= 3 s",
        runs=3,
    )


def keymap_names() -> Row:
    """What each name in a checkpoint of DeepSeek-V3's size becomes."""
    loop = """
    import re
    def new_name(name):
        for pattern, replacement in table.items():
            if (new := re.sub(pattern, replacement, name)) != name:
                return new
        return name
    """
    normalised = """
    import re
    digits = re.compile("[0-9]+")
    table = {digits.sub("#", name): name for name in source}
    """
    return Row(
        "map the 90,427 names of DeepSeek-V3 in FP8",
        timed("kinfold, 37 rules", TESTS, DEEPSEEK, "names = key_map().bind().lookup(source)"),
        [
            timed("the loop of fairseq2, written anew, 22 regular expressions", TESTS, DEEPSEEK + loop,
                  "table = regular_expressions()\nnames = {name: new_name(name) for name in source}"),
            timed("digits normalised by `re.sub`, looked up", TESTS, DEEPSEEK + normalised,
                  "names = {name: table[digits.sub('#', name)] for name in source}"),
        ],
        ">= 20 x the loop",
    )  # fmt: skip


def keymap_infer() -> Row:
    """The same map, found by names and shapes."""
    setup = DEEPSEEK + "    from kinfold.scaffold.keymap.inference.infer import infer\n"
    work = "found = infer(source, target)\nassert sum(decision.sure for decision in found.decisions) == len(key_map())"
    return Row(
        "infer that map from names and shapes",
        timed("kinfold", TESTS, setup, work),
        [],
        "<= 2 s, 300 MB",
    )


def keymap_certificate() -> Row:
    """The certificate of the same map."""
    setup = DEEPSEEK + "    from kinfold.keymap import certify\n"
    work = "certificate = certify(key_map().bind(), source, target)\nassert certificate.holds"
    return Row("certify that map", timed("kinfold", TESTS, setup, work), [], "<= 1 s")


def convert() -> Row:
    """1.1 billion parameters in bfloat16, from the layout of transformers to ours, on disk."""
    checkpoint = checkpoint_1b()
    folder = family("llama_1b", checkpoint)
    converted = BENCH / "converted"

    def clean() -> None:
        shutil.rmtree(converted, ignore_errors=True)
        os.sync()  # nobody pays for what the one before has left to be written

    setup = OURS.format(family="llama_1b") + "    from kinfold.conversion import convert_checkpoint\n"
    work = f"convert_checkpoint({str(checkpoint)!r}, {str(converted)!r}, family='llama_1b')"
    return Row(
        "2.2 GB bf16 checkpoint to another layout on disk",
        replace(timed("kinfold", folder, setup, work), before=clean),
        [
            Command("cp -r", ["cp", "-r", str(checkpoint), str(converted)], BENCH, before=clean),
            Command(
                "cp -r, then sync as ours does",
                ["sh", "-c", f"cp -r '{checkpoint}' '{converted}' && sync -f '{converted}'"],
                BENCH,
                before=clean,
            ),
        ],
        "<= 1.3 x cp, 500 MB private",
        private=True,
    )


ROWS: dict[str, Callable[[], Row]] = {
    "help": help_,
    "new-family": new_family,
    "registry": registry,
    "load-mapped": load_mapped,
    "load-copied": load_copied,
    "load-ranks": load_ranks,
    "load-ranks-copied": load_ranks_copied,
    "load-gguf": load_gguf,
    **computing.ROWS,
    "keymap-names": keymap_names,
    "keymap-infer": keymap_infer,
    "keymap-certificate": keymap_certificate,
    "convert": convert,
    **scaling.ROWS,
}
