"""What ranks of `test_estimate` do."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from kinfold.parallel import checkpoint_activations, setup_gangs
from kinfold.parallel.estimate.live import Live
from kinfold_zoo.llama import LlamaConfig, create_llama_model, shard_llama_model


def peaks(config: LlamaConfig, shape: tuple[int, int]) -> list[int]:
    """The most bytes that operators make in a step: as it is, and with sequence parallel.

    What gloo copies to send it is not among them.
    """
    found = []
    with setup_gangs(tp=2, device="cpu") as gangs:
        for sequence_parallel in (False, True):
            torch.manual_seed(0)
            model = create_llama_model(config)
            shard_llama_model(model, config, gangs, sequence_parallel=sequence_parallel)
            token_ids = torch.zeros(shape, dtype=torch.int64)
            let_go_of_gradients(model)
            train(model, token_ids)  # DTensor works shapes out on whole tensors, which it remembers
            with Live([*model.parameters(), token_ids]) as live:
                train(model, token_ids)
            found.append(live.lap())
    return found


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
        loss = cross_entropy(logits.flatten(0, -2).float(), token_ids[-1].flatten())
        del logits
    loss.backward()


def let_go_of_gradients(model: nn.Module) -> None:
    """As soon as they are there."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
