"""The tensors of a checkpoint, seen as the parameters they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from kinfold.checkpoint import Checkpoint, TensorInfo
from kinfold.scaffold.keymap.layouts import CONTAINERS, LAYOUTS, RECOMPUTED
from kinfold.scaffold.spec.schema import Layout

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass
class TensorIndex:
    """Tensors by the native pattern of the parameter they hold.

    Attributes:
        layout: The layout the names are of.
        tensors: Native pattern to the tensors of that pattern, by layer (-1 outside the layers).
        recomputed: Patterns of tensors that follow from the config, to the reason for dropping them.
        faults: Tensors that the layout does not know, and layers that differ.
    """

    layout: Layout
    tensors: dict[str, dict[int, tuple[str, TensorInfo]]] = field(default_factory=dict)
    recomputed: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def one(self, native: str) -> tuple[str, tuple[int, ...]] | None:
        """Name and shape of the first tensor of a pattern; None if the checkpoint has none."""
        found = self.tensors.get(native)
        if not found:
            return None
        name, info = found[min(found)]
        return name, info.shape

    def layers(self) -> set[int]:
        """The numbers of all layers."""
        return {layer for found in self.tensors.values() for layer in found if layer >= 0}


def index_tensors(checkpoint: Checkpoint) -> TensorIndex:
    """Look every tensor of a checkpoint up in the layout that knows most of them, or else that its kind of file has."""
    patterns = {_LAYER.sub("{layer}", name) for name in checkpoint.manifest}
    layouts = LAYOUTS["decoder"]
    likeliest: list[Layout] = [CONTAINERS[checkpoint.layout], *layouts]
    layout = max(likeliest, key=lambda name: len(patterns.intersection(layouts[name].values())))
    native = {foreign: native for native, foreign in layouts[layout].items()}
    index = TensorIndex(layout)
    unknown: dict[str, list[str]] = {}
    for name, info in checkpoint.manifest.items():
        pattern = _LAYER.sub("{layer}", name)
        number = _LAYER.search(name)
        if pattern in native:
            index.tensors.setdefault(native[pattern], {})[int(number[0]) if number else -1] = (name, info)
        elif pattern in RECOMPUTED[layout]:
            index.recomputed[pattern] = RECOMPUTED[layout][pattern]
        else:
            unknown.setdefault(pattern, []).append(f"{name} {info.shape}")
    for pattern, names in unknown.items():
        more = f" and {len(names) - 1} more like {pattern}" if len(names) > 1 else ""
        index.faults.append(f"tensor {names[0]}{more}: not understood")
    index.faults += _uneven(index.tensors, index.layers())
    return index


def _uneven(tensors: Mapping[str, Mapping[int, tuple[str, TensorInfo]]], layers: set[int]) -> list[str]:
    """Layers that are missing, or that do not have what the others have."""
    faults = []
    if gaps := sorted(set(range(max(layers, default=-1) + 1)) - layers):
        faults.append(f"layers {gaps} are missing between 0 and {max(layers)}")
    for pattern, found in tensors.items():
        if "{layer}" not in pattern:
            continue
        if missing := sorted(layers - found.keys()):
            faults.append(f"{pattern}: some layers have it, layers {missing} do not")
        shapes = {info.shape: name for name, info in found.values()}
        if len(shapes) > 1:
            faults.append(
                f"{pattern}: shapes differ: " + ", ".join(f"{name} {shape}" for shape, name in shapes.items())
            )
    return faults
