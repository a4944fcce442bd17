"""Tensor and sequence parallel: a shard plan applied to a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.errors import ParallelError
from kinfold.parallel.gangs import Gang
from kinfold.parallel.native import native_plan
from kinfold.parallel.plan import ShardPlan, Style

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.tensor.parallel import ParallelStyle

_SHOWN = 8
"""Numbers of ranks that would do, of which so many are named."""


def shard_model(
    model: nn.Module,
    plan: ShardPlan,
    gangs: Mapping[str, Gang],
    *,
    sequence_parallel: bool = False,
    shard_embed_dim: bool = False,
) -> None:
    """Spread a model over the gangs `tp` and `ep`, as its plan says.

    All that could be wrong is found before anything is changed, and on every rank the same.

    Args:
        model: The model, in place; on the meta device, or with weights, which are then those of the first rank.
        plan: How its modules are spread.
        gangs: `setup_gangs()`, or the gang `tp` by its name.
        sequence_parallel: Spread vectors between blocks along the sequence, whose length the ranks have to divide.
        shard_embed_dim: Spread the embedding by the dimensions of its vectors, not by tokens.

    Raises:
        ParallelError: The plan does not fit the model, or sizes cannot be divided; lists everything.
    """
    styles = plan.matched(model)
    tp, ep = gangs.get("tp"), gangs.get("ep")
    num_tp, num_ep = (gang.size if gang else 1 for gang in (tp, ep))
    if faults := division_faults(model, styles, tp=num_tp, ep=num_ep):
        fitting = [str(n) for n in range(1, num_tp) if not division_faults(model, styles, tp=n, ep=num_ep)]
        raise ParallelError(
            f"This {type(model).__name__} cannot be spread over tp={num_tp} and ep={num_ep} ranks:",
            faults=faults,
            hint=f"These would fit: tp = {', '.join(fitting)}." if fitting else None,
        )
    if tp is not None and tp.size > 1:
        own: dict[str, Style] = {name: style for name, style in styles.items() if style != "expert" or num_ep == 1}
        spread = _styles(model, _once(model, own), tp.size, sequence=sequence_parallel, by_dims=shard_embed_dim)
        _apply(model, tp, spread)
    if ep is not None and ep.size > 1:
        from kinfold.parallel.styles import Expert

        _apply(model, ep, {name: Expert() for name, style in styles.items() if style == "expert"})


def shard_transformer_decoder_model(
    model: nn.Module, gang: Gang, *, shard_embed_dim: bool = False, sequence_parallel: bool = False
) -> None:
    """Spread a decoder that is made of the parts of `kinfold.nn`, by what these are called.

    Args:
        model: The model, in place.
        gang: The ranks that share each tensor.
        shard_embed_dim: Spread the embedding by the dimensions of its vectors, not by tokens.
        sequence_parallel: Spread vectors between blocks along the sequence.

    Raises:
        ParallelError: It has modules of other names, or sizes cannot be divided; lists everything.
    """
    shard_model(
        model,
        native_plan(model),
        {"tp": gang},
        sequence_parallel=sequence_parallel,
        shard_embed_dim=shard_embed_dim,
    )


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
        heads, together = Heads.of(module), 2 if styles.get(f"{name}.q_proj") == "halves" else 1
        pairs_of = "pairs of " if together == 2 else ""
        yield from _indivisible(f"{pairs_of}query heads", [heads.queries // together], tp)
        if not heads.picked(tp):
            yield from _indivisible(f"{pairs_of}key and value heads", [heads.keys // together], tp)
    elif style in ("column", "halves", "gathered", "row"):
        parent = Heads.of(model.get_submodule(name.rpartition(".")[0]))
        if not parent.picks(name, tp):
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
    def of(cls, block: nn.Module) -> Heads:
        head_dim = getattr(block, "head_dim", None)
        queries = getattr(block, "q_proj", None) or getattr(block, "q_up_proj", None)
        if not head_dim or queries is None:
            return cls(0, 0, False)
        keys = getattr(block, "k_proj", None)
        plain = getattr(block, "dynamic_mask", None) is None and not hasattr(block, "lambda_init")
        norm = getattr(block, "k_norm", None)
        plain = plain and (
            norm is None or (getattr(block, "norm_over", "head") == "head" and getattr(norm, "heads", None) is None)
        )
        num_heads = queries.out_features // head_dim
        return cls(num_heads, num_heads if keys is None else keys.out_features // head_dim, plain)

    def picked(self, ranks: int) -> bool:
        """Whether there are fewer key and value heads than ranks, and each rank can take one."""
        return self.can_pick and self.keys < ranks and ranks % self.keys == 0

    def picks(self, name: str, ranks: int) -> bool:
        """Whether a projection is one of those that every rank has in whole."""
        return name.rpartition(".")[2] in ("k_proj", "v_proj") and self.keys > 0 and self.picked(ranks)


def _once(model: nn.Module, styles: Mapping[str, Style]) -> dict[str, Style]:
    """The same, with a module that several places share under its first name alone."""
    first: dict[nn.Module, str] = {}
    for name in styles:
        first.setdefault(model.get_submodule(name), name)
    return {name: styles[name] for name in first.values()}


def _styles(
    model: nn.Module, styles: Mapping[str, Style], ranks: int, *, sequence: bool, by_dims: bool
) -> dict[str, ParallelStyle]:
    """What is applied to each module."""
    from kinfold.parallel import styles as s

    made = {
        "block": lambda: s.Block(sequence=sequence),
        "column": s.Column,
        "row": lambda: s.Row(sequence=sequence),
        "gathered": s.Gathered,
        "halves": s.Halves,
        "shared": lambda: s.Whole(summed=True),
        "vocabulary": lambda: s.Vocabulary(sequence=sequence, by="dims" if by_dims else "tokens"),
        "expert": lambda: s.Whole(summed=False),
        "replicate": lambda: s.Whole(summed=False),
        "sequence": lambda: s.Whole(summed=sequence),
    }
    found: dict[str, ParallelStyle] = {}
    for name, style in styles.items():
        heads = Heads.of(model.get_submodule(name.rpartition(".")[0]))
        if style == "column" and heads.picks(name, ranks):
            found[name] = s.Picked(heads.keys)
        elif style != "scatter":
            found[name] = made[style]()
        elif sequence:
            found[name] = s.Scatter()
    return found


def _apply(model: nn.Module, gang: Gang, styles: dict[str, ParallelStyle]) -> None:
    from torch.distributed.tensor.parallel import parallelize_module

    from kinfold.parallel.styles import reduce_gradients

    parallelize_module(model, gang.mesh, styles)
    reduce_gradients(model)
