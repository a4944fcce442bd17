"""Attention of a layer as source text, by its kind."""

from __future__ import annotations

from collections.abc import Iterator

from kinfold.scaffold.render.expressions import call, has_dropout, latent_norm, linear, norm, optional, qk_norm
from kinfold.scaffold.render.positions import positions
from kinfold.scaffold.spec.schema import Spec


def self_attention(spec: Spec) -> str:
    """Attention of a decoder alone, over `config`, `q_dim`, `kv_dim`, and `layer` where layers differ."""
    return _KINDS[spec.attention.kind](spec)


def dims(spec: Spec) -> dict[str, str]:
    """The widths that attention of a decoder is worked out from."""
    found = {"q_dim": "config.num_heads * config.head_dim"}
    if spec.attention.kind != "latent":
        found[kv_dim(spec)] = f"config.{spec.kv_heads} * config.head_dim"
    return found


def kv_dim(spec: Spec) -> str:
    """What the width of all keys is called; that of the queries, where no head shares its keys."""
    return "kv_dim" if spec.kv_heads == "num_kv_heads" else "q_dim"


def plain_attention(spec: Spec, kind: str, *, q_dim: str, kv_dim: str, head_dim: str) -> str:
    """Attention without parts, of an encoder and decoder.

    Args:
        spec: The spec.
        kind: The class.
        q_dim: The width of all queries.
        kv_dim: That of all keys.
        head_dim: That of a head.
    """
    return call(kind, [*_projections(spec, q_dim, kv_dim), f"head_dim={head_dim}", *_dropout(spec)])


def _dot_product(spec: Spec) -> str:
    lines = [*_projections(spec, "q_dim", kv_dim(spec)), "head_dim=config.head_dim", *_position(spec), *_qk_norms(spec)]
    lines += [*_scores(spec), *_query_scaling(spec)]
    if "attention_cap" in spec.field_names():
        lines.append("cap=config.attention_cap")
    if spec.attention.dynamic_mask:
        proj = linear(kv_dim(spec), f"config.{spec.kv_heads}", bias="v" in spec.attention.biased)
        lines.append(f"dynamic_mask=DynamicMask({proj}, keep=config.dynamic_mask_keep)")
    if spec.attention.sinks:
        lines.append("sinks=Sinks(config.num_heads)")
    if "qkv_clip" in spec.field_names():
        lines.append("clip=config.qkv_clip")
    if spec.attention.output_norm:
        lines.append(f"output_norm={norm(spec, 'q_dim')}")
    if spec.attention.gate != "none":
        width = {"headwise": "config.num_heads", "elementwise": "q_dim"}[spec.attention.gate]
        lines.append(f"gate_proj={linear('config.model_dim', width)}")
    if spec.attention.gate_bias:
        lines.append("gate_bias=HeadBias(config.num_heads)")
    return call("Attention", [*lines, *_dropout(spec)])


def _latent(spec: Spec) -> str:
    keys_and_values = "config.num_heads * (config.head_dim - config.rotary_dim + config.value_head_dim)"
    values = "config.num_heads * config.value_head_dim"
    lines = [
        *_latent_queries(spec),
        f"kv_down_proj={_to_latent(spec, 'config.kv_latent_dim + config.rotary_dim')}",
        f"kv_latent_norm={latent_norm(spec, 'config.kv_latent_dim')}",
        f"kv_up_proj={linear('config.kv_latent_dim', keys_and_values)}",
        f"output_proj={linear(values, 'config.model_dim', bias=_output_bias(spec))}",
        *(f"{name}=config.{name}" for name in ("head_dim", "rotary_dim", "value_head_dim")),
    ]
    return call("LatentAttention", [*lines, *_position(spec), *_scores(spec), *_dropout(spec)])


def _latent_queries(spec: Spec) -> Iterator[str]:
    widths = spec.values("q_latent_dim")
    if None in widths:
        own = linear("config.model_dim", "q_dim")
        yield f"q_proj={own}" if widths == {None} else f"q_proj={own} if config.q_latent_dim is None else None"
    if widths != {None}:
        down, up = _to_latent(spec, "config.q_latent_dim"), linear("config.q_latent_dim", "q_dim")
        parts = {"q_down_proj": down, "q_latent_norm": latent_norm(spec, "config.q_latent_dim"), "q_up_proj": up}
        yield from (f"{name}={optional('q_latent_dim', spec, part)}" for name, part in parts.items())


def _to_latent(spec: Spec, dim: str) -> str:
    return linear("config.model_dim", dim, bias=spec.attention.latent_bias)


def _differential(spec: Spec) -> str:
    lines = [
        *_projections(spec, "q_dim", kv_dim(spec)),
        "head_dim=config.head_dim",
        "lambda_init=lambda_init(layer)",
        "norm=RMSNorm(2 * config.head_dim, eps=config.norm_eps, weight=False)",
    ]
    return call("DifferentialAttention", [*lines, *_position(spec), *_scores(spec)])


_KINDS = {"dot_product": _dot_product, "latent": _latent, "differential": _differential}


def _projections(spec: Spec, q_dim: str, kv_dim: str) -> Iterator[str]:
    for name, dim in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
        yield f"{name}_proj={linear('config.model_dim', dim, bias=name in spec.attention.biased)}"
    yield f"output_proj={linear(q_dim, 'config.model_dim', bias=_output_bias(spec))}"


def _output_bias(spec: Spec) -> bool | str:
    bias = spec.attention.output_bias
    return "layer == config.num_layers - 1" if bias == "last" else bias


def _position(spec: Spec) -> Iterator[str]:
    found = positions(spec)
    if found.name:
        yield f"{'bias' if spec.position.kind == 'alibi' else 'position'}={found.name}"


def _qk_norms(spec: Spec) -> Iterator[str]:
    norms = spec.attention.norms
    if norms is None:
        return
    for name, width, heads in (("q", "q_dim", "config.num_heads"), ("k", kv_dim(spec), f"config.{spec.kv_heads}")):
        dim = width if norms.over == "width" else "config.head_dim"
        yield f"{name}_norm={qk_norm(norms, dim, heads if norms.over == 'each_head' else None)}"
    if norms.over == "width":
        yield 'norm_over="width"'
    if norms.after_position:
        yield "norm_after_position=True"


def _query_scaling(spec: Spec) -> Iterator[str]:
    if "query_scaling" in spec.field_names():
        unturned = spec.attention.scaled_queries == "unturned" and spec.thetas_in_turns
        yield f"query_scaling={'None if in_turns(config.rope_theta, layer) else ' * unturned}config.query_scaling"


def _scores(spec: Spec) -> Iterator[str]:
    """How far a token sees, and what its scores are multiplied by, where that is not the usual."""
    fields = spec.field_names()
    if "sliding_window" in fields:
        pattern = " if in_turns(config.window_pattern, layer) else None" if "window_pattern" in fields else ""
        yield f"window=config.sliding_window{pattern}"
    scale = "config.attention_scale" if "attention_scale" in fields else "config.head_dim**-0.5"
    if spec.attention.scaled_by_layer:
        scales = spec.values("attention_scale")
        either = "(config.attention_scale or config.head_dim**-0.5)"
        yield f"scale={either if None in scales and len(scales) > 1 else scale} / (layer + 1)"
    elif "attention_scale" in fields:
        yield f"scale={scale}"


def _dropout(spec: Spec) -> Iterator[str]:
    if has_dropout(spec):
        yield "dropout_p=config.dropout_p"
