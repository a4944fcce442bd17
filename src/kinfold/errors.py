"""Every error that Kinfold raises on purpose, in one tree.

    KinfoldError
    ├── RegistryError          a family, an arch or a registration
    ├── CardError              an asset card: missing, malformed, contradicting itself
    ├── ConfigError            a config or a spec whose numbers do not fit together
    ├── CheckpointError        a file that is no checkpoint, is damaged or is unsafe
    │   └── UnsupportedError   a sound checkpoint that holds something not understood
    ├── KeyMapError            a rule that is malformed or does not fit its config
    │   └── CertificateError   a key map that does not explain a checkpoint in full
    ├── GenerationError        sampling parameters or a prompt that cannot be decoded
    ├── TokenizerError         a checkpoint without a tokenizer that can be read
    ├── TrainingError          a run of training that cannot begin, or cannot go on
    ├── ParallelError          ranks that do not fit, or a model that cannot be spread over them
    │   └── RankError          a rank that has died, hangs or has failed
    ├── ProjectError           a project folder: missing, malformed, in the way
    │   ├── WiringError        a registry or a loader that cannot be edited safely
    │   └── TransactionError   files that changed under a commit, or lie outside its root
    └── ProofError             a proof that could not be carried out

Each is built from a summary and, where several things are wrong at once, the list of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class KinfoldError(Exception):
    """The base of all errors.

    Args:
        summary: What is wrong, with the value and the place.
        faults: Every single fault, where there are several; each on a line of its own.
        hint: What would be right, or what to do next.
    """

    def __init__(self, summary: str, *, faults: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(summary)
        self.summary = summary
        self.faults = tuple(faults)
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.summary, *(f"  - {fault}" for fault in self.faults)]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class RegistryError(KinfoldError):
    """A family, an arch or a registration that does not exist or exists twice."""


class CardError(KinfoldError):
    """An asset card that is missing, malformed or contradicts itself."""


class ConfigError(KinfoldError):
    """A config or a spec whose numbers do not fit together."""


class CheckpointError(KinfoldError):
    """A file that is no checkpoint, is damaged, or is unsafe to read."""


class UnsupportedError(CheckpointError):
    """A sound checkpoint that holds something Kinfold does not understand."""


class KeyMapError(KinfoldError):
    """A rule of a key map that is malformed or does not fit its config."""


class CertificateError(KeyMapError):
    """A key map that does not explain a checkpoint, or a model, in full."""


class GenerationError(KinfoldError):
    """Sampling parameters, or a prompt, that cannot be decoded with."""


class TokenizerError(KinfoldError):
    """A checkpoint without a tokenizer that can be read."""


class TrainingError(KinfoldError):
    """A run of training that cannot begin, or cannot go on."""


class ParallelError(KinfoldError):
    """Ranks that do not fit, or a model that cannot be spread over them."""


class RankError(ParallelError):
    """A rank that has died, hangs or has failed, so that the others cannot go on."""


class ProjectError(KinfoldError):
    """A project folder that is missing, malformed or in the way."""


class WiringError(ProjectError):
    """A registry file, or a family's `loader.py`, that cannot be edited safely."""


class TransactionError(ProjectError):
    """Files that changed under a commit, or that lie outside its root."""


class ProofError(KinfoldError):
    """A proof that could not be carried out (not one that failed)."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A hint that names the known names closest to a wrong one, or lists them when none is close."""
    known = sorted(known)
    longer = [candidate for candidate in known if f"_{name}_" in f"_{candidate}_"]
    if close := [*dict.fromkeys([*longer, *get_close_matches(name, known)])][:3]:
        return f"Did you mean {' or '.join(repr(candidate) for candidate in close)}?"
    return f"Known: {', '.join(known)}." if known else None
