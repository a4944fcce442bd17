"""The parts a family is put together from, as source text that `factory.py` is filled with.

A part is an expression over `config`; what it needs imported from `kinfold.nn` is found in its text.
"""

from __future__ import annotations

from kinfold.scaffold.spec.schema import Spec

ACTIVATIONS = {
    "silu": "nn.SiLU()",
    "gelu": "nn.GELU()",
    "gelu_tanh": 'nn.GELU(approximate="tanh")',
    "relu": "nn.ReLU()",
}


def rotary(spec: Spec) -> str:
    """The position part, shared by all layers."""
    scaling = ", scaling=config.rope_scaling" if "rope_scaling" in spec.field_names() else ""
    return f"Rotary(config.head_dim, theta=config.rope_theta{scaling})"


def frontend(spec: Spec, embed: str) -> str:
    """What turns tokens into vectors, given the embedding."""
    start = f", start={spec.position.start}" if spec.position.start else ""
    positions = {
        "sinusoidal": f"SinusoidalPositions(config.model_dim{start})",
        "learned": f"LearnedPositions(config.max_seq_len, config.model_dim{start}, init_std=config.init_std)",
    }
    lines = [f"{embed},"]
    if spec.embedding.scaled:
        lines.append("scale=config.model_dim**0.5,")
    if spec.position.kind in positions:
        lines.append(f"position={positions[spec.position.kind]},")
    if has_dropout(spec):
        lines.append(f"dropout={dropout()},")
    return _call("EmbeddingFrontend", lines) if len(lines) > 1 else f"EmbeddingFrontend({embed})"


def attention(spec: Spec, kind: str = "Attention", *, q_dim: str, kv_dim: str, head_dim: str) -> str:
    """Attention of a layer, given the source of its widths."""
    lines = [
        *(
            f"{name}_proj={_linear('config.model_dim', dim, bias=spec.attention.qkv_bias)},"
            for name, dim in (("q", q_dim), ("k", kv_dim), ("v", kv_dim))
        ),
        f"output_proj={_linear(q_dim, 'config.model_dim', bias=spec.attention.output_bias)},",
        f"head_dim={head_dim},",
    ]
    if spec.rotary:
        lines.append("position=position,")
    if spec.attention.qk_norm:
        lines += [f"{name}_norm={_rms_norm(head_dim)}," for name in ("q", "k")]
    if "sliding_window" in spec.field_names():
        lines.append("window=config.sliding_window,")
    if has_dropout(spec):
        lines.append("dropout_p=config.dropout_p,")
    return _call(kind, lines)


def norm(spec: Spec) -> str:
    """A norm over the width of the model."""
    if spec.norm.kind == "layer":
        return "nn.LayerNorm(config.model_dim, eps=config.norm_eps)"
    return _rms_norm("config.model_dim")


def feed_forward(spec: Spec) -> str:
    """The feed-forward network of a layer."""
    width = "config.ffn_inner_dim"
    if {"ffn_inner_dim_multiplier", "ffn_inner_dim_to_multiple"} & set(spec.field_names()):
        width = "inner_dim"
    inner = _linear("config.model_dim", width, bias=spec.ffn.bias)
    lines = [
        f"inner_proj={inner},",
        f"output_proj={_linear(width, 'config.model_dim', bias=spec.ffn.bias)},",
        f"activation={ACTIVATIONS[spec.ffn.activation]},",
    ]
    if spec.ffn.kind == "gated":
        return _call("GatedFeedForward", [f"gate_proj={inner},", *lines])
    return _call("FeedForward", lines)


def inner_dim(spec: Spec) -> str:
    """How wide the feed-forward network is inside, where that is to be worked out first; otherwise nothing."""
    options = [
        f"{name}=config.ffn_inner_dim_{name}"
        for name in ("multiplier", "to_multiple")
        if f"ffn_inner_dim_{name}" in spec.field_names()
    ]
    return f"scaled_inner_dim(config.ffn_inner_dim, {', '.join(options)})" if options else ""


def final_projection(spec: Spec) -> str:
    """What turns the decoder's output into logits."""
    tied = {sizes.tied_embeddings for sizes in spec.sizes().values()}
    own = _linear("config.model_dim", "config.vocab_size", bias=False)
    if tied == {True}:
        return "TiedProjection(embed)"
    if tied == {False}:
        return own
    return f"TiedProjection(embed) if config.tied_embeddings else {own}"


def has_dropout(spec: Spec) -> bool:
    """Whether anything is left out in training, in any arch."""
    return "dropout_p" in spec.field_names()


def dropout() -> str:
    """What leaves values out."""
    return "nn.Dropout(config.dropout_p)"


def _rms_norm(dim: str) -> str:
    return f"RMSNorm({dim}, eps=config.norm_eps)"


def _linear(input_dim: str, output_dim: str, *, bias: bool) -> str:
    return f"nn.Linear({input_dim}, {output_dim}, bias={bias})"


def _call(name: str, lines: list[str]) -> str:
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), ")"])
