"""Alibi gives the bias that transformers' three versions of it give, and attention the same with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_peers import BATCH, LENGTH, PADDING, assert_same, in_passes, inputs, randomised, seen
from torch import Tensor, nn
from transformers import BloomConfig, FalconConfig, MptConfig
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.falcon.modeling_falcon import FalconAttention
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as build_falcon_alibi_tensor
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor

from kinfold.errors import ConfigError
from kinfold.nn import Alibi, Attention, DecodeState, EncodeState

TOKENS = torch.zeros(BATCH, LENGTH, dtype=torch.int64)


def state_of(padding: Tensor | None) -> DecodeState:
    state = DecodeState()
    state.extend(TOKENS, padding)
    return state


def relative(bias: Tensor) -> Tensor:
    """(B, H, 1, T), of keys alone, without what is the same for all keys of a query: (B, H, S, T)."""
    return bias - bias.transpose(2, 3)


# --- the bias alone ---


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 8, 12, 16, 71])
@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
def test_slopes_are_those_of_bloom(num_heads: int, padding: Tensor | None) -> None:
    tokens = torch.ones_like(TOKENS) if padding is None else padding.long()
    theirs = relative(build_alibi_tensor(tokens, num_heads, torch.float64).view(BATCH, num_heads, 1, LENGTH))
    ours = Alibi(num_heads)(state_of(padding))
    assert ours.dtype == torch.float32
    assert ours.dim() == (3 if padding is None else 4)
    sees = seen(padding).expand(theirs.shape)
    torch.testing.assert_close(ours.double().expand(theirs.shape)[sees], theirs[sees], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 8, 12, 16, 71])
@pytest.mark.parametrize("max_bias", [8, 4])
def test_slopes_are_those_of_mpt(num_heads: int, max_bias: int) -> None:
    theirs = relative(build_mpt_alibi_tensor(num_heads, LENGTH, max_bias)[None])[0]
    ours = Alibi(num_heads, max_bias=max_bias)(state_of(None))
    sees = seen(None)[0].expand(theirs.shape)
    torch.testing.assert_close(ours[sees], theirs[sees], rtol=1e-6, atol=1e-6)


def test_a_later_pass_has_the_rows_of_its_own_tokens() -> None:
    state = DecodeState(capacity=LENGTH)
    rows = []
    for tokens, padding in zip(TOKENS.split([4, 1, 4], dim=1), PADDING.split([4, 1, 4], dim=1), strict=True):
        state.extend(tokens, padding)
        rows.append(nn.functional.pad(Alibi(4)(state), (0, LENGTH - state.length)))
    sees = seen(PADDING).expand(BATCH, 4, LENGTH, LENGTH)
    assert torch.equal(torch.cat(rows, dim=2)[sees], Alibi(4)(state_of(PADDING))[sees])


def test_to_both_sides_keys_as_far_away_are_as_likely() -> None:
    bias = Alibi(4)(EncodeState(TOKENS))
    assert torch.equal(bias, bias.transpose(1, 2))
    assert (bias <= 0).all()


def test_all_wrong_values_are_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Alibi(0, max_bias=0.0, scale=-1.0)
    assert error.value.faults == (
        "num_heads = 0: must be above 0",
        "max_bias = 0.0: must be above 0",
        "scale = -1.0: must be above 0",
    )


# --- attention with it ---


def bloom(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Attention]:
    theirs: Any = randomised(BloomAttention(BloomConfig(hidden_size=32, n_head=4), layer_idx=0))
    tokens = torch.ones_like(TOKENS) if padding is None else padding.long()
    alibi = build_alibi_tensor(tokens, 4, x.dtype)
    expected = theirs(x, torch.zeros_like(x), alibi, added(padding))[0]
    parts = cut(theirs.query_key_value, (4, 3, 8), theirs.dense)
    return expected, Attention(**parts, head_dim=8, bias=Alibi(4))


def mpt(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Attention]:
    config = MptConfig(d_model=32, n_heads=4, attn_config={"clip_qkv": 0.8, "alibi_bias_max": 4})
    theirs: Any = randomised(MptAttention(config, layer_idx=0))
    alibi = build_mpt_alibi_tensor(4, 16, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", lambda scores: scores)  # it rounds before its softmax
        expected = theirs(x, alibi, attention_mask=~seen(padding))[0]
    parts = cut(theirs.Wqkv, (1, 3, 32), theirs.out_proj)
    return expected, Attention(**parts, head_dim=8, bias=Alibi(4, max_bias=4.0), clip=0.8)


def falcon(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Attention]:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "multi_query": False, "bias": True}
    theirs: Any = randomised(FalconAttention(FalconConfig(**sizes, alibi=True), layer_idx=0))
    tokens = torch.ones_like(TOKENS) if padding is None else padding.long()
    alibi = build_falcon_alibi_tensor(tokens, 2, x.dtype)
    expected = theirs(x, alibi, added(padding))[0]
    parts = cut(theirs.query_key_value, (2, 3, 16), theirs.dense)
    return expected, Attention(**parts, head_dim=16, bias=Alibi(2, scale=16**-0.5))


def added(padding: Tensor | None) -> Tensor:
    return torch.zeros(BATCH, 1, LENGTH, LENGTH, dtype=torch.float64).masked_fill(~seen(padding), -torch.inf)


def cut(fused: nn.Linear, turns: tuple[int, int, int], output_proj: nn.Linear) -> dict[str, Any]:
    """All projections; the rows of the queries, keys and values lie in so many turns of three parts so wide."""
    projections: dict[str, Any] = {"output_proj": output_proj}
    for number, name in enumerate(("q_proj", "k_proj", "v_proj")):
        part = projections[name] = nn.Linear(32, 32, bias=fused.bias is not None)
        for leaf, parameter in part.named_parameters():
            parameter.data = fused.get_parameter(leaf).unflatten(0, turns)[:, number].flatten(0, 1)
    return projections


@pytest.mark.usefixtures("exact_softmax")
@pytest.mark.parametrize("padding", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("case", [bloom, mpt, falcon])
@torch.no_grad()
def test_attention_is_that_of_transformers(
    case: Callable[[Tensor, Tensor | None], tuple[Tensor, Attention]], padding: Tensor | None
) -> None:
    if case is mpt and padding is not None:
        padding = PADDING.flip(1)  # its keys are counted from the right, as if padding stood there
    expected, ours = case(inputs(), padding)
    for lengths in ((), (5, 1, 3), (1,) * LENGTH):
        assert_same(in_passes(ours, inputs(), padding, lengths), expected, padding)


@torch.no_grad()
def test_layers_with_and_without_a_window_share_one_bias() -> None:
    _, ours = bloom(inputs(), None)
    _, windowed = bloom(inputs(), None)
    windowed.bias, windowed.window = ours.bias, 3
    state = state_of(None)
    both = [module(inputs(), state) for module in (ours, windowed, ours)]
    assert torch.equal(both[0], both[2])
    assert not torch.equal(both[0][:, 3:], both[1][:, 3:])
    assert_same(both[1][:, :3], both[0][:, :3], torch.ones(BATCH, 3, dtype=torch.bool))


@torch.no_grad()
def test_half_precision_is_near_full() -> None:
    _, ours = bloom(inputs(), None)
    expected = in_passes(ours, inputs() * 0.1)
    half = in_passes(ours.bfloat16(), (inputs() * 0.1).bfloat16(), None, (5, 4))
    assert_same(half.double(), expected, None, 0.05)
