"""How a layer is put together, as source text that `model.py` is filled with."""

from __future__ import annotations

from typing import Any

from kinfold.scaffold.render.parts import dropout, feed_forward, has_dropout, norm
from kinfold.scaffold.spec.schema import Spec

_ARGUMENTS = {"self_attn": ", state", "encoder_decoder_attn": ", encoder_output, state", "ffn": ""}
"""The sublayers, and what each is called with besides the vectors."""

_ORDERS = {"pre": "each behind its norm (pre-norm)", "post": "each followed by its norm (post-norm)"}


def layer(spec: Spec, sublayers: tuple[str, ...], doc: str, parts: dict[str, str]) -> dict[str, Any]:
    """A layer for the frames of `model.py` and `factory.py`.

    Args:
        spec: The spec.
        sublayers: Its sublayers, in their order.
        doc: What they are, in words.
        parts: The attentions, as source text.
    """
    modules = {}
    for name in sublayers:
        modules[name] = parts.get(name) or feed_forward(spec)
        modules[f"{name}_layer_norm"] = norm(spec)
    if has_dropout(spec):
        modules["dropout"] = dropout()
    return {
        "doc": f"{doc}, {_ORDERS[spec.norm.order]}.",
        "modules": modules,
        "built": [name for name, part in modules.items() if "\n" in part],
        "steps": [_step(spec, name) for name in sublayers],
    }


def stack(spec: Spec) -> dict[str, Any]:
    """What comes after the layers of an encoder or a decoder: a norm, if the layers do not end with one."""
    if spec.norm.order == "post":
        return {"doc": "The layers.", "modules": {}, "parameters": "", "output": "x"}
    return {
        "doc": "The layers, and the norm after the last.",
        "modules": {"layer_norm": norm(spec)},
        "parameters": ", *, layer_norm: nn.Module",
        "output": "self.layer_norm(x)",
    }


def _step(spec: Spec, name: str) -> str:
    """The vectors after a sublayer and its residual connection (He et al. 2016)."""
    read = f"self.{name}_layer_norm(x)" if spec.norm.order == "pre" else "x"
    change = f"self.{name}({read}{_ARGUMENTS[name]})"
    if has_dropout(spec):
        change = f"self.dropout({change})"
    return f"x + {change}" if spec.norm.order == "pre" else f"self.{name}_layer_norm(x + {change})"
