"""The smallest parts of source text: calls, projections, norms, activations; what several parts are made of."""

from __future__ import annotations

from collections.abc import Iterable

from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.structure import QkNorm

ACTIVATIONS = {
    "silu": "nn.SiLU()",
    "gelu": "nn.GELU()",
    "gelu_tanh": 'nn.GELU(approximate="tanh")',
    "quick_gelu": "QuickGELU()",
    "relu": "nn.ReLU()",
    "relu2": "ReLUSquared()",
    "xielu": "XIELU()",
    "sigmoid": "nn.Sigmoid()",
    "tanh": "nn.Tanh()",
}


def call(name: str, lines: Iterable[str]) -> str:
    """A call with an argument a line."""
    return "\n".join([f"{name}(", *(f"    {line}," for line in lines), ")"])


def linear(input_dim: str, output_dim: str, *, bias: bool | str = False) -> str:
    """A linear map."""
    return f"nn.Linear({input_dim}, {output_dim}, bias={bias})"


def norm(spec: Spec, dim: str = "config.model_dim") -> str:
    """A norm of the kind that the family has."""
    part = spec.norm
    return _norm(part.kind, part.weight, dim, bias="bias" in part.leaves)


def latent_norm(spec: Spec, dim: str) -> str:
    """A norm of the vectors that queries, or keys and values, are made of."""
    return norm(spec, dim).replace("config.norm_eps", "config.latent_norm_eps")


def qk_norm(norms: QkNorm, dim: str, heads: str | None = None) -> str:
    """A norm of queries or keys.

    Args:
        norms: What the spec says of it.
        dim: The width that it is over.
        heads: How many heads have weights of their own; None where all have the same.
    """
    return _norm(norms.kind, norms.weight, dim, bias=norms.bias, heads=heads)


def embedding_dim(spec: Spec) -> str:
    """How wide the embeddings are."""
    widths = spec.values("embedding_dim")
    if widths == {None}:
        return "config.model_dim"
    return "(config.embedding_dim or config.model_dim)" if None in widths else "config.embedding_dim"


def optional(name: str, spec: Spec, part: str) -> str:
    """A part that is there in the archs that have a size."""
    return f"None if config.{name} is None else {part}" if None in spec.values(name) else part


def has_dropout(spec: Spec) -> bool:
    """Whether anything is left out in training, in any arch."""
    return "dropout_p" in spec.field_names()


def dropout() -> str:
    """What leaves values out."""
    return "nn.Dropout(config.dropout_p)"


def _norm(kind: str, weight: str, dim: str, *, bias: bool, heads: str | None = None) -> str:
    options = [f"{dim}, eps=config.norm_eps"]
    if weight == "offset":
        options.append("offset=1.0")
    if weight == "none":
        options.append("weight=False")
    if kind == "layer" and not bias:
        options.append("bias=False")
    if heads is not None:
        options.append(f"heads={heads}")
    usual = weight == "plain" and heads is None  # which torch has, too
    name = "RMSNorm" if kind == "rms" else "nn.LayerNorm" if usual else "LayerNorm"
    return f"{name}({', '.join(options)})"
