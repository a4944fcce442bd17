"""How a layer is put together, as source text that `model.py` and `factory.py` are filled with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kinfold.scaffold.render.expressions import dropout, has_dropout, norm
from kinfold.scaffold.render.parts import feed_forward
from kinfold.scaffold.spec.schema import Spec

_ARGUMENTS = {"self_attn": ", state", "encoder_decoder_attn": ", encoder_output, state", "ffn": ""}
"""The sublayers, and what each is called with besides the vectors."""

_ORDERS = {
    "pre": "each behind its norm (pre-norm)",
    "post": "each followed by its norm (post-norm)",
    "output": "with a norm of what each gives",
    "both": "each between two norms",
}


def layer(spec: Spec, sublayers: tuple[str, ...], doc: str, parts: dict[str, str]) -> dict[str, Any]:
    """A layer for the frames of `model.py` and `factory.py`.

    Args:
        spec: The spec.
        sublayers: Its sublayers, in their order.
        doc: What they are, in words.
        parts: The attentions, as source text.
    """
    modules = dict(_modules(spec, sublayers, parts))
    return {
        "doc": f"{doc}, {'behind one norm' if spec.norm.shared else _ORDERS[spec.norm.order]}.",
        "modules": modules,
        "numbers": _numbers(spec),
        "built": [name for name, part in modules.items() if "\n" in part],
        "lines": list(_parallel(spec) if spec.residual.parallel else _one_after_the_other(spec, sublayers)),
    }


def stack(spec: Spec) -> dict[str, Any]:
    """What comes after the layers of an encoder or a decoder: a norm, or nothing."""
    if not spec.norm.closing:
        return {"doc": "The layers.", "modules": {}, "parameters": "", "output": "x"}
    return {
        "doc": "The layers, and the norm after the last.",
        "modules": {"layer_norm": norm(spec)},
        "parameters": ", *, layer_norm: nn.Module",
        "output": "self.layer_norm(x)",
    }


def _modules(spec: Spec, sublayers: tuple[str, ...], parts: dict[str, str]) -> Iterator[tuple[str, str]]:
    if spec.norm.shared:
        yield "layer_norm", norm(spec)
    for name in sublayers:
        yield name, parts.get(name) or feed_forward(spec)
        if not spec.norm.shared:
            none = name == "self_attn" and not spec.norm.first
            yield f"{name}_layer_norm", f"nn.Identity() if layer == 0 else {norm(spec)}" if none else norm(spec)
        if spec.norm.order == "both":
            yield f"{name}_output_layer_norm", norm(spec)
        if spec.residual.weights == "learned":
            yield f"{name}_residual", "LearnedScale(config.model_dim)"
    if has_dropout(spec):
        yield "dropout", dropout()


def _numbers(spec: Spec) -> dict[str, tuple[str, str]]:
    """What a layer has that are no modules: name to type and source."""
    found = {}
    if "residual_scale" in spec.field_names():
        found["residual_scale"] = ("float", "config.residual_scale")
    if spec.residual.weights == "depth":
        found["depth"] = ("int", "2 * (layer + 1)")
    return found


def _one_after_the_other(spec: Spec, sublayers: tuple[str, ...]) -> Iterator[str]:
    """The statements of a layer whose sublayers each have their residual connection (He et al. 2016)."""
    for number, name in enumerate(sublayers):
        residual, read = "x", "x"
        if spec.norm.order in ("pre", "both"):
            read = f"self.{name}_layer_norm(x)"
        if spec.residual.of_norm:
            yield f"residual = {read}"
            residual, read = "residual", "residual"
        total = _sum(spec, name, residual, _change(spec, name, read), number)
        if spec.norm.order == "post":
            total = f"self.{name}_layer_norm({total})"
        if name == "encoder_decoder_attn" and spec.model == "decoder":
            yield "if encoder_output is not None:"
            total = f"    x = {total}"
        yield f"return {total}" if name == sublayers[-1] else total if total.startswith(" ") else f"x = {total}"


def _parallel(spec: Spec) -> Iterator[str]:
    """The statements of a layer whose sublayers read the same vectors."""
    if spec.norm.shared:
        yield "normed = self.layer_norm(x)"
    reads = {name: "normed" if spec.norm.shared else f"self.{name}_layer_norm(x)" for name in ("self_attn", "ffn")}
    yield "return " + " + ".join(["x", *(_change(spec, name, read) for name, read in reads.items())])


def _change(spec: Spec, name: str, read: str) -> str:
    """What a sublayer gives, as it is added."""
    change = f"self.{name}({read}{_ARGUMENTS[name]})"
    if spec.norm.order == "output":
        change = f"self.{name}_layer_norm({change})"
    if spec.norm.order == "both":
        change = f"self.{name}_output_layer_norm({change})"
    if has_dropout(spec):
        change = f"self.dropout({change})"
    return f"{change} * self.residual_scale" if "residual_scale" in spec.field_names() else change


def _sum(spec: Spec, name: str, residual: str, change: str, number: int) -> str:
    """The vectors after a sublayer; by depth, the squares of both factors add up to one."""
    if spec.residual.weights == "learned":
        return f"self.{name}_residual({residual}) + {change}"
    if spec.residual.weights == "depth":
        depth, before = ("self.depth", "(self.depth - 1)") if number == 0 else ("(self.depth + 1)", "self.depth")
        return f"{residual} * ({before} / {depth}) ** 0.5 + {change} / {depth}**0.5"
    return f"{residual} + {change}"
