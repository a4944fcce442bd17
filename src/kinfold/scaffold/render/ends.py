"""What stands around a decoder, as source text that the frames of `model.py` and `factory.py` are filled with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kinfold.scaffold.render.parts import final_projection, projection_out, transform
from kinfold.scaffold.spec.schema import Spec


def model_ends(spec: Spec) -> dict[str, Any]:
    """What a model of a decoder alone has after it: its parts, and the statements that lead to the logits."""
    parts = {name: (type_, part) for name, type_, part in _parts(spec)}
    return {
        "parts": parts,
        "parameters": "".join(f", {name}: {type_}" for name, (type_, _) in parts.items()),
        "lines": list(_lines(spec, parts)),
        "imports": [
            "DecodeState",
            *(["EncoderOutput"] if spec.attention.to_encoder else []),
            *(["soft_cap"] if "logit_cap" in parts else []),
        ],
    }


def _parts(spec: Spec) -> Iterator[tuple[str, str, str]]:
    """Names, types and sources, in the order that vectors pass them."""
    if spec.output.transform:
        yield "transform", "nn.Module", transform(spec)
    if "embedding_dim" in spec.field_names():
        yield "project_out", _type(spec, "embedding_dim", "nn.Module"), projection_out(spec)
    yield "final_proj", "nn.Module", final_projection(spec)
    if "logit_scale" in spec.field_names():
        yield "logit_scale", "float", "config.logit_scale"
    if "logit_cap" in spec.field_names():
        yield "logit_cap", _type(spec, "logit_cap", "float"), "config.logit_cap"


def _type(spec: Spec, size: str, type_: str) -> str:
    """The type of a part that the archs have which have this size."""
    return f"{type_} | None" if None in spec.values(size) else type_


def _lines(spec: Spec, parts: dict[str, tuple[str, str]]) -> Iterator[str]:
    if "transform" in parts:
        yield "x = self.transform(x)"
    if "project_out" in parts:
        yield from _if_there("project_out", parts, "x = self.project_out(x)")
    logits = "self.final_proj(x)"
    if "logit_scale" in parts:
        logits = f"{logits} * self.logit_scale"
    if "logit_cap" not in parts:
        yield f"return {logits}"
    elif parts["logit_cap"][0] == "float":
        yield f"return soft_cap({logits}, self.logit_cap)"
    else:
        yield f"logits = {logits}"
        yield "return logits if self.logit_cap is None else soft_cap(logits, self.logit_cap)"


def _if_there(name: str, parts: dict[str, tuple[str, str]], statement: str) -> Iterator[str]:
    if parts[name][0].endswith("| None"):
        yield f"if self.{name} is not None:"
        yield f"    {statement}"
    else:
        yield statement
