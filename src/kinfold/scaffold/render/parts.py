"""The other parts a family is put together from, as source text that `factory.py` is filled with.

A part is an expression over `config`; what it needs imported from `kinfold.nn` is found in its text.
"""

from __future__ import annotations

from kinfold.scaffold.render.expressions import (
    ACTIVATIONS,
    call,
    dropout,
    embedding_dim,
    has_dropout,
    linear,
    norm,
    optional,
)
from kinfold.scaffold.spec.schema import Spec


def embedding(spec: Spec) -> str:
    """The vectors of the vocabulary."""
    return f"nn.Embedding(config.vocab_size, {embedding_dim(spec).removeprefix('(').removesuffix(')')})"


def frontend(spec: Spec, embed: str) -> str:
    """What turns tokens into vectors, given the embedding."""
    start = f", start={spec.position.start}" if spec.position.start else ""
    frequencies = ', frequencies="paper"' if spec.position.frequencies == "paper" else ""
    positions = {
        "sinusoidal": f"SinusoidalPositions(config.model_dim{start}{frequencies})",
        "learned": f"LearnedPositions(config.max_seq_len, config.model_dim{start}, init_std=config.init_std)",
    }
    lines = [embed]
    if scales := _embedding_scales(spec):
        lines.append(f"scale={' * '.join(scales)}")
    if "embedding_dim" in spec.field_names():
        project = linear("config.embedding_dim", "config.model_dim")
        lines.append(f"project={optional('embedding_dim', spec, project)}")
    if spec.position.kind in positions:
        lines.append(f"position={positions[spec.position.kind]}")
    if spec.embedding.norm:
        lines.append(f"norm={norm(spec)}")
    if spec.embedding.norm_first:
        lines.append("norm_first=True")
    if has_dropout(spec):
        lines.append(f"dropout={dropout()}")
    return call("EmbeddingFrontend", lines) if len(lines) > 1 else f"EmbeddingFrontend({embed})"


def feed_forward(spec: Spec) -> str:
    """The feed-forward network of a layer."""
    width = "config.ffn_inner_dim"
    if {"ffn_inner_dim_multiplier", "ffn_inner_dim_to_multiple"} & set(spec.field_names()):
        width = "inner_dim"
    inner = linear("config.model_dim", width, bias=spec.ffn.bias)
    lines = [
        f"inner_proj={inner}",
        f"output_proj={linear(width, 'config.model_dim', bias=spec.ffn.bias)}",
        f"activation={ACTIVATIONS[spec.ffn.activation]}",
    ]
    if spec.ffn.inner_norm:
        lines.append(f"inner_norm={norm(spec, width)}")
    if spec.ffn.kind == "gated":
        return call("GatedFeedForward", [f"gate_proj={inner}", *lines])
    return call("FeedForward", lines)


def inner_dim(spec: Spec) -> str:
    """How wide the feed-forward network is inside, where that is to be worked out first; otherwise nothing."""
    options = [
        f"{name}=config.ffn_inner_dim_{name}"
        for name in ("multiplier", "to_multiple")
        if f"ffn_inner_dim_{name}" in spec.field_names()
    ]
    return f"scaled_inner_dim(config.ffn_inner_dim, {', '.join(options)})" if options else ""


def transform(spec: Spec) -> str:
    """What vectors pass before they become logits."""
    proj = linear("config.model_dim", "config.model_dim", bias=spec.output.transform_bias)
    return call("Transform", [proj, ACTIVATIONS[spec.output.transform_activation], norm(spec)])


def projection_out(spec: Spec) -> str:
    """What brings vectors to the width of the embeddings."""
    return optional("embedding_dim", spec, linear("config.model_dim", "config.embedding_dim"))


def final_projection(spec: Spec) -> str:
    """What turns the decoder's output into logits."""
    tied = spec.values("tied_embeddings")
    own = linear(embedding_dim(spec), "config.vocab_size", bias=spec.output.bias)
    shared = "TiedProjection(embed, bias=True)" if spec.output.bias else "TiedProjection(embed)"
    if tied == {True}:
        return shared
    if tied == {False}:
        return own
    return f"{shared} if config.tied_embeddings else {own}"


def _embedding_scales(spec: Spec) -> list[str]:
    scales = [f"{embedding_dim(spec)}**0.5"] if spec.embedding.scaled else []
    return [*scales, "config.embedding_scale"] if "embedding_scale" in spec.field_names() else scales
