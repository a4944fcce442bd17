"""The parts a family is put together from, as source text that `factory.py` is filled with.

A part is an expression over `config`; what it needs imported from `kinfold.nn` is found in its text.
"""

from __future__ import annotations

from kinfold.scaffold.spec.schema import FeedForward, Spec

ACTIVATIONS = {
    "silu": "nn.SiLU()",
    "gelu": "nn.GELU()",
    "gelu_tanh": 'nn.GELU(approximate="tanh")',
    "relu": "nn.ReLU()",
}


def rotary(spec: Spec) -> str:
    """The position part, shared by all layers."""
    scaling = ", scaling=config.rope_scaling" if any(s.rope_scaling for s in spec.sizes().values()) else ""
    return f"Rotary(config.head_dim, theta=config.rope_theta{scaling})"


def attention(spec: Spec) -> str:
    """The self-attention of a layer."""
    lines = [
        *(
            f"{name}_proj={_linear('config.model_dim', dim, bias=spec.attention.qkv_bias)},"
            for name, dim in (("q", "q_dim"), ("k", "kv_dim"), ("v", "kv_dim"))
        ),
        f"output_proj={_linear('q_dim', 'config.model_dim', bias=spec.attention.output_bias)},",
        "head_dim=config.head_dim,",
        "position=position,",
    ]
    if spec.attention.qk_norm:
        lines += [f"{name}_norm={norm('config.head_dim')}," for name in ("q", "k")]
    if any(sizes.sliding_window for sizes in spec.sizes().values()):
        lines.append("window=config.sliding_window,")
    return _call("Attention", lines)


def norm(dim: str) -> str:
    """A norm over the last dimension."""
    return f"RMSNorm({dim}, eps=config.norm_eps)"


def feed_forward(ffn: FeedForward) -> str:
    """The feed-forward network of a layer."""
    inner = _linear("config.model_dim", "config.ffn_inner_dim", bias=ffn.bias)
    lines = [
        f"inner_proj={inner},",
        f"output_proj={_linear('config.ffn_inner_dim', 'config.model_dim', bias=ffn.bias)},",
        f"activation={ACTIVATIONS[ffn.activation]},",
    ]
    if ffn.kind == "gated":
        return _call("GatedFeedForward", [f"gate_proj={inner},", *lines])
    return _call("FeedForward", lines)


def final_projection(spec: Spec) -> str:
    """What turns the decoder's output into logits."""
    tied = {sizes.tied_embeddings for sizes in spec.sizes().values()}
    own = _linear("config.model_dim", "config.vocab_size", bias=False)
    if tied == {True}:
        return "TiedProjection(embed)"
    if tied == {False}:
        return own
    return f"TiedProjection(embed) if config.tied_embeddings else {own}"


def _linear(input_dim: str, output_dim: str, *, bias: bool) -> str:
    return f"nn.Linear({input_dim}, {output_dim}, bias={bias})"


def _call(name: str, lines: list[str]) -> str:
    return "\n".join([f"{name}(", *(f"    {line}" for line in lines), ")"])
