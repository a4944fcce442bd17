"""The tensors of a checkpoint, seen as the modules they belong to, by what the words in their names mean.

The words are those of `keymap/inference/vocabulary.yaml`; no name of a family is in there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.keymap.inference.words import Meaning, Vocabulary
from kinfold.scaffold.keymap.layouts import RECOMPUTED
from kinfold.scaffold.keymap.parameters import LAMBDAS
from kinfold.scaffold.reading.tensors import Leaf, leaves_of


@dataclass
class Module:
    """The parameters of one module.

    Attributes:
        pattern: What comes before the names of its parameters.
        order: Of a norm, where its name says that it stands in a layer.
        leaves: Its parameters, by what they are: "weight", "bias".
    """

    pattern: str
    order: int | None = None
    leaves: dict[str, Leaf] = field(default_factory=dict)

    @property
    def weight(self) -> Leaf:
        """The weight, or whatever it has."""
        return self.leaves.get("weight") or next(iter(self.leaves.values()))

    @property
    def layers(self) -> set[int]:
        """The layers that have it."""
        return set(self.weight.shapes)


@dataclass
class Roles:
    """The modules of a checkpoint by what they do.

    Attributes:
        layers: The numbers of the layers.
        modules: Those with a role of their own; in layers as `layer.q`.
        norms: The norms of a layer that stand for themselves, in their order.
        inner_norms: Norms inside attention and feed-forward, by the place they are in.
        others: Modules whose names do not say enough, by place: "ffn", "attn", "top".
        recomputed: Patterns of tensors that follow from the config, to the reason for dropping them.
        leftovers: Tensors that nothing explains.
    """

    layers: set[int] = field(default_factory=set)
    modules: dict[str, Module] = field(default_factory=dict)
    norms: list[Module] = field(default_factory=list)
    inner_norms: dict[str, Module] = field(default_factory=dict)
    others: dict[str, list[Module]] = field(default_factory=lambda: defaultdict(list))
    recomputed: dict[str, str] = field(default_factory=dict)
    leftovers: list[str] = field(default_factory=list)

    def leaf(self, role: str, kind: str = "weight") -> Leaf | None:
        """A parameter of the module with this role; None if there is none."""
        module = self.modules.get(role)
        return module.leaves.get(kind) if module else None

    def take(self, role: str, module: Module) -> None:
        """Give a module a role."""
        self.modules[role] = module


def find_roles(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Roles:
    """The roles of all tensors of a checkpoint, by what words mean."""
    roles = Roles()
    leaves = leaves_of(checkpoint.manifest)
    roles.layers = {layer for leaf in leaves for layer in leaf.shapes if layer >= 0}
    for leaf in leaves:
        reason = _RECOMPUTED.get(leaf.pattern) or vocabulary.why_recomputed(leaf.pattern) or _constant(leaf)
        if reason:
            roles.recomputed[leaf.pattern] = reason
            continue
        meaning = vocabulary.meaning(leaf.pattern.replace("{layer}", "{}").replace("{head}", "{}"))
        unsupported = next((what for concept, what in UNSUPPORTED.items() if concept in meaning.features), "")
        if unsupported:
            roles.leftovers.append(f"tensor {leaf.evidence}: belongs to {unsupported}, which is not supported")
            continue
        _file(roles, leaf, meaning)
    roles.leftovers = _shortened(roles.leftovers)
    roles.norms.sort(key=lambda norm: (norm.order is None, norm.order))
    roles.leftovers += _faults_of_layers(roles)
    return roles


def misshapen(roles: Roles) -> list[str]:
    """A fault for every parameter with another number of dimensions than it has in any decoder."""
    faults = []
    for role, module in roles.modules.items():
        name = role.removeprefix("layer.")
        for kind, leaf in module.leaves.items():
            dims = 1 if kind == "bias" else _DIMS.get(name, len(leaf.shape))
            if len(leaf.shape) != dims and not (kind == "weight" and name in _OF_EACH_HEAD and len(leaf.shape) == 2):
                expected = "2 dimensions were" if dims == 2 else "1 dimension was"
                faults.append(f"tensor {leaf.evidence}: {expected} expected")
    for norm in roles.norms:
        faults += [f"tensor {x.evidence}: 1 dimension was expected" for x in norm.leaves.values() if len(x.shape) != 1]
    return faults


_DIMS = {
    **dict.fromkeys(("embed", "position", "output", "q", "k", "v", "qkv", "o", "ffn_gate", "up", "down"), 2),
    **dict.fromkeys(("gate_up", "up_gate", "q_down", "q_up", "kv_down", "kv_up", "mask_proj"), 2),
    **dict.fromkeys(("cross_q", "cross_k", "cross_v", "cross_o"), 2),
    **dict.fromkeys(("final_norm", "embed_norm", "output_norm", "q_norm", "k_norm", "sinks", "cross_norm"), 1),
    **dict.fromkeys(("q_latent_norm", "kv_latent_norm", "mask_rate", "attn_residual", "ffn_residual"), 1),
    **dict.fromkeys(LAMBDAS, 1),
}
_OF_EACH_HEAD = frozenset({"q_norm", "k_norm"})

UNSUPPORTED: Mapping[str, str] = {
    "expert": "a mixture of experts",
    "router": "a mixture of experts",
    "ssm": "a recurrent mixer",
    "conv": "a convolution",
    "lerp": "a recurrent mixer",
    "vision": "a vision tower",
    "audio": "an audio tower",
    "segment": "segments of a sequence, as encoders have them",
    "'decay'": "a recurrent mixer",
}
"""Concepts of tensors that no dense decoder has, and what they are of."""

_RECOMPUTED = {pattern: reason for patterns in RECOMPUTED.values() for pattern, reason in patterns.items()}

_OF_LAYER: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (role, frozenset(features.split()))
    for role, features in (
        ("cross_norm", "cross norm"),
        ("cross_q", "cross q"),
        ("cross_k", "cross k"),
        ("cross_v", "cross v"),
        ("cross_o", "cross o"),
        ("sinks", "sink"),
        ("lambda", "'lambda'"),
        ("q_latent_norm", "norm q 'a'"),
        ("q_norm", "norm q"),
        ("k_norm", "norm k"),
        ("kv_latent_norm", "norm kv"),
        ("norm", "norm"),
        ("residual", "'residual'"),
        ("q_down", "q 'a'"),
        ("q_up", "q 'b'"),
        ("kv_down", "kv 'a'"),
        ("kv_up", "kv 'b'"),
        ("mask_proj", "attn 'dt'"),
        ("qkv", "qkv"),
        ("q", "q"),
        ("k", "k"),
        ("v", "v"),
        ("gate", "z attn"),
        ("gate_up", "gate_up"),
        ("up_gate", "up_gate"),
        ("ffn_gate", "gate ffn"),
        ("up", "up"),
        ("down", "down"),
        ("activation", "'act' ffn"),
        ("o", "o attn"),
        ("mask_rate", "attn 'a'"),
        ("attn", "attn"),
        ("ffn", "ffn"),
    )
)
"""The roles of modules in layers, and what a name has to say for them; the first that fits counts."""

_OF_TOP: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (role, frozenset(features.split()))
    for role, features in (
        ("output_norm", "norm head"),
        ("embed_norm", "norm embed"),
        ("final_norm", "norm"),
        ("position", "position"),
        ("segment", "segment"),
        ("embed", "embed token"),
        ("output", "head"),
    )
)
"""The roles of modules outside the layers."""


def _file(roles: Roles, leaf: Leaf, meaning: Meaning) -> None:
    """Put a parameter where its name says that it belongs."""
    in_layer = "{layer}" in leaf.pattern
    pattern, _, last = leaf.pattern.rpartition(".")
    kind = meaning.leaf or "weight"
    if kind == "bias" and last != "bias" and last not in ("b", "beta"):  # attention.dense_bias
        pattern, kind = leaf.pattern.removesuffix("_bias"), "bias"
    elif not meaning.leaf:
        pattern = leaf.pattern
    role = next((role for role, needed in (_OF_LAYER if in_layer else _OF_TOP) if needed <= meaning.features), "")
    if role in ("lambda", "activation"):  # of which there are several, each with a name of its own
        roles.take(f"layer.{last}", Module(pattern, leaves={"weight": leaf}))
        return
    if role == "residual":
        role = "attn_residual" if "'input'" in meaning.features else "ffn_residual"
    _module(roles, pattern, role, meaning, in_layer=in_layer).leaves[kind] = leaf


def _module(roles: Roles, pattern: str, role: str, meaning: Meaning, *, in_layer: bool) -> Module:
    """The module of this pattern, filed under its role."""
    module = next((module for module in _all(roles) if module.pattern == pattern), None)
    if module is not None:
        return module
    module = Module(pattern, meaning.order)
    if in_layer and role == "norm":
        roles.norms.append(module)
    elif not role or role in ("attn", "ffn"):
        roles.others[role or ("layer" if in_layer else "top")].append(module)
    else:
        key = f"layer.{role}" if in_layer else role
        if key in roles.modules:
            roles.others[key].append(module)
        else:
            roles.modules[key] = module
    return module


def _all(roles: Roles) -> Iterator[Module]:
    yield from roles.modules.values()
    yield from roles.norms
    for modules in roles.others.values():
        yield from modules


def _constant(leaf: Leaf) -> str:
    """A causal mask that older checkpoints hold."""
    shape = leaf.shape
    return "a constant mask" if len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3] else ""


def _shortened(leftovers: list[str]) -> list[str]:
    """Leftovers of the same kind as one line."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for text in leftovers:
        by_reason[text.rpartition(": ")[2]].append(text)
    return [
        texts[0] + (f" (and {len(texts) - 1} more such patterns)" if len(texts) > 1 else "")
        for texts in by_reason.values()
    ]


def _faults_of_layers(roles: Roles) -> list[str]:
    """Layers that are missing, and parameters whose shapes differ between layers."""
    faults = []
    if gaps := sorted(set(range(max(roles.layers, default=-1) + 1)) - roles.layers):
        faults.append(f"layers {gaps} are missing between 0 and {max(roles.layers)}")
    for module in _all(roles):
        for leaf in module.leaves.values():
            by_shape = {shape: layer for layer, shape in sorted(leaf.shapes.items())}
            if len(by_shape) > 1:
                found = ", ".join(f"layer {layer} {shape}" for shape, layer in by_shape.items())
                faults.append(f"{leaf.pattern}: shapes differ: {found}")
    return faults
