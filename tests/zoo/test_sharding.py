"""What is found wrong with the shards of a family: a Llama whose sharder does something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kinfold.errors import ParallelError
from kinfold.parallel import ShardPlan, shard_model
from kinfold_zoo.llama import create_llama_model, llama_archs, shard_llama_model
from kinfold_zoo.llama.loader import llama_shard_plan
from zoo.sharding import Sharding, shard_family

SMALL = {
    "model_dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "ffn_inner_dim": 48,
    "vocab_size": 61,
}  # fmt: skip


@pytest.fixture
def found() -> Callable[..., Sharding]:
    """What is found of a Llama, with this in place of its sharder."""
    config = dataclasses.replace(llama_archs.get(), **SMALL)
    return lambda sharder=shard_llama_model, **options: shard_family(create_llama_model, config, sharder, **options)


def test_parts_make_up_the_whole_or_the_error_names_a_number(found: Callable[..., Sharding]) -> None:
    sharding = found()
    (fault,) = sharding.indivisible.pop("8")
    assert fault.startswith("decoder.layers.{layer}.self_attn: 4 query heads cannot be divided among 8 ranks;")
    assert sharding == Sharding({"2": [], "4": []}, [])


def test_other_numbers_of_ranks_are_tried_alone(found: Callable[..., Sharding]) -> None:
    assert found(numbers=(2,)) == Sharding({"2": []}, [])


def test_weights_that_are_changed_or_lost_on_one_rank_are_wrong(found: Callable[..., Sharding]) -> None:
    def sharder(model: Any, config: Any, gangs: Any) -> None:
        shard_llama_model(model, config, gangs)
        if gangs["tp"].rank == 1:
            local = model.decoder.layers[1].ffn.inner_proj.weight.to_local()
            local.data[-1, -1] = torch.nextafter(local[-1, -1], torch.tensor(1.0))
        del model.final_proj

    wrong = found(sharder).wrong
    names = ("decoder.layers.1.ffn.inner_proj.weight is another", "final_proj.weight is lost")
    assert wrong[:2] == [f"tp=2, own sizes: {name}" for name in names]
    assert wrong[-2:] == [f"tp=8, wider: {name}" for name in names]


def test_heads_that_are_cut_are_wrong(found: Callable[..., Sharding]) -> None:
    plan = ShardPlan(
        {name: "sequence" if style == "block" else style for name, style in llama_shard_plan.styles.items()}
    )
    wrong = found(lambda model, _, gangs: shard_model(model, plan, gangs)).wrong
    assert wrong == ["tp=8, own sizes: num_heads = 4, and no error"]


@pytest.mark.parametrize(
    "said",
    [
        ["Not so:", "final_proj: something else"],
        ["No."],
        ["x", "a: 8 heads cannot be divided among 2 ranks; 4 would do"],
    ],
)
def test_errors_that_name_no_such_number_are_wrong(said: list[str], found: Callable[..., Sharding]) -> None:
    def sharder(model: nn.Module, config: Any, gangs: Any) -> None:
        raise ParallelError(said[0], faults=said[1:])

    assert found(sharder).wrong[: len(said)] == [f"tp=2, own sizes: {fault}" for fault in said]


def test_nothing_is_indivisible_where_all_is_eight_times_as_wide(found: Callable[..., Sharding]) -> None:
    def sharder(model: Any, config: Any, gangs: Any) -> None:
        raise ParallelError("x", faults=[f"a: 7 heads cannot be divided among {gangs['tp'].size} ranks; 1, 7 would do"])

    wrong = found(sharder).wrong
    assert [fault.partition(": a")[0] for fault in wrong] == [f"tp={ranks}, wider" for ranks in (2, 4, 8)]
