"""Reading the spec of a family out of a checkpoint, each fact with its evidence.

Shapes outrank config keys, config keys outrank assumptions; a contradiction is an error, and so is a tensor that
nothing explains or a config key that is not understood, all listed at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kinfold.checkpoint import Checkpoint
from kinfold.errors import UnsupportedError
from kinfold.scaffold.keymap.render import key_map_faults, key_map_rules
from kinfold.scaffold.reading.arrangement import note_arrangement
from kinfold.scaffold.reading.assumptions import note_assumptions
from kinfold.scaffold.reading.config import Config, left_over, note_config, plain_config
from kinfold.scaffold.reading.ends import note_ends, settle_ends
from kinfold.scaffold.reading.facts import Answer, Fact, Findings, Question, answered
from kinfold.scaffold.reading.kinds import note_windows, thetas
from kinfold.scaffold.reading.layers import note_layers, settle_layers
from kinfold.scaffold.reading.mapping import GATE_LAYOUTS, QKV_LAYOUTS, Storage, map_rules
from kinfold.scaffold.reading.positions import note_positions
from kinfold.scaffold.reading.roles import Roles, find_roles
from kinfold.scaffold.reading.rope import CONFIG_KEYS as ROPE_KEYS
from kinfold.scaffold.reading.rope import SCALING_PREFIX
from kinfold.scaffold.spec.schema import KeyMapSpec, Layout, Spec, check_spec
from kinfold.scaffold.spec.sizes import Arch, Sizes

_SECTIONS = ("attention", "ffn", "norm", "residual", "position", "embedding", "output")


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
        return _spec(self)

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a fact, or `default` where it is not known."""
        return self.facts[name].value if name in self.facts else default

    def with_answer(self, answer: Answer, evidence: str = "assumed: tried") -> Reading:
        """The same with other values of some facts."""
        return replace(self, facts=answered(self.facts, answer, evidence))


def read_checkpoint(checkpoint: Checkpoint, *, allow_open: bool = False) -> Reading:
    """What a checkpoint says of the family that it is of.

    Args:
        checkpoint: The checkpoint.
        allow_open: Go on where config keys or tensors are not understood; they are in `leftovers` then.

    Raises:
        UnsupportedError: Lists everything in the checkpoint that is not understood or contradicts itself.
    """
    config = plain_config(checkpoint)
    findings = Findings()
    roles = find_roles(checkpoint)
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
        arch=size_label(sum(info.numel for info in checkpoint.manifest.values())),
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
    scaling = {key for key in config if key.startswith(SCALING_PREFIX)}
    return frozenset({*ROPE_KEYS, *scaling, "rope_interleave"})


def _is_reference(roles: Roles) -> bool:
    embed = roles.leaf("embed")
    return embed is not None and embed.pattern == "tok_embeddings.weight"


def _spec(reading: Reading) -> Spec:
    """The spec that facts say; what they do not say stays as the schema has it."""
    value = reading.value
    tree: dict[str, Any] = {section: {} for section in _SECTIONS}
    sizes: dict[str, Any] = {}
    for name, fact in reading.facts.items():
        section, _, field = name.partition(".")
        if section in tree:
            tree[section][field] = fact.value
        elif name in Sizes.__struct_fields__:
            sizes[name] = fact.value
    norms = tree["attention"].get("qk_norm")
    if isinstance(norms, Mapping):
        weight = tree["norm"].get("weight", "plain")
        norms = {"weight": "plain" if weight == "none" else weight, **norms}
        tree["attention"]["qk_norm"] = True if norms == _USUAL_QK_NORM else norms
    if tree["norm"].get("final") is (tree["norm"].get("order") != "post") or tree["norm"].get("weight") == "none":
        tree["norm"].pop("final", None)
    if value("position.kind") == "rotary" and value("rope_theta") is not None:
        sizes["rope_theta"] = thetas(value)
        if sizes["rope_theta"] == 0:
            tree["position"] = {"kind": "none"}
            sizes = {name: size for name, size in sizes.items() if not name.startswith(("rope_", "rotary_"))}
        elif value("position.scaled_layers") == "full":
            _drop_scaling_of_no_layer(tree, sizes, value)
    if value("embedding_dim") == value("model_dim"):
        sizes.pop("embedding_dim", None)
    if value("sliding_window") is None:
        sizes.pop("window_pattern", None)
    spec = msgspec.convert({"description": reading.description, **tree}, Spec)
    spec = msgspec.structs.replace(spec, archs={reading.arch: Arch(**sizes)})
    return _with_key_map(spec, reading)


def _drop_scaling_of_no_layer(tree: dict[str, Any], sizes: dict[str, Any], value: Any) -> None:
    """Leave out scaling for layers without a window where all have one, and the distinction where none has one."""
    has_window = value("sliding_window") is not None
    if has_window and False in value("window_pattern", (True,)):
        return
    tree["position"].pop("scaled_layers")
    if has_window:
        sizes.pop("rope_scaling", None)


def _with_key_map(spec: Spec, reading: Reading) -> Spec:
    """The spec with its key map: in a few words where the names are the usual ones, else rule by rule."""
    value = reading.value
    storage = Storage(
        interleaved=value("rotary_pairs") == "interleaved",
        transposed=value("transposed", False),
        qkv_layout=value("qkv_layout", QKV_LAYOUTS[0]),
        gate_layout=value("gate_layout", GATE_LAYOUTS[0]),
        repeats_embedding=value("repeats_embedding", False),
    )
    rules = tuple(rule.text for rule in map_rules(reading.roles, spec, storage))
    short = KeyMapSpec(
        rotary_pairs=value("rotary_pairs", "halves"),
        repeats_embedding=storage.repeats_embedding,
        drop={**reading.roles.recomputed},
    )
    # Hugging Face's layout is written by any family, from whatever kind of file it was made.
    hf = {} if reading.layout == "hf" else {"hf": KeyMapSpec()}
    usual = msgspec.structs.replace(spec, key_maps={reading.layout: short, **hf})
    if not list(key_map_faults(usual)) and sorted(key_map_rules(usual, reading.layout)) == sorted(rules):
        return usual
    return msgspec.structs.replace(spec, key_maps={reading.layout: KeyMapSpec(rules=rules), **hf})


_USUAL_QK_NORM = {"weight": "plain", "kind": "rms", "over": "head", "bias": False, "after_position": False}
