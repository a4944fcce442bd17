"""Tensor and sequence parallel: a shard plan applied to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kinfold.errors import ParallelError
from kinfold.parallel.division import Heads, division_faults
from kinfold.parallel.gangs import Gang
from kinfold.parallel.native import native_plan
from kinfold.parallel.plan import ShardPlan, Style

if TYPE_CHECKING:
    from torch import nn
    from torch.distributed.tensor.parallel import ParallelStyle


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
        fitting = [str(n) for n in range(1, 2 * num_tp + 1) if not division_faults(model, styles, tp=n, ep=num_ep)]
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
        heads = Heads.of(model, name.rpartition(".")[0], styles)
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
