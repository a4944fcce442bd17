"""A text to learn, a tokenizer for it, and what runs a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from kinfold.scaffold.cli.main import scaffold

TEXT = "".join(
    f"Verse {number}: the {animal} went up the hill to see what the {animal} could see.\n"
    for number, animal in enumerate(["bear", "fox", "owl", "hare", "newt", "crow", "mole", "toad"] * 4)
)
SPECIAL = ("<pad>", "<s>", "</s>")
VOCAB_SIZE = 320
SIZES = {
    "model_dim": 64,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1,
    "vocab_size": VOCAB_SIZE,
    "max_seq_len": 128,
}
"""Those of `tiny.SIZES`, as the shipped family calls them."""


def write_tokenizer(folder: Path, *, special: tuple[str, ...] = SPECIAL, template: str = "<s> $A") -> Path:
    """Write the tokenizer.json of a byte-level BPE that learned from `TEXT`.

    Args:
        folder: Where to.
        special: Its first tokens.
        template: What it puts around a text.
    """
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(  # pyright: ignore
        vocab_size=VOCAB_SIZE,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([TEXT], trainer)
    numbers = [(token, special.index(token)) for token in template.split() if token in special]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=numbers)  # pyright: ignore
    backend.save(str(folder / "tokenizer.json"))
    return folder


def write_rows(path: Path, *rows: dict[str, str]) -> str:
    """Write a file of JSONL, and give its name."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights that came out of a run."""
    return load_file(folder / "model" / "model.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs took the same steps to the same weights, bit for bit."""
    assert metrics(one) == metrics(other)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def call(*arguments: Any, status: int = 0) -> str:
    """What `scaffold` prints."""
    done = CliRunner().invoke(scaffold, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if "second" not in key} for line in lines]


def losses(folder: Path) -> list[float]:
    """The losses of training."""
    return [row["loss"] for row in metrics(folder) if row["kind"] == "train"]
