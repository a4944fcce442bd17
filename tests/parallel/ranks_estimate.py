"""What ranks of `test_estimate` do."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from kinfold.parallel import (
    Pipeline,
    checkpoint_activations,
    cross_entropy,
    keep_stage,
    setup_gangs,
    spread_logits,
)
from kinfold.parallel.estimate.live import Live
from kinfold_zoo.llama import LlamaConfig, create_llama_model, shard_llama_model


def peaks(config: LlamaConfig, shape: tuple[int, int], ways: Sequence[Mapping[str, bool]]) -> list[int]:
    """The most bytes that operators make in a step, with and without what a `Workload` has words for.

    What gloo copies to send it is not among them.
    """
    found = []
    with setup_gangs(tp=2, device="cpu") as gangs:
        for way in ways:
            torch.manual_seed(0)
            model = create_llama_model(config)
            shard_llama_model(model, config, gangs, sequence_parallel=way["sequence_parallel"])
            if way["spread_logits"]:
                spread_logits(model)
            token_ids = torch.zeros(shape, dtype=torch.int64)
            let_go_of_gradients(model)
            train(model, token_ids)  # DTensor works shapes out on whole tensors, which it remembers
            with Live([*model.parameters(), token_ids]) as live:
                found.append(min(_lap(live, partial(train, model, token_ids)) for _ in range(8)))
    return found


def peaks_of_stages(config: LlamaConfig, shape: tuple[int, int], microbatches: Sequence[int]) -> list[int]:
    """The most bytes that operators make in a step of this stage, by the number of microbatches."""
    found = []
    with setup_gangs(pp=3, device="cpu") as gangs:
        for number in microbatches:
            model = create_llama_model(config)
            keep_stage(model, gangs["pp"])
            pipeline = Pipeline(model, gangs, cross_entropy, microbatches=number)
            token_ids = torch.zeros(shape, dtype=torch.int64)
            let_go_of_gradients(model)
            with Live([*model.parameters(), token_ids]) as live:
                pipeline.backward(token_ids, token_ids)  # sets up what is sent
                found.append(min(_lap(live, partial(pipeline.backward, token_ids, token_ids)) for _ in range(8)))
    return found


def _lap(live: Live, step: Callable[[], object]) -> int:
    """The most bytes in one step; sometimes more, since gloo's thread lets go of what it has sent when it can."""
    live.lap()
    step()
    return live.lap()


def peak_of_a_step(
    model: nn.Module, *token_ids: Tensor, dtype: torch.dtype = torch.float32, checkpointing: bool = False
) -> int:
    """The most bytes that torch's allocator has handed out at a time, beyond what there was before."""
    torch.set_num_threads(1)
    if checkpointing:
        checkpoint_activations(model)
    let_go_of_gradients(model)
    train(model, *token_ids, dtype=dtype)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        train(model, *token_ids, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    now = most = 0
    for event in sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"]):
        now += event["args"]["Bytes"]
        most = max(most, now)
    return most


def train(model: nn.Module, *token_ids: Tensor, dtype: torch.dtype = torch.float32) -> None:
    """A step: forward and backward."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(*token_ids)
        loss = cross_entropy(logits, token_ids[-1])
        del logits
    loss.backward()


def let_go_of_gradients(model: nn.Module) -> None:
    """As soon as they are there."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
