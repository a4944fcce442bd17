"""What a shard plan divides among ranks: heads, dimensions and experts, and whether that comes out even."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.parallel.plan import Style

if TYPE_CHECKING:
    from torch import nn

_SHOWN = 8
"""Numbers of ranks that would do, of which so many are named."""

_DIVIDED = ("column", "halves", "gathered", "row")
"""Styles of modules whose dimensions are divided."""


def division_faults(model: nn.Module, styles: Mapping[str, Style], *, tp: int, ep: int = 1) -> list[str]:
    """What cannot be divided among so many ranks, each once for all layers."""
    found: dict[str, list[str]] = {}
    for name in styles:
        for fault in _module_faults(model, name, styles, tp, ep):
            found.setdefault(fault, []).append(re.sub(r"\.[0-9]+\.", ".{layer}.", name))
    return [f"{', '.join(dict.fromkeys(names))}: {fault}" for fault, names in found.items()]


def _module_faults(model: nn.Module, name: str, styles: Mapping[str, Style], tp: int, ep: int) -> Iterator[str]:
    module, style = model.get_submodule(name), styles[name]
    if style == "expert":
        yield from _indivisible("experts", (p.shape[0] for p in module.parameters(recurse=False)), ep)
    elif style == "block":
        heads, together = Heads.of(model, name, styles), 2 if styles.get(f"{name}.q_proj") == "halves" else 1
        pairs_of = "pairs of " if together == 2 else ""
        yield from _indivisible(f"{pairs_of}query heads", [heads.queries // together], tp)
        if not heads.picked(tp):
            yield from _indivisible(f"{pairs_of}key and value heads", [heads.keys // together], tp)
    elif style in _DIVIDED and not Heads.of(model, name.rpartition(".")[0], styles).picks(name, tp):
        yield from _indivisible("dimensions", [_width(module, style)], tp)


def _width(module: nn.Module, style: Style) -> int:
    """What is divided among the ranks."""
    if style == "row":
        return getattr(module, "in_features", 0)
    sizes = [parameter.shape[0] for parameter in module.parameters(recurse=False)]
    return sizes[0] if sizes else getattr(module, "num_heads", getattr(module, "dim", 0))


def _indivisible(what: str, numbers: Iterable[int], ranks: int) -> Iterator[str]:
    for number in numbers:
        if number % ranks:
            fitting = [str(n) for n in range(1, number + 1) if number % n == 0]
            shown = ", ".join(fitting if len(fitting) <= _SHOWN else [*fitting[:_SHOWN], "..."])
            yield f"{number} {what} cannot be divided among {ranks} ranks; {shown} would do"


@dataclass(frozen=True, slots=True)
class Heads:
    """How many heads a block has; none where it is no attention.

    Attributes:
        queries: Query heads.
        keys: Key and value heads.
        can_pick: Whether every rank can compute all of the latter, and take the one that its queries share.
    """

    queries: int
    keys: int
    can_pick: bool

    @classmethod
    def of(cls, model: nn.Module, block: str, styles: Mapping[str, Style]) -> Heads:
        """Those of a block, by its name."""
        module = model.get_submodule(block)
        queries = getattr(module, "q_proj", None) or getattr(module, "q_up_proj", None)
        keys = getattr(module, "k_proj", None) or queries
        head_dim = getattr(module, "head_dim", None)
        if not head_dim or queries is None or keys is None:
            return cls(0, 0, False)
        # What is spread by heads after the projection would have to pick, too.
        after = {styles.get(f"{block}.{part}", "shared") for part in ("k_norm", "dynamic_mask")}
        can_pick = styles.get(f"{block}.k_proj") == "column" and after == {"shared"}
        return cls(queries.out_features // head_dim, keys.out_features // head_dim, can_pick)

    def picked(self, ranks: int) -> bool:
        """Whether there are fewer key and value heads than ranks, and each rank can take one."""
        return self.can_pick and self.keys < ranks and ranks % self.keys == 0

    def picks(self, name: str, ranks: int) -> bool:
        """Whether a projection is one of those that every rank has in whole."""
        return name.rpartition(".")[2] in ("k_proj", "v_proj") and self.keys > 0 and self.picked(ranks)
