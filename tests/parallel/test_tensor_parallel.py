"""A model over ranks computes what it computes in one process: logits, losses and gradients, on gloo."""

from __future__ import annotations

import pytest
import ranks_tensor
from launching import launch
from structures import STRUCTURES

NEAR = 1e-10
"""How far float64 may be off, relative to the largest value."""

UNDIVIDED = ("steep_alibi", "differential")
"""Structures with 3 key and value heads, or a pair of them, which two ranks cannot share."""


def test_every_structure_of_a_decoder_is_the_same_over_two_ranks() -> None:
    for found in launch(ranks_tensor.structures, 2, list(STRUCTURES), 2):
        refused = {name.split()[0] for name, off in found.items() if isinstance(off, str)}
        assert refused == set(UNDIVIDED)
        assert {name: off for name, off in found.items() if isinstance(off, float) and not off < NEAR} == {}
        assert len(found) > 75


@pytest.mark.slow
def test_every_structure_of_a_decoder_is_the_same_over_four_ranks_or_refused_by_number() -> None:
    found = launch(ranks_tensor.structures, 4, list(STRUCTURES), 4)[0]
    refused = {name: fault for name, fault in found.items() if isinstance(fault, str)}
    assert all("cannot be divided among 4 ranks" in fault for fault in refused.values())
    assert len(refused) < 10
    assert {name: off for name, off in found.items() if isinstance(off, float) and not off < NEAR} == {}


def test_structures_whose_weights_are_of_every_shape_are_the_same_where_data_are_shared_too() -> None:
    names = ["xielu", "latent_queries", "alibi", "dynamic_mask", "sinks", "qk_norm_by_head", "inner_norms", "transform"]
    for found in launch(ranks_tensor.sharded_structures, 4, names, 2):
        assert {name: off for name, off in found.items() if not off < NEAR} == {}


WAYS = [
    {},
    {"sequence_parallel": True},
    {"shard_embed_dim": True, "logits": True},
    {"logits": True},
    {"checkpointed": True},
    {"sequence_parallel": True, "checkpointed": True, "logits": True},
    {"compiled": "aot_eager"},
    {"compiled": "aot_eager", "checkpointed": True},
]


@pytest.mark.parametrize(
    ("tp", "pp", "tied", "ranks"),
    [
        pytest.param(4, 1, True, 4, marks=pytest.mark.slow),
        (2, 1, False, 4),
        (2, 1, True, 2),
        (1, 1, True, 2),
        (2, 2, False, 4),
        (1, 2, True, 4),
        (2, 2, True, 4),
    ],
    ids=["tp4", "tp2 x fsdp2", "tp2", "fsdp2", "tp2 x pp2", "fsdp2 x pp2, tied", "tp2 x pp2, tied"],
)
def test_a_llama_is_the_same_in_every_layout(tp: int, pp: int, tied: bool, ranks: int) -> None:
    for found in launch(ranks_tensor.llama, ranks, tp, pp, tied, WAYS):
        for way, off in zip(WAYS, found, strict=True):
            assert max(off.values()) < 1e-5, way


def test_an_encoder_and_decoder_is_the_same_over_ranks() -> None:
    for found in launch(ranks_tensor.encoder_decoder, 4, 4):
        assert max(found) < NEAR
