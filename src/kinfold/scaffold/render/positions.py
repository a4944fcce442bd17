"""Positions as source text: what layers share, and which of it a layer gets."""

from __future__ import annotations

from dataclasses import dataclass, field

from kinfold.scaffold.spec.schema import Spec


@dataclass(frozen=True, slots=True)
class Positions:
    """The parts that tell layers where tokens stand.

    Attributes:
        shared: What is made once, by the names of the variables.
        name: What a layer calls what it gets; nothing where it gets nothing.
        type: The type of that.
        argument: What a layer is given, over its number `layer` where layers get different ones.
    """

    shared: dict[str, str] = field(default_factory=dict)
    name: str = ""
    type: str = ""
    argument: str = ""


def positions(spec: Spec) -> Positions:
    """The positions of a decoder's layers."""
    if spec.position.kind == "alibi":
        max_bias = ", max_bias=config.alibi_max_bias" if "alibi_max_bias" in spec.field_names() else ""
        scale = ", scale=config.head_dim**-0.5" if spec.position.scaled else ""
        return Positions({"alibi": f"Alibi(config.num_heads{max_bias}{scale})"}, "alibi", "Alibi", "alibi")
    return _rotary(spec) if spec.rotary else Positions()


def is_scaled_in_turns(spec: Spec) -> bool:
    """Whether only layers without a window have their rotary positions stretched."""
    return spec.position.scaled_layers == "full" and "rope_scaling" in spec.field_names()


def _rotary(spec: Spec) -> Positions:
    scaled = "rope_scaling" in spec.field_names()
    if not is_scaled_in_turns(spec):
        name, part, of_layer, type_ = _by_theta(spec, scaled=scaled)
        return Positions({name: part}, "position", type_, of_layer.format(name))
    name, plain, of_layer, type_ = _by_theta(spec, scaled=False)
    _, stretched, _, _ = _by_theta(spec, scaled=True)
    either = f"{name} if in_turns(config.window_pattern, layer) else scaled_{name}"
    argument = of_layer.format(f"({either})" if spec.thetas_in_turns else either)
    return Positions({name: plain, f"scaled_{name}": stretched}, "position", type_, argument)


def _by_theta(spec: Spec, *, scaled: bool) -> tuple[str, str, str, str]:
    """The name of a variable, its value, how a layer gets its own of it, and the type of that."""
    if not spec.thetas_in_turns:
        return "position", _call(spec, "config.rope_theta", scaled=scaled), "{}", "Rotary"
    part = f"theta: {_call(spec, 'theta', scaled=scaled)} for theta in config.rope_theta"
    if all(theta for sizes in spec.sizes().values() for theta in sizes.rope_theta):  # pyright: ignore
        return "positions", f"{{{part}}}", "{}[in_turns(config.rope_theta, layer)]", "Rotary"
    return "positions", f"{{{part} if theta}}", "{}.get(in_turns(config.rope_theta, layer))", "Rotary | None"


def _call(spec: Spec, theta: str, *, scaled: bool) -> str:
    dim = "config.rotary_dim" if "rotary_dim" in spec.field_names() else "config.head_dim"
    scaling = ", scaling=config.rope_scaling" if scaled else ""
    backwards = ", reversed=True" if spec.position.reversed else ""
    return f"Rotary({dim}, theta={theta}{scaling}{backwards})"
