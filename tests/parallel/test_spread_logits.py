"""The cross-entropy of logits that ranks share is torch's of the whole."""

from __future__ import annotations

from typing import Any

import pytest
import ranks_logits
import torch
from launching import launch
from torch.nn import functional

from kinfold.parallel import cross_entropy, pretended_gangs, shard_model, spread_logits
from kinfold.parallel.native import native_plan
from kinfold_zoo.llama import LlamaConfig, create_llama_model

SMOOTH: dict[str, Any] = {"label_smoothing": 0.1}
CASES: list[tuple[int, torch.dtype, dict[str, Any]]] = [
    (64, torch.float64, {"reduction": "sum"}),
    (61, torch.float64, {"reduction": "mean"}),  # which does not divide
    (61, torch.float64, {"reduction": "sum", **SMOOTH}),
    (3, torch.float64, {"reduction": "mean", **SMOOTH}),  # of which the last rank has none
    (61, torch.float32, {"reduction": "sum", **SMOOTH}),
    (61, torch.bfloat16, {"reduction": "sum"}),
]


def test_losses_and_gradients_are_those_of_all_logits_together() -> None:
    for found in launch(ranks_logits.losses, 4, CASES):
        for (vocab_size, dtype, options), (loss, gradient) in zip(CASES, found, strict=True):
            logits, targets = ranks_logits.logits_of(vocab_size, dtype, **options)
            exact = logits.double().requires_grad_()
            wanted = functional.cross_entropy(exact.flatten(0, 1), targets.flatten(), **options)
            (wanted * 3).backward()
            assert exact.grad is not None
            least = torch.promote_types(dtype, torch.float32)
            assert loss.dtype == least
            torch.testing.assert_close(loss, wanted.detach().to(least))
            torch.testing.assert_close(gradient, exact.grad.to(dtype))


def test_a_second_pass_through_the_same_graph_is_refused() -> None:
    with pretended_gangs(tp=2) as gangs:
        model = create_llama_model(LlamaConfig(
            model_dim=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, ffn_inner_dim=8, vocab_size=6,
            unk_idx=None, bos_idx=0, eos_idx=1,
        ))  # fmt: skip
        shard_model(model, native_plan(model), gangs)
        spread_logits(model)
        tokens = torch.zeros(1, 3, dtype=torch.int64)
        logits = model(tokens)
        assert logits.shape == (1, 3, 6)
        assert logits.to_local().shape == (1, 3, 3)
        loss = cross_entropy(logits, tokens)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_model_by_itself_gives_its_logits_in_whole() -> None:
    logits, targets = ranks_logits.logits_of(61, torch.float64)
    model = torch.nn.Linear(61, 61, dtype=torch.float64)
    spread_logits(model)
    assert type(model(logits)) is torch.Tensor
    wanted = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert torch.equal(cross_entropy(logits, targets), wanted)
