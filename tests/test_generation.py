"""Generation gives what transformers' generate gives, token by token, and leaves its caller alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from llama_peer import peer_of, tiny_llama
from torch import Tensor
from transformers import TopKLogitsWarper, TopPLogitsWarper

from kinfold.errors import GenerationError
from kinfold.generation import generate, stream
from kinfold_zoo.llama import LlamaModel


@pytest.fixture(scope="module")
def model() -> LlamaModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def prompts() -> Tensor:
    return torch.randint(64, (3, 6), generator=torch.Generator().manual_seed(1))


class FixedLogits(torch.nn.Module):
    """Gives the same logits, (V,), for whatever comes."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, token_ids: Tensor, padding_mask: Tensor | None = None, state: Any = None) -> Tensor:
        return self.logits.expand(*token_ids.shape, -1)


def test_greedy_tokens_are_those_of_transformers(model: LlamaModel, prompts: Tensor) -> None:
    theirs = peer_of(model).generate(prompts, max_new_tokens=20, do_sample=False)
    assert torch.equal(generate(model, prompts, max_new_tokens=20), theirs)


def test_each_row_ends_with_its_stop_token(model: LlamaModel, prompts: Tensor) -> None:
    free = generate(model, prompts, max_new_tokens=20)[:, 6:]
    stops = [int(free[0, 4]), int(free[1, 9])]
    expected = free.clone()
    for row in expected:
        ends = torch.isin(row, torch.tensor(stops)).nonzero()
        if len(ends):
            row[int(ends[0]) :] = row[int(ends[0])].clone()

    stopped = generate(model, prompts, max_new_tokens=20, stop_tokens=stops)[:, 6:]

    assert torch.equal(stopped, expected[:, : stopped.shape[1]])
    assert len({(row != row[-1]).sum().item() for row in stopped}) > 1, "all rows end together: a weak example"


def test_stop_tokens_are_those_of_transformers(model: LlamaModel, prompts: Tensor) -> None:
    stop = int(generate(model, prompts, max_new_tokens=20)[0, 10])
    theirs = peer_of(model).generate(
        prompts, max_new_tokens=20, do_sample=False, eos_token_id=stop, pad_token_id=stop, attention_mask=prompts >= 0
    )
    assert torch.equal(generate(model, prompts, max_new_tokens=20, stop_tokens=[stop]), theirs)


def test_it_ends_when_all_rows_have(model: LlamaModel, prompts: Tensor) -> None:
    stop = int(generate(model, prompts[:1], max_new_tokens=5)[0, -1])
    row = generate(model, prompts[:1], max_new_tokens=50, stop_tokens=[stop])[0, 6:].tolist()
    assert len(row) <= 5
    assert row.index(stop) == len(row) - 1


@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 20, "top_p": 0.9}], ids=["greedy", "sampled"])
def test_streaming_gives_what_generate_gives(model: LlamaModel, prompts: Tensor, options: dict[str, Any]) -> None:
    def seeded() -> dict[str, Any]:
        return {**options, "max_new_tokens": 8, "generator": torch.Generator().manual_seed(3)}

    streamed = list(stream(model, prompts, **seeded()))
    assert all(tokens.shape == (3,) and tokens.dtype == torch.int64 for tokens in streamed)
    assert torch.equal(torch.stack(streamed, dim=1), generate(model, prompts, **seeded())[:, 6:])


def test_the_seed_decides(model: LlamaModel, prompts: Tensor) -> None:
    first, again, other = (
        generate(model, prompts, max_new_tokens=10, temperature=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 5},
        {"top_k": 100},
        {"top_p": 0.01},
        {"top_p": 0.5},
        {"top_p": 0.9},
        {"top_p": 1.0},
        {"top_k": 6, "top_p": 0.8},
    ],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_distribution_of_transformers(options: dict[str, Any], temperature: float) -> None:
    logits = torch.randn(16, generator=torch.Generator().manual_seed(0)) * 2
    expected = logits[None] / temperature
    warpers = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper}
    for name, value in options.items():
        expected = warpers[name](value)(torch.empty(1, 0), expected)
    expected = expected.softmax(-1)[0]

    drawn = generate(
        FixedLogits(logits),
        torch.zeros(20_000, 1, dtype=torch.int64),
        max_new_tokens=1,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
        **options,
    )[:, 1]

    frequencies = drawn.bincount(minlength=16) / len(drawn)
    assert not frequencies[expected == 0].any()
    assert frequencies[expected > 1e-3].all()
    torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)


def test_padding_on_the_left_changes_nothing(model: LlamaModel, prompts: Tensor) -> None:
    lengths = (2, 4, 6)
    mask = torch.tensor([[slot >= 6 - length for slot in range(6)] for length in lengths])
    padded = torch.where(mask, prompts, 7)
    together = generate(model, padded, max_new_tokens=10, padding_mask=mask)
    for row, length in enumerate(lengths):
        alone = generate(model, prompts[row : row + 1, 6 - length :], max_new_tokens=10)
        assert torch.equal(together[row, 6 - length :], alone[0])


def test_nothing_new_is_the_prompt(model: LlamaModel, prompts: Tensor) -> None:
    assert torch.equal(generate(model, prompts, max_new_tokens=0), prompts)
    assert list(stream(model, prompts, max_new_tokens=0)) == []


def test_the_caller_is_not_left_in_inference_mode(model: LlamaModel, prompts: Tensor) -> None:
    for tokens in stream(model, prompts, max_new_tokens=3):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()
        assert not tokens.is_inference()
    assert not generate(model, prompts, max_new_tokens=1).is_inference()
    model(prompts).sum().backward()


def test_a_stream_that_is_left_early_leaves_nothing_behind(model: LlamaModel, prompts: Tensor) -> None:
    tokens = stream(model, prompts, max_new_tokens=5)
    next(tokens)
    tokens.close()  # pyright: ignore
    assert not torch.is_inference_mode_enabled()


FAULTY: dict[str, Any] = {"max_new_tokens": -1, "temperature": -1.0, "top_k": 0, "top_p": 1.5}
FAULTS = (
    "token_ids is torch.float32 (6,): must be torch.int64 (batch, seq)",
    "max_new_tokens = -1: must be 0 or more",
    "temperature = -1.0: must be 0 (the likeliest token) or more",
    "top_k = 0: must be 1 or more",
    "top_p = 1.5: must be above 0 and at most 1",
)


@pytest.mark.parametrize("call", [generate, stream])  # stream: before the first token is asked for
def test_faults_are_refused_all_at_once(call: Any, model: LlamaModel) -> None:
    with pytest.raises(GenerationError) as error:
        call(model, torch.zeros(6), **FAULTY)
    assert error.value.faults == FAULTS


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"temperature": float("inf")}, "temperature = inf"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p = 0.0"),
        ({"temperature": 1.0, "top_p": float("nan")}, "top_p = nan"),
        ({"top_k": 5}, "top_k and top_p choose among tokens to sample"),
        ({"padding_mask": torch.ones(3, 5, dtype=torch.bool)}, "padding_mask is torch.bool (3, 5)"),
        ({"padding_mask": torch.ones(3, 6)}, "padding_mask is torch.float32 (3, 6)"),
        ({"padding_mask": torch.arange(6).expand(3, 6) < 5}, "padding_mask has padding on the right"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_named(model: LlamaModel, prompts: Tensor, options: dict[str, Any], fault: str) -> None:
    with pytest.raises(GenerationError) as error:
        stream(model, prompts, **{"max_new_tokens": 1, **options})
    assert len(error.value.faults) == 1
    assert error.value.faults[0].startswith(fault)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0)])
def test_there_must_be_a_prompt(model: LlamaModel, shape: tuple[int, int]) -> None:
    with pytest.raises(GenerationError, match="token_ids is"):
        generate(model, torch.zeros(shape, dtype=torch.int64), max_new_tokens=1)
