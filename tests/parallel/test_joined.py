"""What pretended ranks have of a model, put together again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from kinfold.errors import ParallelError
from kinfold.parallel import ShardPlan, joined_shards, shard_model

PLAN = ShardPlan({"0": "vocabulary", "1": "sequence", "2": "column", "3": "row"})


def a_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4))


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_parts_make_up_the_whole_also_where_they_are_uneven(tp: int) -> None:
    model, rows = a_model(), []

    def shard(model: Any, gangs: Any) -> None:
        shard_model(model, PLAN, gangs)
        if tp > 1:
            rows.append(model[0].weight.to_local().shape[0])

    joined = joined_shards(model, shard, tp=tp)
    assert joined.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(joined[name], weight) for name, weight in model.named_parameters())
    assert rows == {1: [], 2: [4, 3], 4: [2, 2, 2, 1]}[tp]


def test_the_model_stays_as_it_is() -> None:
    model = a_model()
    weight = model[2].weight
    joined_shards(model, lambda model, gangs: shard_model(model, PLAN, gangs), tp=2)
    assert model[2].weight is weight
    assert type(weight) is nn.Parameter
    assert not model[2]._forward_hooks


def test_what_ranks_do_not_have_alike_is_listed() -> None:
    def shard(model: Any, gangs: Any) -> None:
        shard_model(model, PLAN, gangs)
        model[3].bias.to_local().data.add_(gangs["tp"].rank)

    with pytest.raises(ParallelError) as raised:
        joined_shards(a_model(), shard, tp=2)
    assert raised.value.faults == ("3.bias",)


def test_what_cannot_be_divided_is_said() -> None:
    with pytest.raises(ParallelError, match="8 dimensions cannot be divided among 3 ranks"):
        joined_shards(a_model(), lambda model, gangs: shard_model(model, PLAN, gangs), tp=3)
