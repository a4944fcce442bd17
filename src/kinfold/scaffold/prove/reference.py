"""References: logits that another implementation computed from the same weights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from kinfold.checkpoint import open_checkpoint
from kinfold.errors import KinfoldError, ProofError

MODULE_PREFIX = "module."
"""Before the name of one of our modules: the tensor is what the reference has in its place."""


FOREIGN_PREFIX = "foreign."
"""Before the name of one of the reference's own modules: what it gave."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference computed.

    Attributes:
        token_ids: int64, (batch, seq).
        logits: Floating, (batch, seq, vocab).
        modules: Outputs, (batch, seq, width), by the names of our modules in the order of the computation.
        origin: Where it is from, for messages.
        source_ids: int64, (batch, source seq), for an encoder and decoder, whose target `token_ids` are then.
        foreign: Outputs by the names of the reference's modules, which are those of the checkpoint's tensors.
    """

    token_ids: Tensor
    logits: Tensor
    origin: str
    modules: Mapping[str, Tensor] = field(default_factory=dict)
    source_ids: Tensor | None = None
    foreign: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a model of ours is called with."""
        return (self.token_ids,) if self.source_ids is None else (self.source_ids, self.token_ids)

    def shortened(self, seq_len: int) -> Reference:
        """The first sequence alone, and of it so many tokens; only for decoders that look back."""
        source_ids = None if self.source_ids is None else self.source_ids[:1]
        return Reference(self.token_ids[:1, :seq_len], self.logits[:1, :seq_len], self.origin, {}, source_ids)


def read_reference(path: Path) -> Reference:
    """The reference in a safetensors file with `token_ids`, `logits`, maybe `source_ids`, and any `module.NAME`."""
    with open_checkpoint(path) as file:
        tensors = {name: file.tensor(name, mmap=False) for name in file.manifest}
    faults = [f"there is no tensor {name!r}" for name in ("token_ids", "logits") if name not in tensors]
    if not faults and tensors["logits"].shape[:-1] != tensors["token_ids"].shape:
        shapes = (tuple(tensors[name].shape) for name in ("token_ids", "logits"))
        faults.append("token_ids {} and logits {} do not go together".format(*shapes))
    if faults:
        raise ProofError(f"{path} is no reference:", faults=faults)
    modules, foreign = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in (MODULE_PREFIX, FOREIGN_PREFIX)
    )
    source_ids = tensors["source_ids"].long() if "source_ids" in tensors else None
    return Reference(tensors["token_ids"].long(), tensors["logits"], path.name, modules, source_ids, foreign)


def run_transformers(checkpoint: Path, *, dtype: str) -> Reference:
    """What transformers computes from the same checkpoint, in a process of its own.

    Raises:
        ProofError: transformers is missing, or cannot load the checkpoint; with what it said.
    """
    if find_spec("transformers") is None:
        raise ProofError("transformers is not installed.", hint="pip install 'kinfold[verify]'")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "reference.safetensors")
        command = [sys.executable, "-m", f"{__package__}.transformers_oracle", str(checkpoint), str(out), dtype]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode or not out.exists():
            said = result.stderr.strip().splitlines()[-8:] or [f"exit status {result.returncode}"]
            raise ProofError(f"transformers could not run {checkpoint}:", faults=said)
        try:
            reference = read_reference(out)
        except KinfoldError as error:
            raise ProofError(f"transformers gave no usable reference: {error}") from error
    return replace(reference, origin="transformers")
