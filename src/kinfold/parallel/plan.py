"""Shard plans: how each module of a model is spread over ranks, as data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from kinfold.errors import ParallelError, nearest

if TYPE_CHECKING:
    from torch import nn

Style = Literal[
    "block", "column", "row", "gathered", "halves", "shared", "vocabulary", "expert", "replicate", "sequence", "scatter"
]
"""How a module is spread.

Between blocks every rank has the same vectors, or with sequence parallel its part of the sequence:

- `replicate`: every rank has all of its weights, and computes the same.
- `sequence`: every rank has all of its weights; with sequence parallel it computes its part of the sequence.
- `scatter`: with sequence parallel, what it gives is cut along the sequence.
- `vocabulary`: its weights are spread by tokens; it takes and gives whole vectors, or logits.
- `block`: takes and gives whole vectors; what is in it computes a part of them. Its own weights are `shared`.

In a block:

- `column`: its weights are spread by their first dimension; it gives this rank's columns, or heads.
- `row`: takes this rank's columns; its weights are spread by columns, and what it gives is summed over the ranks.
- `gathered`: takes the columns of all ranks, and gives this rank's; a norm over all of them, or a projection.
- `halves`: a `column` of which each rank gets a part of either half (the pairs of heads of differential attention).
- `shared`: every rank has all of its weights, and computes with them what is its own.
- `expert`: its weights are spread by their first dimension over the gang `ep`.
"""

_HOLE = re.compile(r"\{[a-z_]+\}")


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """How the modules of a family are spread.

    Attributes:
        styles: Patterns of the names of modules, with holes as in key maps (`decoder.layers.{layer}.ffn`), and how
            those that match are spread. Every module that has parameters of its own is matched by one.

    Raises:
        ParallelError: There is no such style; lists all that there are not.
    """

    styles: Mapping[str, Style]

    def __post_init__(self) -> None:
        known = get_args(Style)
        faults = [
            f"`{pattern}`: there is no style {style!r}. {nearest(str(style), known)}"
            for pattern, style in self.styles.items()
            if style not in known
        ]
        if faults:
            raise ParallelError("This is no shard plan:", faults=faults)

    def matched(self, model: nn.Module) -> dict[str, Style]:
        """The style of each module, by its full name.

        A pattern of a part that a module may have, and has not in this model (None), matches nothing, and is right.

        Raises:
            ParallelError: Lists patterns that match nothing, and modules with parameters that none or two match.
        """
        modules = dict(model.named_modules(remove_duplicate=False))
        found: dict[str, list[str]] = {}
        faults = []
        for pattern in self.styles:
            regex = re.compile(_HOLE.sub("[0-9]+", re.escape(pattern).replace(r"\{", "{").replace(r"\}", "}")))
            names = [name for name in modules if regex.fullmatch(name)]
            if not names and not _is_left_out(pattern, modules):
                faults.append(f"`{pattern}` matches no module. {nearest(pattern, _patterns(modules)) or ''}".rstrip())
            for name in names:
                found.setdefault(name, []).append(pattern)
        faults += [f"{name} is matched by {' and '.join(by)}" for name, by in found.items() if len(by) > 1]
        own = {name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))}
        missing = [name for name in own if name not in found]
        faults += [f"nothing says how `{pattern}` is spread" for pattern in _patterns(missing)]
        if faults:
            raise ParallelError(f"The shard plan does not fit this {type(model).__name__}:", faults=faults)
        return {name: self.styles[by[0]] for name, by in found.items()}


def _is_left_out(pattern: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a pattern is of a part that there may be, and in this model is None."""
    parent, _, leaf = pattern.rpartition(".")
    regex = re.compile(_HOLE.sub("[0-9]+", re.escape(parent).replace(r"\{", "{").replace(r"\}", "}")))
    parents = [module for name, module in modules.items() if regex.fullmatch(name)]
    return bool(parents) and all(getattr(module, leaf, ...) is None for module in parents)


def _patterns(names: Iterable[str]) -> list[str]:
    """Names with a hole for each number, each once."""
    return list(dict.fromkeys(re.sub(r"(?<=\.)[0-9]+(?=\.|$)", "{layer}", name) for name in names if name))
