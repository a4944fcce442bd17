"""The tensors of a checkpoint as parameters: one for all layers, with its shape in each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kinfold.checkpoint import TensorInfo

_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """The tensors of one parameter, over the layers.

    Attributes:
        pattern: Their name, with the hole `{layer}` in layers, and `{head}` where each head has its own.
        shapes: Their shapes, by layer; -1 outside the layers.
        heads: How many tensors there are over `{head}`.
    """

    pattern: str
    shapes: Mapping[int, Shape]
    heads: int = 0

    @property
    def shape(self) -> Shape:
        """The shape of the first."""
        return self.shapes[min(self.shapes)]

    @property
    def evidence(self) -> str:
        """The first tensor, by its name and shape."""
        first = min(self.shapes)
        return f"{self.pattern.replace('{layer}', str(first)).replace('{head}', '0')} {self.shape}"


def leaves_of(manifest: Mapping[str, TensorInfo]) -> list[Leaf]:
    """The tensors, with the numbers of layers and heads taken out of their names."""
    lists = _layer_lists(manifest)
    found: dict[str, dict[int, Shape]] = defaultdict(dict)
    heads: dict[str, set[int]] = defaultdict(set)
    for name, info in manifest.items():
        match = _NUMBER.search(name)
        if match is None or name[: match.start()] not in lists:
            found[name][-1] = info.shape
            continue
        rest = name[match.end() :]
        inner = _NUMBER.search(rest)
        if inner is not None and "norm" in rest[: inner.start()].lower():  # a norm for each head
            rest = f"{rest[: inner.start()]}{{head}}{rest[inner.end() :]}"
        pattern = f"{name[: match.start()]}{{layer}}{rest}"
        found[pattern][int(match[0])] = info.shape
        if inner is not None and "{head}" in rest:
            heads[pattern].add(int(inner[0]))
    return [Leaf(pattern, shapes, len(heads[pattern])) for pattern, shapes in found.items()]


def _layer_lists(names: Iterable[str]) -> set[str]:
    """What stands before the numbers of layers: of lists of modules, those with the most parameters of a number."""
    numbers: dict[str, set[int]] = defaultdict(set)
    sizes: Counter[str] = Counter()
    for name in names:
        match = _NUMBER.search(name)
        if match is not None:
            numbers[name[: match.start()]].add(int(match[0]))
            sizes[name[: match.start()]] += 1
    if not sizes:
        return set()
    largest = sizes.most_common(1)[0][0]
    return {prefix for prefix, found in numbers.items() if found == numbers[largest]}
