"""The fields of a family's config, and its archs, as source text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import Arch


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the config: `name: type = default`, and a line about it."""

    name: str
    type: str
    default: str
    doc: str


def config_fields(spec: Spec) -> list[Field]:
    """The fields that the archs of a spec have need of, with the first arch's values as defaults."""
    archs = list(spec.sizes().values())
    docs = {field.name: _description(field.type) for field in msgspec.structs.fields(Arch)}
    fields = []
    for name in spec.field_names():
        values = [getattr(sizes, name) for sizes in archs]
        types = sorted({_type_name(value) for value in values}, key=lambda type_: (type_ == "None", type_))
        doc = docs[name] if isinstance(values[0], tuple) else _OF_ALL_LAYERS.get(name, docs[name])
        doc, _, if_null = doc.partition("; null: ")  # as YAML has it
        if if_null:
            doc += f"; None: {if_null}" if "None" in types else "."
        fields.append(Field(name, " | ".join(types), source(values[0]), doc))
    return fields


def arch_changes(spec: Spec) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each arch, with the fields (name, source of the value) in which it differs from the first."""
    archs = spec.sizes()
    first = next(iter(archs.values()))
    for name, sizes in archs.items():
        yield (
            name,
            [
                (field, source(getattr(sizes, field)))
                for field in spec.field_names()
                if getattr(sizes, field) != getattr(first, field)
            ],
        )


def scaling_classes(spec: Spec) -> list[str]:
    """The classes of what scales rotary positions and queries in the archs."""
    scalings = (scaling for sizes in spec.sizes().values() for scaling in (sizes.rope_scaling, sizes.query_scaling))
    return sorted({type(scaling).__name__ for scaling in scalings if scaling is not None})


def source(value: Any) -> str:
    """The source text of a value of the spec."""
    if isinstance(value, msgspec.Struct):
        changed = {f.name: v for f in msgspec.structs.fields(value) if (v := getattr(value, f.name)) != f.default}
        return f"{type(value).__name__}({', '.join(f'{name}={source(v)}' for name, v in changed.items())})"
    return repr(value)


_OF_ALL_LAYERS = {"rope_theta": "Base of the rotary frequencies."}
"""What fields are that could hold several values, where they hold one."""


def _type_name(value: Any) -> str:
    if isinstance(value, tuple):
        return f"tuple[{type(value[0]).__name__}, ...]"
    return "None" if value is None else type(value).__name__


def _description(annotation: Any) -> str:
    return next((meta.description for meta in getattr(annotation, "__metadata__", ()) if meta.description), "")
