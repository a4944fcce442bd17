"""Latent attention computes what transformers' does, and the same in several passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attention_peers import PADDING, Peer, assert_same, in_passes, inputs, randomised
from torch import Tensor, nn

from kinfold.errors import ConfigError
from kinfold.nn import DynamicScaling, LatentAttention, RMSNorm, Rotary

pytestmark = pytest.mark.usefixtures("exact_softmax")
SIZES = {"q_lora_rank": 12, "kv_lora_rank": 16, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8}
PADDINGS = pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
LENGTHS = [(5, 1, 3), (1,) * 9]


def pair(model_type: str, prefix: str, **values: Any) -> tuple[Peer, LatentAttention]:
    """Theirs and ours, with the norms of ours, since theirs round to float32."""
    sizes = {**SIZES, "head_dim": 4, "num_key_value_heads": 4, **values}
    peer = Peer(model_type, prefix, **sizes)
    theirs = peer.attention
    theirs.kv_a_layernorm = kv_latent_norm = randomised(RMSNorm(16))
    if theirs.q_proj is None:
        theirs.q_a_layernorm = q_latent_norm = randomised(RMSNorm(12))
        queries = {"q_down_proj": theirs.q_a_proj, "q_latent_norm": q_latent_norm, "q_up_proj": theirs.q_b_proj}
    else:
        queries = {"q_proj": theirs.q_proj}
    return peer, LatentAttention(
        **queries,
        kv_down_proj=theirs.kv_a_proj_with_mqa,
        kv_latent_norm=kv_latent_norm,
        kv_up_proj=theirs.kv_b_proj,
        output_proj=theirs.o_proj,
        head_dim=10,
        rotary_dim=4,
        value_head_dim=8,
        position=Rotary(4),
    )


@PADDINGS
@pytest.mark.parametrize("q_lora_rank", [12, None])
@pytest.mark.parametrize(
    ("model_type", "prefix", "values"),
    [("minicpm3", "MiniCPM3", {}), ("youtu", "Youtu", {"rope_interleave": False})],
    ids=["minicpm3", "youtu"],
)
@torch.no_grad()
def test_it_is_that_of_transformers(
    model_type: str, prefix: str, values: dict[str, Any], q_lora_rank: int | None, padding: Tensor | None
) -> None:
    peer, ours = pair(model_type, prefix, q_lora_rank=q_lora_rank, **values)
    expected = peer(inputs(), padding)
    assert_same(in_passes(ours, inputs(), padding), expected, padding)
    for lengths in LENGTHS:
        assert_same(in_passes(ours, inputs(), padding, lengths), expected, padding)


@torch.no_grad()
def test_pairs_that_are_neighbours_are_halves_after_a_permutation() -> None:
    """As a key map permutes them: the last rows of each head, and the last of the keys."""
    peer, ours = pair("youtu", "Youtu", rope_interleave=True, q_lora_rank=None)
    expected = peer(inputs(), None)
    assert ours.q_proj is not None
    halves = [0, 2, 1, 3]
    q = ours.q_proj.weight.data.unflatten(0, (4, 10))
    q[:, 6:] = q[:, 6:][:, halves].clone()
    ours.kv_down_proj.weight.data[16:] = ours.kv_down_proj.weight.data[16:][halves].clone()
    ours.kv_down_proj.bias.data[16:] = ours.kv_down_proj.bias.data[16:][halves].clone()
    assert_same(in_passes(ours, inputs()), expected)


@torch.no_grad()
def test_a_scale_and_a_window_are_its_own() -> None:
    peer, ours = pair("minicpm3", "MiniCPM3")
    peer.attention.scaling = ours.scale = 0.7
    ours.window = 3
    assert_same(in_passes(ours, inputs()), peer(inputs(), None, 3))
    assert_same(in_passes(ours, inputs(), None, (4, 5)), peer(inputs(), None, 3))


@torch.no_grad()
def test_keys_are_turned_anew_when_a_longer_sequence_asks_for_it() -> None:
    _, ours = pair("minicpm3", "MiniCPM3")
    ours.position = Rotary(4, scaling=DynamicScaling(factor=2.0, original_max_seq_len=4))
    second = torch.arange(9).expand(2, 9) >= 3  # the first pass is shorter than the sequences trained on
    assert_same(in_passes(ours, inputs(), None, (3, 6)), in_passes(ours, inputs()), second)


def attention(**parts: Any) -> LatentAttention:
    sizes: dict[str, Any] = {
        "q_proj": nn.Linear(32, 40),
        "kv_down_proj": nn.Linear(32, 20),
        "kv_latent_norm": RMSNorm(16),
        "kv_up_proj": nn.Linear(16, 56),
        "output_proj": nn.Linear(32, 32),
        "head_dim": 10,
        "rotary_dim": 4,
        "value_head_dim": 8,
        "position": Rotary(4),
    }
    return LatentAttention(**{**sizes, **parts})


LATENT = {"q_down_proj": nn.Linear(32, 12), "q_latent_norm": RMSNorm(12), "q_up_proj": nn.Linear(12, 40)}


@pytest.mark.parametrize(
    ("parts", "faults"),
    [
        (
            {
                "head_dim": 3,
                "value_head_dim": 0,
                "kv_down_proj": nn.Linear(32, 4),
                "position": Rotary(2),
                "scale": -1.0,
                "window": 0,
                "dropout_p": 2.0,
                "q_proj": None,
            },
            [
                "value_head_dim = 0: must be above 0",
                "scale = -1.0: must be above 0",
                "rotary_dim = 4: must be at most head_dim = 3",
                "position turns 2 dimensions, and must turn rotary_dim = 4",
                "kv_down_proj gives 4, which must exceed rotary_dim = 4",
                "a window of 0 tokens sees nothing",
                "dropout_p = 2.0: must be from 0 to 1",
                "queries come of q_proj alone, or of q_down_proj, q_latent_norm and q_up_proj",
            ],
        ),
        ({**LATENT}, ["queries come of q_proj alone, or of q_down_proj, q_latent_norm and q_up_proj"]),
        (
            {**LATENT, "q_proj": None, "q_latent_norm": None},
            ["queries come of q_proj alone, or of q_down_proj, q_latent_norm and q_up_proj"],
        ),
        (
            {
                **LATENT,
                "q_proj": None,
                "q_latent_norm": RMSNorm(9),
                "q_up_proj": nn.Linear(9, 40),
                "kv_down_proj": nn.Linear(30, 20),
                "kv_latent_norm": RMSNorm(20),
                "kv_up_proj": nn.Linear(20, 64),
                "output_proj": nn.Linear(40, 32),
            },
            [
                "kv_latent_norm is over 20, and must be over 16",
                "q_latent_norm is over 9, and must be over 12",
                "q_up_proj takes 9, and must take 12",
                "kv_down_proj takes 30, and must take 32",
                "kv_up_proj takes 20, and must take 16",
                "kv_up_proj gives 64, and must give 56",
                "output_proj takes 40, and must take 32",
            ],
        ),
        ({"q_proj": nn.Linear(32, 41)}, ["the queries have 41, which is no multiple of head_dim 10"]),
    ],
)
def test_faults_are_refused_all_at_once(parts: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        attention(**parts)
    assert list(error.value.faults) == faults
