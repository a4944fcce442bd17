"""Attention with each of its parts computes what an attention of transformers does that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from attention_peers import PADDING, Peer, assert_same, in_passes, inputs, places, randomised
from torch import Tensor, nn
from transformers.models.beam.modeling_beam import compute_attention_scaling
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

from kinfold.errors import ConfigError
from kinfold.nn import (
    Alibi,
    Attention,
    DecodeState,
    DynamicMask,
    DynamicScaling,
    HeadBias,
    LayerNorm,
    LogQueryScaling,
    PowerQueryScaling,
    RMSNorm,
    Rotary,
    Sinks,
)

LENGTHS = [(1,) * 9, (5, 1, 3), (9,)]
pytestmark = pytest.mark.usefixtures("exact_softmax")


def olmo() -> tuple[Peer, Attention]:
    peer = Peer("olmo", "Olmo", clip_qkv=0.7)
    return peer, Attention(**peer.projections, position=Rotary(8), clip=0.7)


def olmo2() -> tuple[Peer, Attention]:
    peer = Peer("olmo2", "Olmo2")
    norms = norms_of(peer, RMSNorm(32), RMSNorm(16))
    return peer, Attention(**peer.projections, **norms, norm_over="width", position=Rotary(8, theta=10000.0))


def hunyuan() -> tuple[Peer, Attention]:
    peer = Peer("hunyuan_v1_dense", "HunYuanDenseV1")
    norms = norms_of(peer, RMSNorm(8), RMSNorm(8), names=("query_layernorm", "key_layernorm"))
    return peer, Attention(**peer.projections, **norms, norm_after_position=True, position=Rotary(8))


def nanochat() -> tuple[Peer, Attention]:
    peer = Peer("nanochat", "NanoChat")
    norms = norms_of(peer, RMSNorm(8, weight=False), RMSNorm(8, weight=False))
    position = Rotary(8, reversed=True)
    return peer, Attention(**peer.projections, **norms, norm_after_position=True, position=position)


def gemma2() -> tuple[Peer, Attention]:
    peer = Peer("gemma2", "Gemma2", attn_logit_softcapping=3.0, query_pre_attn_scalar=5, sliding_window=4)
    position = Rotary(8)
    return peer, Attention(**peer.projections, position=position, cap=3.0, scale=5**-0.5, window=4)


def gpt_oss() -> tuple[Peer, Attention]:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    peer = Peer("gpt_oss", "GptOss", rope_parameters=rope, sliding_window=5)
    return peer, Attention(**peer.projections, position=Rotary(8), sinks=sinks_of(peer), window=5)


def granite_swa() -> tuple[Peer, Attention]:
    peer = Peer("granite_swa", "GraniteSWA", positions=False, attention_multiplier=0.2)
    return peer, Attention(**peer.projections, sinks=sinks_of(peer), scale=0.2)


def bitnet() -> tuple[Peer, Attention]:
    peer = Peer("bitnet", "BitNet")
    norm = peer.attention.attn_sub_norm = randomised(RMSNorm(32))
    return peer, Attention(**peer.projections, position=Rotary(8, theta=500000.0), output_norm=norm)


def beam() -> tuple[Peer, Attention]:
    peer = Peer("beam", "Beam", positions=False)
    bias = HeadBias(4)
    bias.weight = peer.attention.gate_bias
    norms = norms_of(peer, RMSNorm(8), RMSNorm(8))
    return peer, Attention(**peer.projections, **norms, gate_proj=peer.attention.gate_proj, gate_bias=bias)


def norms_of(peer: Peer, q_norm: nn.Module, k_norm: nn.Module, names: tuple[str, str] = ("q_norm", "k_norm")) -> Any:
    """Norms of ours, put in place of those of the peer, which round to float32."""
    for name, norm in zip(names, (q_norm, k_norm), strict=True):
        setattr(peer.attention, name, randomised(norm))
    return {"q_norm": q_norm, "k_norm": k_norm}


def sinks_of(peer: Peer) -> Sinks:
    sinks = Sinks(4)
    sinks.weight = peer.attention.sinks
    return sinks


CASES = (olmo, olmo2, hunyuan, nanochat, gemma2, gpt_oss, granite_swa, bitnet, beam)
ROUNDED = {granite_swa: 1e-6}
"""Whose sinks are rounded to float32."""

PADDINGS = pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])


@PADDINGS
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_it_is_that_of_transformers(case: Callable[[], tuple[Peer, Attention]], padding: Tensor | None) -> None:
    peer, ours = case()
    expected = peer(inputs(), padding, ours.window)
    assert_same(in_passes(ours, inputs(), padding), expected, padding, ROUNDED.get(case, 1e-10))


@PADDINGS
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_in_several_passes_it_is_the_same(case: Callable[[], tuple[Peer, Attention]], padding: Tensor | None) -> None:
    _, ours = case()
    expected = in_passes(ours, inputs(), padding)
    for lengths in LENGTHS:
        assert_same(in_passes(ours, inputs(), padding, lengths), expected, padding)


@torch.no_grad()
def test_norms_that_come_after_positions_are_computed_anew_with_them() -> None:
    """Where a longer sequence turns the tokens before it differently."""
    peer = Peer("hunyuan_v1_dense", "HunYuanDenseV1")
    position = Rotary(8, scaling=DynamicScaling(factor=2.0, original_max_seq_len=4))
    norms = norms_of(peer, RMSNorm(8), RMSNorm(8))
    ours = Attention(**peer.projections, **norms, norm_after_position=True, position=position)
    second = torch.arange(9).expand(2, 9) >= 3  # the first pass is shorter than the sequences trained on
    assert_same(in_passes(ours, inputs(), None, (3, 6)), in_passes(ours, inputs()), second)


@PADDINGS
@torch.no_grad()
def test_norms_with_a_weight_for_each_head_are_those_of_cohere(padding: Tensor | None) -> None:
    peer = Peer("cohere", "Cohere", use_qk_norm=True)
    norms: dict[str, Any] = {"q_norm": LayerNorm(8, bias=False, heads=4), "k_norm": LayerNorm(8, bias=False, heads=2)}
    for name, norm in norms.items():
        norm.weight = getattr(peer.attention, name).weight
    ours = Attention(**peer.projections, **norms)
    peer.attention.forward = without_positions(peer.attention)  # it turns pairs that are neighbours
    assert_same(in_passes(ours, inputs(), padding), peer(inputs(), padding), padding, 1e-6)  # its norms are in float32
    assert_same(in_passes(ours, inputs(), padding, (5, 4)), in_passes(ours, inputs(), padding), padding)


def without_positions(attention: Any) -> Callable[..., Any]:
    """Its `forward`, with angles that are all zero."""
    forward, zeros = attention.forward, torch.zeros(2, 9, 8, dtype=torch.float64)
    return lambda **values: forward(**{**values, "position_embeddings": (zeros + 1, zeros)})


@PADDINGS
@torch.no_grad()
def test_queries_grow_with_their_positions_as_in_ministral3(padding: Tensor | None) -> None:
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "llama_4_scaling_beta": 0.5,
        "original_max_position_embeddings": 3,
    }
    peer = Peer("ministral3", "Ministral3", rope_parameters=rope)
    ours = Attention(**peer.projections, position=Rotary(8), query_scaling=LogQueryScaling(beta=0.5, interval=3))
    assert_same(in_passes(ours, inputs(), padding), peer(inputs(), padding), padding)
    assert_same(in_passes(ours, inputs(), padding, (5, 1, 3)), peer(inputs(), padding), padding)


def test_query_scaling_gives_the_factors_of_llama_4() -> None:
    state = DecodeState()
    state.extend(torch.zeros(2, 9, dtype=torch.int64), PADDING)
    factors = LogQueryScaling(beta=0.1, interval=2)(torch.ones(2, 3, 9, 8), state)
    assert torch.equal(factors, get_llama_4_attn_scale(places(PADDING), 0.1, 2).expand(2, 3, 9, 8))


def test_query_scaling_gives_the_factors_of_beam() -> None:
    state = DecodeState()
    state.extend(torch.zeros(2, 9, dtype=torch.int64), PADDING)
    factors = PowerQueryScaling(exponent=0.1, interval=2048)(torch.ones(2, 3, 9, 8), state)
    torch.testing.assert_close(factors, compute_attention_scaling(cast(Any, places(PADDING))).expand(2, 3, 9, 8))


@PADDINGS
@pytest.mark.parametrize("keep", [3, 2048])
@torch.no_grad()
def test_values_say_which_keys_are_seen_as_in_doge(padding: Tensor | None, keep: int) -> None:
    peer = Peer("doge", "Doge", keep_window_size=keep)
    theirs = peer.attention
    mask = DynamicMask(theirs.dt_proj, keep=keep)
    mask.rate = theirs.A
    norms = norms_of(peer, RMSNorm(8, eps=1e-6), RMSNorm(8, eps=1e-6))
    ours = Attention(**peer.projections, **norms, position=Rotary(8), dynamic_mask=mask)
    assert_same(in_passes(ours, inputs(), padding), peer(inputs(), padding), padding)
    assert_same(in_passes(ours, inputs(), padding, (5, 1, 3)), peer(inputs(), padding), padding)


@torch.no_grad()
def test_a_gate_may_have_one_number_for_each_head() -> None:
    peer, elementwise = beam()
    gate = randomised(nn.Linear(32, 4))
    ours = Attention(**peer.projections, **norms_of(peer, RMSNorm(8), RMSNorm(8)), gate_proj=gate)
    elementwise.gate_bias = None
    weight, bias = gate.weight, gate.bias  # of each head, for each of its dimensions
    elementwise.gate_proj = nn.Linear(32, 32)
    elementwise.gate_proj.weight.data = weight.repeat_interleave(8, dim=0)
    elementwise.gate_proj.bias.data = bias.repeat_interleave(8)
    assert_same(in_passes(ours, inputs()), in_passes(elementwise, inputs()))


@pytest.mark.parametrize("case", [gemma2, gpt_oss])
def test_dropout_and_gradients_reach_the_written_out_softmax(case: Callable[[], tuple[Peer, Attention]]) -> None:
    _, ours = case()
    ours.dropout_p = 1.0
    x = inputs().requires_grad_()
    in_passes(ours.eval(), x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in ours.parameters())
    bias = ours.output_proj.bias
    assert torch.equal(in_passes(ours.train(), x), bias.expand(2, 9, 32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [olmo2, gemma2, gpt_oss, beam])
@torch.no_grad()
def test_half_precision_is_near_full(case: Callable[[], tuple[Peer, Attention]], dtype: torch.dtype) -> None:
    _, ours = case()
    expected = in_passes(ours, inputs() * 0.1)
    half = in_passes(ours.to(dtype), (inputs() * 0.1).to(dtype), None, (5, 4))
    assert half.dtype == dtype
    assert_same(half.double(), expected, None, 0.05)


# --- what does not fit together ---


def attention(**parts: Any) -> Attention:
    """Four query heads that share two key and value heads, of width 8."""
    sizes: dict[str, Any] = {
        "q_proj": nn.Linear(16, 32),
        "k_proj": nn.Linear(16, 16),
        "v_proj": nn.Linear(16, 16),
        "output_proj": nn.Linear(32, 16),
        "head_dim": 8,
    }
    return Attention(**{**sizes, **parts})


def test_faults_of_all_parts_are_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        attention(
            position=Rotary(16),
            q_norm=RMSNorm(32),
            k_norm=LayerNorm(8, heads=4),
            window=0,
            scale=0.0,
            cap=-1.0,
            clip=0.0,
            bias=Alibi(2),
            sinks=Sinks(3),
            output_norm=RMSNorm(16),
            gate_proj=nn.Linear(8, 7),
            gate_bias=HeadBias(5),
            dropout_p=1.5,
        )
    assert error.value.faults == (
        "dropout_p = 1.5: must be from 0 to 1",
        "position turns 16 dimensions of heads that have 8",
        "q_norm is over 32, and must be over 8",
        "k_norm is for 4 heads, k_proj gives 2",
        "a window of 0 tokens sees nothing",
        "scale = 0.0: must be above 0",
        "cap = -1.0: must be above 0",
        "clip = 0.0: must be above 0",
        "bias is for 2 heads, q_proj gives 4",
        "sinks is for 3 heads, q_proj gives 4",
        "gate_bias is for 5 heads, q_proj gives 4",
        "output_norm is over 16, and must be over 32",
        "gate_proj takes 8, q_proj 16",
        "gate_proj gives 7, and must give 4 or 32",
    )


@pytest.mark.parametrize(
    ("parts", "faults"),
    [
        ({"norm_over": "row"}, ["norm_over = 'row': must be 'head' or 'width'"]),
        (
            {"norm_over": "width", "norm_after_position": True},
            ["norms over the whole width come before heads are turned: norm_after_position must be False"],
        ),
        (
            {"norm_over": "width", "q_norm": RMSNorm(8), "k_norm": RMSNorm(8, heads=2)},
            [
                "q_norm is over 8, and must be over 32",
                "k_norm is over 8, and must be over 16",
                "k_norm has a weight for each head: norm_over must be 'head'",
            ],
        ),
        ({"gate_bias": HeadBias(4)}, ["gate_bias has no gate_proj whose numbers it could be added to"]),
    ],
)
def test_each_fault_is_named(parts: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        attention(**parts)
    assert list(error.value.faults) == faults


@pytest.mark.parametrize("part", [Sinks, HeadBias, Alibi])
def test_no_part_is_for_no_heads(part: Any) -> None:
    with pytest.raises(ConfigError, match="0"):
        part(0)


def test_queries_cannot_grow_every_0_tokens() -> None:
    with pytest.raises(ConfigError, match="every 0 tokens: the interval must be above 0"):
        LogQueryScaling(beta=0.1, interval=0)
