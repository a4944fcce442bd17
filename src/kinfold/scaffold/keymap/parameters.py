"""The parameters that a family of a spec has, as patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.structure import QkNorm

EMBED = "decoder_frontend.embed.weight"
OUTPUT = "final_proj.weight"

LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
OF_XIELU = ("alpha_p", "alpha_n", "beta", "eps")


def native_parameters(spec: Spec) -> Iterator[str]:
    """The patterns of the parameters that a family of this spec has, in the order of its modules.

    Those that only some archs or some layers have are among them.
    """
    if spec.model == "encoder_decoder":
        yield from _position(spec, "encoder_frontend")
        yield from _stack(spec, "encoder", ("self_attn",))
    yield from _frontend(spec)
    looks = spec.model == "encoder_decoder" or spec.attention.to_encoder
    yield from _stack(spec, "decoder", ("self_attn", *(["encoder_decoder_attn"] if looks else [])))
    if spec.output.transform:
        yield from _leaves("transform.proj", _leaf_names(spec.output.transform_bias))
        yield from _leaves("transform.norm", spec.norm.leaves)
    if "embedding_dim" in spec.field_names():
        yield "project_out.weight"
    if False in spec.values("tied_embeddings"):
        yield OUTPUT
    if spec.output.bias:
        yield "final_proj.bias"


def _frontend(spec: Spec) -> Iterator[str]:
    yield EMBED
    if "embedding_dim" in spec.field_names():
        yield "decoder_frontend.project.weight"
    yield from _position(spec, "decoder_frontend")
    if spec.embedding.norm:
        yield from _leaves("decoder_frontend.norm", spec.norm.leaves)


def _position(spec: Spec, frontend: str) -> Iterator[str]:
    if spec.position.kind == "learned":
        yield f"{frontend}.position.weight"


def _stack(spec: Spec, stack: str, attentions: Iterable[str]) -> Iterator[str]:
    """The parameters of an encoder or a decoder."""
    layer = f"{stack}.layers.{{layer}}"
    if spec.norm.shared:
        yield from _leaves(f"{layer}.layer_norm", spec.norm.leaves)
    for attention in attentions:
        yield from _ATTENTIONS[spec.attention.kind](spec, f"{layer}.{attention}")
        yield from _around(spec, layer, attention)
    yield from _feed_forward(spec, f"{layer}.ffn")
    yield from _around(spec, layer, "ffn")
    if spec.norm.closing:
        yield from _leaves(f"{stack}.layer_norm", spec.norm.leaves)


def _around(spec: Spec, layer: str, sublayer: str) -> Iterator[str]:
    """The parameters that a layer has for a sublayer besides the sublayer's own."""
    if not spec.norm.shared:
        yield from _leaves(f"{layer}.{sublayer}_layer_norm", spec.norm.leaves)
    if spec.norm.order == "both":
        yield from _leaves(f"{layer}.{sublayer}_output_layer_norm", spec.norm.leaves)
    if spec.residual.weights == "learned":
        yield f"{layer}.{sublayer}_residual.weight"


def _dot_product(spec: Spec, module: str) -> Iterator[str]:
    attention = spec.attention
    for name in ("q", "k", "v"):
        yield from _leaves(f"{module}.{name}_proj", _leaf_names(name in attention.biased))
    yield from _leaves(f"{module}.output_proj", _leaf_names(bool(attention.output_bias)))
    norms = attention.norms or QkNorm(weight="none")
    yield from (f"{module}.{name}_norm.{leaf}" for name in ("q", "k") for leaf in norms.leaves)
    if attention.dynamic_mask:
        yield f"{module}.dynamic_mask.rate"
        yield from _leaves(f"{module}.dynamic_mask.proj", _leaf_names("v" in attention.biased))
    if attention.sinks:
        yield f"{module}.sinks.weight"
    if attention.output_norm:
        yield from _leaves(f"{module}.output_norm", spec.norm.leaves)
    if attention.gate != "none":
        yield f"{module}.gate_proj.weight"
    if attention.gate_bias:
        yield f"{module}.gate_bias.weight"


def _latent(spec: Spec, module: str) -> Iterator[str]:
    q_dims = spec.values("q_latent_dim")
    if None in q_dims:
        yield f"{module}.q_proj.weight"
    if q_dims != {None}:
        yield from _leaves(f"{module}.q_down_proj", _leaf_names(spec.attention.latent_bias))
        yield from _leaves(f"{module}.q_latent_norm", spec.norm.leaves)
        yield f"{module}.q_up_proj.weight"
    yield from _leaves(f"{module}.kv_down_proj", _leaf_names(spec.attention.latent_bias))
    yield from _leaves(f"{module}.kv_latent_norm", spec.norm.leaves)
    yield f"{module}.kv_up_proj.weight"
    yield from _leaves(f"{module}.output_proj", _leaf_names(bool(spec.attention.output_bias)))


def _differential(spec: Spec, module: str) -> Iterator[str]:
    yield from (f"{module}.{name}" for name in LAMBDAS)
    yield from _dot_product(spec, module)


_ATTENTIONS = {"dot_product": _dot_product, "latent": _latent, "differential": _differential}


def _feed_forward(spec: Spec, module: str) -> Iterator[str]:
    for name in ("gate", "inner", "output") if spec.ffn.kind == "gated" else ("inner", "output"):
        yield from _leaves(f"{module}.{name}_proj", _leaf_names(spec.ffn.bias))
    if spec.ffn.activation == "xielu":
        yield from (f"{module}.activation.{name}" for name in OF_XIELU)
    if spec.ffn.inner_norm:
        yield from _leaves(f"{module}.inner_norm", spec.norm.leaves)


def _leaf_names(bias: bool) -> tuple[str, ...]:
    return ("weight", "bias") if bias else ("weight",)


def _leaves(module: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{module}.{name}" for name in names)
