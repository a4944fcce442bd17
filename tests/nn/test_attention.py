"""Attention against a softmax written out, against transformers' models, and against itself without a cache."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from llama_peer import peer_of, tiny_llama
from torch import Tensor
from torch.nn import Linear
from transformers import MistralForCausalLM

from kinfold.errors import ConfigError, GenerationError
from kinfold.nn import Attention, DecodeState, DynamicScaling, Llama3Scaling, LongRopeScaling, RMSNorm, RopeScaling
from kinfold_zoo.llama import LlamaModel

DYNAMIC = DynamicScaling(factor=2.0, original_max_seq_len=6)
LONGROPE = LongRopeScaling(
    short_factors=(1.0, 1.1, 1.2, 1.3), long_factors=(2.0, 4.0, 8.0, 16.0), original_max_seq_len=6, factor=4.0
)


@pytest.fixture(scope="module")
def token_ids() -> Tensor:
    return torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(1))


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-6) -> None:
    """Equal to `tolerance`, relative to the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def attention(**parts: Any) -> Attention:
    """Four query heads that share two key and value heads, of width 8."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "q_proj": Linear(16, 32),
        "k_proj": Linear(16, 16),
        "v_proj": Linear(16, 16),
        "output_proj": Linear(32, 16),
        "head_dim": 8,
    }
    return Attention(**{**sizes, **parts}).double()


def written_out(module: Attention, x: Tensor, sees: Tensor) -> Tensor:
    """Attention without positions, head by head; `sees` (B, S, S) is True where a query sees a key."""
    norms = {name: getattr(module, f"{name}_norm") or torch.nn.Identity() for name in ("q", "k")}
    outputs = []
    for head in range(4):
        q = norms["q"](module.q_proj(x)[..., head * 8 : head * 8 + 8])
        shared = head // 2 * 8
        k = norms["k"](module.k_proj(x)[..., shared : shared + 8])
        v = module.v_proj(x)[..., shared : shared + 8]
        scores = (q @ k.transpose(1, 2) / math.sqrt(8)).masked_fill(~sees, -math.inf)
        outputs.append(scores.softmax(-1) @ v)
    return module.output_proj(torch.cat(outputs, dim=-1))


def seen(seq_len: int, window: int) -> Tensor:
    """Which tokens see which, (1, S, S)."""
    return torch.tensor([[[0 <= query - key < window for key in range(seq_len)] for query in range(seq_len)]])


def one_pass(module: Attention, x: Tensor, chunks: list[int] | None = None) -> Tensor:
    """What attention gives for `x`, in chunks of these lengths if any."""
    seq_len = x.shape[1]
    state = DecodeState(capacity=seq_len if chunks else None)
    outputs = []
    for part in x.split(chunks or seq_len, dim=1):
        state.extend(torch.zeros(part.shape[:2], dtype=torch.int64))
        outputs.append(module(part, state))
    return torch.cat(outputs, dim=1)


def in_chunks(model: torch.nn.Module, token_ids: Tensor, lengths: list[int], mask: Tensor | None = None) -> Tensor:
    """The logits of a model that takes so many tokens a pass."""
    state = DecodeState(capacity=token_ids.shape[1])
    masks = [None] * len(lengths) if mask is None else mask.split(lengths, dim=1)
    parts = zip(token_ids.split(lengths, dim=1), masks, strict=True)
    return torch.cat([model(tokens, padding, state) for tokens, padding in parts], dim=1)


# --- against what others compute ---


@pytest.mark.parametrize("window", [None, 1, 3, 7, 9])
@pytest.mark.parametrize("chunks", [None, [7], [1] * 7, [4, 1, 2], [2, 5]])
def test_it_is_a_softmax_over_what_a_query_sees(window: int | None, chunks: list[int] | None) -> None:
    module = attention(window=window)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    assert_same(one_pass(module, x, chunks), written_out(module, x, seen(7, window or 7)), 1e-12)


def test_queries_and_keys_pass_their_own_norms() -> None:
    module = attention(q_norm=RMSNorm(8), k_norm=RMSNorm(8))
    for norm in (module.q_norm, module.k_norm):
        assert norm is not None
        torch.nn.init.normal_(norm.weight)  # pyright: ignore
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    assert_same(one_pass(module, x), written_out(module, x, seen(7, 7)), 1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_llama_computes_what_transformers_computes(token_ids: Tensor, tied: bool) -> None:
    model = tiny_llama(tied_embeddings=tied)
    theirs = peer_of(model, tie_word_embeddings=tied)
    assert_same(model(token_ids), theirs(token_ids).logits)


@pytest.mark.parametrize(
    ("scaling", "parameters"),
    [
        (
            Llama3Scaling(factor=8.0, original_max_seq_len=6),
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        ),
        (DYNAMIC, {"rope_type": "dynamic", "factor": 2.0}),
        (
            LONGROPE,
            {
                "rope_type": "longrope",
                "factor": 4.0,
                "short_factor": list(LONGROPE.short_factors),
                "long_factor": list(LONGROPE.long_factors),
            },
        ),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("seq_len", [6, 7, 12])
def test_llama_with_scaled_positions_too(
    token_ids: Tensor, scaling: RopeScaling, parameters: dict[str, Any], seq_len: int
) -> None:
    model = tiny_llama(rope_scaling=scaling)
    dynamic = parameters["rope_type"] == "dynamic"
    original = {} if dynamic else {"original_max_position_embeddings": 6}
    theirs = peer_of(
        model,
        max_position_embeddings=6 if dynamic else 64,
        rope_parameters={**parameters, **original, "rope_theta": 10000.0},
    )
    assert_same(model(token_ids[:, :seq_len]), theirs(token_ids[:, :seq_len]).logits)


@pytest.mark.parametrize("window", [1, 4, 12])
def test_a_window_is_that_of_mistral(token_ids: Tensor, window: int) -> None:
    model = with_window(window)
    theirs = peer_of(model, MistralForCausalLM, sliding_window=window)
    assert_same(model(token_ids), theirs(token_ids).logits)


def with_window(window: int | None, **values: Any) -> LlamaModel:
    """A tiny llama that sees so many tokens."""
    model = tiny_llama(**values)
    for layer in model.decoder.layers:
        layer.self_attn.window = window  # pyright: ignore
    return model


# --- padding ---


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scaling", [None, DYNAMIC, LONGROPE], ids=lambda value: type(value).__name__)
def test_padding_changes_nothing_for_the_tokens(
    token_ids: Tensor, side: str, window: int | None, scaling: RopeScaling | None
) -> None:
    model = with_window(window, rope_scaling=scaling)
    mask = torch.zeros(3, 12, dtype=torch.bool)
    expected = []
    padded = torch.full((3, 12), 7)
    for row, length in enumerate((5, 8, 10)):
        tokens = slice(12 - length, 12) if side == "left" else slice(length)
        mask[row, tokens] = True
        padded[row, tokens] = token_ids[0, :length]
        expected.append(model(token_ids[:1, :length])[0])
    for logits in (model(padded, mask), in_chunks(model, padded, [12], mask)):
        assert_same(logits[mask], torch.cat(expected), 1e-9)


def test_a_row_of_nothing_but_padding_gives_no_nan(token_ids: Tensor) -> None:
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[1] = False
    for model in (tiny_llama(), with_window(3)):
        logits = model(token_ids, mask)
        assert logits.isfinite().all()
        assert_same(logits[0], model(token_ids[:1])[0], 1e-9)
        logits.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())  # pyright: ignore


# --- cached decoding ---

CHUNKS = [[5, 3, 1, 1, 2], [1] * 12, [12], [6, 6], [7, 5]]


@pytest.mark.parametrize("lengths", CHUNKS, ids=str)
@pytest.mark.parametrize("window", [None, 1, 4])
def test_in_chunks_equals_one_pass(token_ids: Tensor, lengths: list[int], window: int | None) -> None:
    model = with_window(window)
    assert_same(in_chunks(model, token_ids, lengths), model(token_ids), 1e-9)


@pytest.mark.parametrize("lengths", CHUNKS, ids=str)
@pytest.mark.parametrize("window", [None, 4])
def test_in_chunks_equals_one_pass_with_padding_on_the_left(
    token_ids: Tensor, lengths: list[int], window: int | None
) -> None:
    model = with_window(window)
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[1, :5] = False
    assert_same(in_chunks(model, token_ids, lengths, mask)[mask], model(token_ids, mask)[mask], 1e-9)


def test_padding_may_begin_after_the_first_pass(token_ids: Tensor) -> None:
    model = tiny_llama()
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[1, 6:8] = False
    state = DecodeState(capacity=12)
    parts = [model(token_ids[:, :5], None, state), model(token_ids[:, 5:], mask[:, 5:], state)]
    assert_same(torch.cat(parts, dim=1)[mask], model(token_ids, mask)[mask], 1e-9)


@pytest.mark.parametrize("scaling", [DYNAMIC, LONGROPE], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("lengths", CHUNKS, ids=str)
def test_keys_are_turned_anew_when_a_longer_sequence_asks_for_it(
    token_ids: Tensor, scaling: RopeScaling, lengths: list[int]
) -> None:
    # One layer: what deeper ones kept was computed from values that the shorter sequence gave.
    model = tiny_llama(rope_scaling=scaling, num_layers=1)
    state = DecodeState(capacity=12)
    ends = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    for start, end in pairwise(ends):  # across original_max_seq_len, which is 6
        logits = model(token_ids[:, start:end], None, state)
        assert_same(logits, model(token_ids[:, :end])[:, start:], 1e-9)


@pytest.mark.parametrize("scaling", [DYNAMIC, LONGROPE], ids=lambda value: type(value).__name__)
def test_they_are_turned_anew_row_by_row_where_there_is_padding(token_ids: Tensor, scaling: RopeScaling) -> None:
    model = tiny_llama(rope_scaling=scaling, num_layers=1)
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    mask[1, :5] = False
    state = DecodeState(capacity=12)
    for start, end in pairwise([0, 6, 9, 10, 11, 12]):
        logits = model(token_ids[:, start:end], mask[:, start:end], state)[:, -1]
        assert_same(logits[0], model(token_ids[:1, :end])[0, -1], 1e-9)
        assert_same(logits[1], model(token_ids[1:, 5:end])[0, -1], 1e-9)


def test_a_copy_decodes_by_itself(token_ids: Tensor) -> None:
    model = tiny_llama()
    in_chunks(model, token_ids, [6, 6])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert_same(in_chunks(twin, token_ids, [6, 6]), tiny_llama()(token_ids), 1e-9)


@torch.no_grad()
def test_a_model_and_its_state_are_copied_together(token_ids: Tensor) -> None:
    model = tiny_llama()
    state = DecodeState(capacity=12)
    model(token_ids[:, :6], None, state)
    twin, twin_state = copy.deepcopy((model, state))
    expected = model(token_ids)[:, 6:]
    assert_same(twin(token_ids[:, 6:], None, twin_state), expected, 1e-9)
    assert_same(model(token_ids[:, 6:], None, state), expected, 1e-9)  # the two keep apart


def test_a_state_does_not_go_on_with_another_model(token_ids: Tensor) -> None:
    model = tiny_llama()
    state = DecodeState(capacity=12)
    model(token_ids[:, :6], None, state)
    with pytest.raises(GenerationError, match="Nothing of the 6 tokens before is kept"):
        copy.deepcopy(model)(token_ids[:, 6:], None, state)


# --- dtypes and modes ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_full(token_ids: Tensor, dtype: torch.dtype) -> None:
    model = tiny_llama(init_std=0.1)
    exact = model(token_ids)
    half = copy.deepcopy(model).to(dtype)
    for logits in (half(token_ids), in_chunks(half, token_ids, [5, 1, 6])):
        assert logits.dtype == dtype
        assert_same(logits.double(), exact, 0.1)


def test_inference_leaves_nothing_that_training_trips_over(token_ids: Tensor) -> None:
    model = tiny_llama(tied_embeddings=True, rope_scaling=DYNAMIC).train()
    with torch.inference_mode():
        model(token_ids)
        in_chunks(model, token_ids, [5, 7])
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(token_ids).logsumexp(-1).sum().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], now) for name, now in model.state_dict().items())


# --- what does not fit together ---


def test_faults_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        attention(q_proj=Linear(16, 30), v_proj=Linear(12, 8), window=0)
    assert error.value.faults == (
        "q_proj gives 30, which is no multiple of head_dim 8",
        "k_proj gives 16 and v_proj 8, which must be equal",
        "output_proj takes 32, q_proj gives 30",
        "the projections take different widths: [12, 16]",
        "a window of 0 tokens sees nothing",
    )


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        (
            {"k_proj": Linear(16, 24), "v_proj": Linear(16, 24)},
            "4 query heads cannot share 3 key and value heads evenly",
        ),
        ({"head_dim": 0}, "q_proj gives 32, which is no multiple of head_dim 0"),
        ({"window": -1}, "a window of -1 tokens sees nothing"),
    ],
)
def test_each_fault_is_named(parts: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        attention(**parts)
    assert error.value.faults[0] == fault
