"""What does not fit together in a spec: parts that exclude each other, and numbers of its archs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import UNSET

from kinfold.scaffold.keymap.render import key_map_faults
from kinfold.scaffold.spec.checks import checks
from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import OPTIONAL, Sizes, stated
from kinfold.validation import ConfigChecks

_OF_DOT_PRODUCTS = (
    "attention.output_norm", "attention.gate", "attention.gate_bias", "attention.sinks", "attention.dynamic_mask",
    "attention.to_encoder",
    "attention.qk_norm",
)  # fmt: skip
"""Switches that attention of another kind does not have."""

_SIZES_OF_OTHERS = {
    "latent": ("query_scaling", "attention_cap", "qkv_clip"),
    "differential": ("query_scaling", "attention_cap", "qkv_clip", "dropout_p"),
}
"""Sizes that attention of a kind does not have."""

_OF_DECODERS = (
    "attention.kind", *_OF_DOT_PRODUCTS, "ffn.inner_norm", "norm.shared", "norm.first", "residual.parallel",
    "residual.of_norm", "residual.weights", "attention.latent_bias", "attention.scaled_by_layer", "position.scaled",
    "attention.scaled_queries", "position.reversed", "position.scaled_layers", "embedding.norm",
    "embedding.norm_first",
    "output.bias", "output.transform", "output.transform_bias",
)  # fmt: skip
"""What a family with an encoder has as it is by default."""

_REASONS = {
    "attention.qk_norm": "attention of a decoder to its encoder has no norms of q and k",
    "position.scaled_layers": "an encoder and decoder has no rotary positions",
}


def structure_faults(spec: Spec) -> Iterator[str]:
    """What parts of a structure exclude each other, or are not known of such a model; then, what key maps lack."""
    faults = [*_part_faults(spec)]
    yield from faults or key_map_faults(spec)


def size_faults(spec: Spec, name: str, sizes: Sizes) -> Iterator[str]:
    """What does not fit in the numbers of an arch, completed."""
    own, first = stated(spec.archs[name]), stated(next(iter(spec.archs.values())))
    known = spec.known_sizes()
    for size in own:
        if size not in known:
            yield f"{size} is no size of such a model; known: {', '.join(known)}"
    check = ConfigChecks(sizes)
    for method, fields in checks(spec, known):
        getattr(check, method)(*fields)
    if spec.model == "decoder" and "head_dim" not in first and spec.archs[name].head_dim is UNSET:
        check.divides("num_heads", "model_dim")
    yield from check.faults
    if spec.attention.kind == "latent" and spec.rotary and "rotary_dim" not in {**first, **own}:
        yield "rotary_dim is missing: latent attention needs to know how many dimensions of a head turn"


def _part_faults(spec: Spec) -> Iterator[str]:
    if spec.model == "encoder_decoder":
        yield from _encoder_decoder_faults(spec)
    else:
        yield from _attention_faults(spec)
        yield from _residual_faults(spec)
    yield from _position_faults(spec)
    if spec.output.transform_activation != "gelu" and not spec.output.transform:
        yield f"output.transform_activation = {spec.output.transform_activation}: there is no output.transform"
    if spec.output.transform_bias and not spec.output.transform:
        yield "output.transform_bias = true: there is no output.transform that could have a bias"


def _encoder_decoder_faults(spec: Spec) -> Iterator[str]:
    if spec.position.kind not in ("sinusoidal", "learned"):
        yield f"position.kind = {spec.position.kind}: an encoder and decoder has `sinusoidal` or `learned` positions"
    if spec.attention.output_bias == "last":
        yield "attention.output_bias = last: an encoder and decoder has a bias in every layer, or in none"
    if spec.norm.order not in ("pre", "post"):
        yield f"norm.order = {spec.norm.order}: the norms of an encoder and decoder are `pre` or `post`"
    for path in _other_than(spec, _OF_DECODERS):
        yield f"{path}: {_REASONS.get(path.partition(' ')[0], 'only a decoder alone has that')}"
    if unknown := sorted(spec.key_maps.keys() - {"hf"}):
        yield f"key_maps.{unknown[0]}: the layout is not known for an encoder and decoder; known: hf"


def _attention_faults(spec: Spec) -> Iterator[str]:
    attention, norms = spec.attention, spec.attention.norms
    if attention.gate_bias and attention.gate == "none":
        yield "attention.gate_bias = true: there is no attention.gate that could have a bias"
    if norms is not None and norms.bias and (norms.kind == "rms" or norms.weight == "none"):
        yield "attention.qk_norm.bias = true: only a layer norm with weights has a bias"
    if norms is not None and norms.after_position and not spec.rotary:
        yield "attention.qk_norm.after_position = true: without rotary positions there is nothing to come after"
    if attention.to_encoder and (spec.residual.parallel or spec.norm.order not in ("pre", "post")):
        yield "attention.to_encoder = true: norms stand before the sublayers or after the sums, one after the other"
    if attention.scaled_queries == "unturned" and not any(name == "query_scaling" for name in spec.field_names()):
        yield "attention.scaled_queries = unturned: no arch has a query_scaling"
    if attention.kind != "latent" and attention.latent_bias:
        yield f"attention.latent_bias = true: attention.kind = {attention.kind} has no latent vectors"
    if attention.kind == "dot_product":
        return
    for path in _other_than(spec, _OF_DOT_PRODUCTS):
        yield f"{path}: attention.kind = {attention.kind} does not have that; `dot_product` has"
    for size in _sizes_in_use(spec, _SIZES_OF_OTHERS[attention.kind]):
        yield f"{size}: attention.kind = {attention.kind} does not have that; `dot_product` has"
    if attention.kind == "latent":
        if attention.qkv_bias:
            yield "attention.qkv_bias: only the projections to latent vectors have a bias (attention.latent_bias)"
        if not spec.rotary:
            yield f"position.kind = {spec.position.kind}: latent attention has `rotary` positions"
        elif any(0 in sizes.rope_theta for sizes in spec.sizes().values() if isinstance(sizes.rope_theta, tuple)):
            yield "rope_theta = 0: latent attention turns in every layer"
    elif spec.position.kind == "alibi":
        yield "position.kind = alibi: the scores of differential attention have no bias; `rotary` would do"


def _residual_faults(spec: Spec) -> Iterator[str]:
    norm, residual = spec.norm, spec.residual
    if residual.parallel:
        if norm.order != "pre":
            yield f"norm.order = {norm.order}: parallel sublayers (residual.parallel) have their norms before, `pre`"
        if residual.of_norm:
            yield "residual.of_norm = true: parallel sublayers (residual.parallel) are added to their input"
        if residual.weights != "none":
            yield f"residual.weights = {residual.weights}: parallel sublayers (residual.parallel) have no such weights"
    if norm.shared and not residual.parallel:
        yield "norm.shared = true: only parallel sublayers (residual.parallel) share a norm"
    if norm.order not in ("pre", "both"):
        if residual.of_norm:
            yield f"residual.of_norm = true: norm.order = {norm.order} has no norm before a sublayer; `pre` has"
        if not norm.first:
            yield f"norm.first = false: norm.order = {norm.order} has no norm before attention anyway"
    if not norm.first and norm.shared:
        yield "norm.first = false: the norm is that of the feed-forward network, too (norm.shared)"


def _position_faults(spec: Spec) -> Iterator[str]:
    kind, position = spec.position.kind, spec.position
    if spec.embedding.norm_first and (not spec.embedding.norm or kind not in ("sinusoidal", "learned")):
        yield "embedding.norm_first = true: needs embedding.norm, and `sinusoidal` or `learned` positions"
    if position.start and kind not in ("sinusoidal", "learned"):
        yield f"position.start = {position.start}: {_WITHOUT_NUMBERS[kind]}"
    if position.frequencies != "tensor2tensor" and kind != "sinusoidal":
        yield f"position.frequencies = {position.frequencies}: {kind} positions have none; `sinusoidal` ones have"
    if spec.model == "decoder":
        yield from _layer_faults(spec)


def _layer_faults(spec: Spec) -> Iterator[str]:
    """What layers cannot have by themselves."""
    kind = spec.position.kind
    if spec.position.scaled and kind != "alibi":
        yield f"position.scaled = true: {kind} positions add nothing to scores; `alibi` ones do"
    if spec.position.reversed and not spec.rotary:
        yield f"position.reversed = true: {kind} positions turn nothing; `rotary` ones do"
    if "window_pattern" in spec.field_names() and "sliding_window" not in spec.field_names():
        yield "window_pattern: no arch has a sliding_window that layers could have in turns"
    if spec.position.scaled_layers == "full":
        if not spec.rotary:
            yield f"position.scaled_layers = full: {kind} positions are not scaled; `rotary` ones are"
        elif "window_pattern" not in spec.field_names():
            yield "position.scaled_layers = full: no window_pattern has layers without a window; `all` would do"
        elif None in spec.values("sliding_window"):
            yield "position.scaled_layers = full: without a sliding_window in every arch all layers are; `all` would do"


_WITHOUT_NUMBERS = {
    "rotary": "rotary positions always begin at 0",
    "alibi": "only distances count for alibi",
    "none": "there are no positions",
}


def _other_than(spec: Spec, paths: Iterable[str]) -> Iterator[str]:
    """Which of these values are not the default, with what they are."""
    for path in paths:
        section, _, field = path.partition(".")
        part = getattr(spec, section)
        value = getattr(part, field)
        if value != getattr(type(part)(), field):
            yield f"{path} = {_said(value)}"


def _sizes_in_use(spec: Spec, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        used = [getattr(sizes, name) for sizes in spec.sizes().values() if getattr(sizes, name) != OPTIONAL[name]]
        if used:
            yield f"{name} = {used[0]}"


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else "{...}"
