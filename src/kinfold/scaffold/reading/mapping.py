"""The rules from the tensors of a checkpoint to the parameters of the family that was read out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kinfold.keymap import chain, drop, rename, split, stack, tie, transpose
from kinfold.keymap.rules import Rule, Size
from kinfold.scaffold.keymap.parameters import LAMBDAS, OF_XIELU, native_parameters
from kinfold.scaffold.keymap.turning import turned
from kinfold.scaffold.reading.roles import Module, Roles
from kinfold.scaffold.reading.tensors import Leaf
from kinfold.scaffold.spec.schema import Spec

QKV_LAYOUTS = ("q, k, v", "q, k, v by key-value heads", "q, v, k in 4 parts")
"""How a fused projection of queries, keys and values may lie; the last as in CodeGen, made for four devices."""

GATE_LAYOUTS = ("gate, up", "up, gate")
"""How a fused projection of a feed-forward network may lie."""

_ENDS = {
    "embed": "decoder_frontend.embed",
    "project_in": "decoder_frontend.project",
    "position": "decoder_frontend.position",
    "embed_norm": "decoder_frontend.norm",
    "final_norm": "decoder.layer_norm",
    "project_out": "project_out",
    "transform": "transform.proj",
    "output_norm": "transform.norm",
    "output": "final_proj",
}
"""Roles outside the layers, and the modules of ours."""

_LAYER = "decoder.layers.{layer}."
_ATTENTION = {
    "q": "q_proj", "k": "k_proj", "v": "v_proj", "q_norm": "q_norm", "k_norm": "k_norm", "sinks": "sinks",
    "gate": "gate_proj", "gate_bias": "gate_bias", "mask_proj": "dynamic_mask.proj",
    "q_down": "q_down_proj", "q_latent_norm": "q_latent_norm",
    "q_up": "q_up_proj", "kv_down": "kv_down_proj", "kv_latent_norm": "kv_latent_norm", "kv_up": "kv_up_proj",
    "o": "output_proj",
}  # fmt: skip
_CROSS = {
    **{f"cross_{name}": f"encoder_decoder_attn.{name}_proj" for name in ("q", "k", "v")},
    "cross_o": "encoder_decoder_attn.output_proj",
    "cross_norm": "encoder_decoder_attn_layer_norm",
}
_FEED_FORWARD = {"ffn_gate": "gate_proj", "up": "inner_proj", "down": "output_proj"}
_INNER_NORMS = {"attn": "self_attn.output_norm", "ffn": "ffn.inner_norm"}
_PARTS = frozenset({f"{_LAYER}self_attn.gate_bias"})
"""Parts whose one parameter may be called a bias there."""
_BARE = {
    **{name: name for name in LAMBDAS},
    "mask_rate": "dynamic_mask.rate",
}
"""Parameters that are no module's weight."""
_RESIDUALS = {"attn_residual": "self_attn_residual", "ffn_residual": "ffn_residual"}
_NORMS = {
    "pre": ("self_attn_layer_norm", "ffn_layer_norm"),
    "post": ("self_attn_layer_norm", "ffn_layer_norm"),
    "output": ("self_attn_layer_norm", "ffn_layer_norm"),
    "both": ("self_attn_layer_norm", "self_attn_output_layer_norm", "ffn_layer_norm", "ffn_output_layer_norm"),
}
"""Norms of a layer from front to back, by their order."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How a checkpoint stores what the structure does not say.

    Attributes:
        interleaved: Neighbouring dimensions of a head turn together.
        transposed: Matrices in layers are (in, out).
        qkv_layout: How a fused projection lies, one of `QKV_LAYOUTS`.
        gate_layout: Likewise of the feed-forward network, one of `GATE_LAYOUTS`.
        repeats_embedding: The embedding is stored again as the output projection.
    """

    interleaved: bool = False
    transposed: bool = False
    qkv_layout: str = QKV_LAYOUTS[0]
    gate_layout: str = GATE_LAYOUTS[0]
    repeats_embedding: bool = False


def map_rules(roles: Roles, spec: Spec, storage: Storage) -> list[Rule]:
    """The rules of the key map of a checkpoint.

    Args:
        roles: Its tensors.
        spec: The structure that was read out of it; its key maps do not count.
        storage: How the tensors are stored.
    """
    rules = [
        _leaf_rule(leaf, f"{native}.{'weight' if native in _PARTS else kind}", spec, storage)
        for module, native in _plain_modules(roles, spec)
        for kind, leaf in module.leaves.items()
    ]
    rules += _fused_rules(roles, spec, storage)
    rules += _bare_rules(roles)
    place = {native: number for number, native in enumerate(native_parameters(spec))}
    rules.sort(key=lambda rule: min(place.get(str(target), len(place)) for target in rule.targets))
    output, embed = roles.leaf("output"), roles.leaf("embed")
    if storage.repeats_embedding and output is not None and embed is not None:
        rules = [rule for rule in rules if str(rule.sources[0]) != output.pattern]
        rules.append(tie(output.pattern, to=embed.pattern))
    return [*rules, *(drop(pattern, reason=reason) for pattern, reason in roles.recomputed.items())]


def module_names(roles: Roles, spec: Spec) -> Iterator[tuple[str, str]]:
    """The modules of the checkpoint that give what one of ours gives, and ours, layer by layer."""
    found = [
        (module.pattern, native)
        for module, native in _plain_modules(roles, spec)
        if native.rpartition(".")[2] not in _REORDERED
    ]
    for theirs, ours in found:
        if "{layer}" not in theirs:
            yield theirs, ours
    for layer in sorted(roles.layers):
        for theirs, ours in found:
            if "{layer}" in theirs:
                yield theirs.replace("{layer}", str(layer)), ours.replace("{layer}", str(layer))


_REORDERED = frozenset({"embed", "q_proj", "k_proj", "q_norm", "k_norm", "q_up_proj", "kv_down_proj"})
"""Modules of ours that may give the same in another order, or scaled."""


def _plain_modules(roles: Roles, spec: Spec) -> Iterator[tuple[Module, str]]:
    """The modules that are one of ours each, and its name."""
    for role, native in _ENDS.items():
        if role in roles.modules:
            yield roles.modules[role], native
    for role, native in _ATTENTION.items():
        if f"layer.{role}" in roles.modules:
            yield roles.modules[f"layer.{role}"], f"{_LAYER}self_attn.{native}"
    for role, native in _CROSS.items():
        if f"layer.{role}" in roles.modules:
            yield roles.modules[f"layer.{role}"], _LAYER + native
    for role, native in _FEED_FORWARD.items():
        if f"layer.{role}" in roles.modules:
            yield roles.modules[f"layer.{role}"], f"{_LAYER}ffn.{native}"
    for place, norm in roles.inner_norms.items():
        yield norm, f"{_LAYER}{_INNER_NORMS[place]}"
    for role, native in _RESIDUALS.items():
        if f"layer.{role}" in roles.modules:
            yield roles.modules[f"layer.{role}"], f"{_LAYER}{native}"
    names = ("layer_norm",) if spec.norm.shared else _NORMS[spec.norm.order]
    if len(roles.norms) < len(names) and not spec.norm.first:
        names = names[1:]
    yield from ((norm, _LAYER + name) for norm, name in zip(roles.norms, names, strict=False))


def _leaf_rule(leaf: Leaf, native: str, spec: Spec, storage: Storage) -> Rule:
    """The rule of a tensor that is one of ours: stacked, transposed, turned, as it has to be."""
    steps: list[Callable[[str, str], Rule]] = []
    if leaf.heads:
        count = "num_heads" if ".q_" in native else spec.kv_heads
        steps.append(lambda a, b: stack(a, b, over="head", count=count))
    if storage.transposed and len(leaf.shape) == 2 and "{layer}" in leaf.pattern:
        steps.append(transpose)
    turns = storage.interleaved and turned(spec, leaf.pattern, native) is not None
    if not steps and not turns:
        return rename(leaf.pattern, native)
    between = [f"{letter}.{{layer}}" for letter in "abc"]
    names = [leaf.pattern, *between[: len(steps) + turns - 1], native]
    rules = [step(names[number], names[number + 1]) for number, step in enumerate(steps)]
    return _chained([*rules, *_turned(spec, names[-2], native, turns=turns)])


def _fused_rules(roles: Roles, spec: Spec, storage: Storage) -> Iterator[Rule]:
    qkv = roles.modules.get("layer.qkv")
    if qkv is not None:
        sizes: dict[str, Size] = {"q": "num_heads * head_dim"}
        sizes |= dict.fromkeys("kv", f"{spec.kv_heads} * head_dim")
        order = "qvk" if storage.qkv_layout == QKV_LAYOUTS[2] else "qkv"
        groups: Size = {QKV_LAYOUTS[1]: spec.kv_heads, QKV_LAYOUTS[2]: 4}.get(storage.qkv_layout, 1)
        for kind, leaf in qkv.leaves.items():
            natives = [f"{_LAYER}self_attn.{part}_proj.{kind}" for part in order]
            yield _split_rule(leaf, natives, [sizes[part] for part in order], groups, spec, storage)
    gate_up = roles.modules.get("layer.gate_up") or roles.modules.get("layer.up_gate")
    if gate_up is not None:
        order = ("gate", "inner") if storage.gate_layout == GATE_LAYOUTS[0] else ("inner", "gate")
        for kind, leaf in gate_up.leaves.items():
            natives = [f"{_LAYER}ffn.{part}_proj.{kind}" for part in order]
            yield _split_rule(leaf, natives, ["ffn_inner_dim"] * 2, 1, spec, storage)


def _split_rule(leaf: Leaf, natives: list[str], sizes: list[Size], groups: Size, spec: Spec, storage: Storage) -> Rule:
    """The rule of a tensor that is several of ours."""
    turn = [storage.interleaved and turned(spec, leaf.pattern, native) is not None for native in natives]
    fresh = (f"{letter}.{{layer}}" for letter in "abcd")
    source, rules = leaf.pattern, []
    if storage.transposed and len(leaf.shape) == 2:
        source = next(fresh)
        rules.append(transpose(leaf.pattern, source))
    parts = [next(fresh) if turns else native for native, turns in zip(natives, turn, strict=True)]
    rules.append(split(source, into=parts, sizes=sizes, groups=groups))
    for part, native, turns in zip(parts, natives, turn, strict=True):
        rules += _turned(spec, part, native, turns=turns)
    return _chained(rules)


def _turned(spec: Spec, foreign: str, native: str, *, turns: bool) -> list[Rule]:
    rule = turned(spec, foreign, native) if turns else None
    return [] if rule is None else [rule]


def _chained(rules: list[Rule]) -> Rule:
    return rules[0] if len(rules) == 1 else chain(*rules)


def _bare_rules(roles: Roles) -> Iterator[Rule]:
    """The rules of parameters that are no module's weight."""
    for role, native in _BARE.items():
        leaf = roles.leaf(f"layer.{role}")
        if leaf is not None:
            yield rename(leaf.pattern, f"{_LAYER}self_attn.{native}")
    for name in OF_XIELU:
        leaf = roles.leaf(f"layer.{name}")
        if leaf is not None:
            yield rename(leaf.pattern, f"{_LAYER}ffn.activation.{name}")
