"""Reading the spec of a family out of a checkpoint, each fact with its evidence.

Shapes outrank config keys, config keys outrank assumptions; a contradiction is an error, and so is a tensor that
nothing explains or a config key that is not understood, all listed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kinfold.checkpoint import Checkpoint, total_numel
from kinfold.errors import UnsupportedError
from kinfold.scaffold.reading.additions import Additions
from kinfold.scaffold.reading.arrangement import note_arrangement
from kinfold.scaffold.reading.assumptions import note_assumptions
from kinfold.scaffold.reading.build import build_spec
from kinfold.scaffold.reading.config import Config, left_over, note_config, plain_config
from kinfold.scaffold.reading.ends import note_ends, settle_ends
from kinfold.scaffold.reading.facts import Answer, Fact, Findings, Question, answered
from kinfold.scaffold.reading.kinds import note_windows
from kinfold.scaffold.reading.layers import note_layers, settle_layers
from kinfold.scaffold.reading.positions import note_positions
from kinfold.scaffold.reading.roles import Roles, find_roles, misshapen
from kinfold.scaffold.reading.rope import CONFIG_KEYS as ROPE_KEYS
from kinfold.scaffold.reading.rope import SCALING_PREFIX
from kinfold.scaffold.spec.schema import Layout, Spec, check_spec


@dataclass(frozen=True, slots=True)
class Reading:
    """What a checkpoint says.

    Attributes:
        facts: Every fact, by its name.
        questions: What is open.
        roles: What its tensors are.
        layout: The layout of its names.
        arch: What its arch is called.
        description: What it calls itself.
        place: Where it lies, for messages.
        leftovers: What was not understood.
        search: What a reference said.
    """

    facts: Mapping[str, Fact]
    questions: tuple[Question, ...]
    roles: Roles
    layout: Layout
    arch: str
    description: str
    place: str
    leftovers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()

    @property
    def spec(self) -> Spec:
        """The spec of the family."""
        return build_spec(self.facts, self.roles, layout=self.layout, arch=self.arch, description=self.description)

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a fact, or `default` where it is not known."""
        return self.facts[name].value if name in self.facts else default

    def with_answer(self, answer: Answer, evidence: str = "assumed: tried") -> Reading:
        """The same with other values of some facts."""
        return replace(self, facts=answered(self.facts, answer, evidence))


def read_checkpoint(checkpoint: Checkpoint, *, additions: Additions | None = None, allow_open: bool = False) -> Reading:
    """What a checkpoint says of the family that it is of.

    Args:
        checkpoint: The checkpoint.
        additions: What a project teaches besides the standard tables.
        allow_open: Go on where config keys or tensors are not understood; they are in `leftovers` then.

    Raises:
        UnsupportedError: Lists everything in the checkpoint that is not understood or contradicts itself.
    """
    additions = additions or Additions()
    config = additions.applied(plain_config(checkpoint))
    findings = Findings()
    roles = find_roles(checkpoint, additions.vocabulary)
    findings.faults += misshapen(roles)
    if not findings.faults:
        settle_ends(roles)
        settle_layers(roles)
        note_ends(roles, checkpoint, findings)
    if not findings.faults:
        note_layers(roles, config, findings)
    note_config(config, findings)
    note_windows(config, findings)
    if not findings.faults:
        _note_the_rest(roles, checkpoint, config, findings)
    leftovers = [*roles.leftovers, *findings.leftovers, *left_over(config, _read_elsewhere(config))]
    faults = findings.faults + ([] if allow_open else leftovers)
    if faults:
        hint = None if findings.faults else "`--allow-open` goes on without what is not understood."
        raise UnsupportedError(f"{checkpoint.path} is not understood in full:", faults=faults, hint=hint)
    reading = Reading(
        facts=findings.facts,
        questions=tuple(findings.questions),
        roles=roles,
        layout="gguf" if checkpoint.layout == "gguf" else "reference" if _is_reference(roles) else "hf",
        arch=size_label(total_numel(checkpoint.manifest)),
        description=str(config.get("general.name", "")),
        place=str(checkpoint.path),
        leftovers=tuple(leftovers),
    )
    check_spec(reading.spec, place=reading.place)
    return reading


def size_label(num_parameters: int) -> str:
    """A number of parameters as archs are called by: 134515008 gives `135m`, 1235814400 gives `1.2b`."""
    for unit, scale in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if num_parameters >= scale:
            count = num_parameters / scale
            return f"{count:.1f}".removesuffix(".0") + unit if count < 10 else f"{count:.0f}{unit}"
    return f"{num_parameters}"


def _note_the_rest(roles: Roles, checkpoint: Checkpoint, config: Config, findings: Findings) -> None:
    note_arrangement(roles, findings)
    note_positions(roles, config, findings)
    note_assumptions(roles, checkpoint, config, findings)


def _read_elsewhere(config: Config) -> frozenset[str]:
    return ROPE_KEYS | {key for key in config if key.startswith(SCALING_PREFIX)}


def _is_reference(roles: Roles) -> bool:
    embed = roles.leaf("embed")
    return embed is not None and embed.pattern == "tok_embeddings.weight"
