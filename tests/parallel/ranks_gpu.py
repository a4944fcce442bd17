"""What ranks do on GPUs: all there are together, or one as if it were one of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ranks_loading import Case, loaded, loader_of, most_private_memory
from ranks_tensor import llama_in_ways
from torch import nn

from kinfold.parallel import checkpoint_activations, pretended_gangs, setup_gangs, shard_data_parallel, spread_logits
from kinfold.parallel.local import local, part_of
from kinfold.recipes.lm import LmUnit
from kinfold.recipes.optimizer import make_optimizer
from kinfold.training import SequenceBatch, Trainer
from kinfold_zoo.llama import LlamaConfig, create_llama_model, shard_llama_model

TIMEOUT = 60.0


def llama(sizes: Mapping[str, Any], ways: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """As `ranks_tensor.llama`."""
    with setup_gangs(**sizes, timeout=TIMEOUT) as gangs:
        return llama_in_ways(gangs, tied=False, ways=ways)


def losses_of_training(config: LlamaConfig, folder: Path, num_steps: Sequence[int]) -> list[float]:
    """The losses after runs of so many steps, each of which goes on from the one before."""
    found = []
    with setup_gangs(timeout=TIMEOUT) as gangs:
        for number in num_steps:
            torch.manual_seed(0)
            model = create_llama_model(config, device=gangs.device)
            shard_data_parallel(model, gangs["dp"], dtype=torch.bfloat16)
            batches = [torch.randint(config.vocab_size, (2, 65)) for _ in range(max(num_steps))]
            result = trainer(model, batches, max_num_steps=number, gangs=gangs, checkpoint_dir=folder)()
            assert result.loss is not None
            found.append(result.loss)
    return found


def trainer(model: nn.Module, batches: Sequence[torch.Tensor], **options: Any) -> Trainer[SequenceBatch]:
    return Trainer(
        unit=LmUnit(model),
        data_reader=list(map(SequenceBatch, batches)),
        optimizer=make_optimizer(model, lr=1e-3, weight_decay=0.1),
        dtype=torch.bfloat16,
        **options,
    )


def memory_of_training(
    config: LlamaConfig, seq_len: int, batch_size: int, activation_checkpointing: bool
) -> tuple[int, int]:
    """The most bytes that are allocated in steps of two batches each, and what the allocator holds."""
    with setup_gangs(timeout=TIMEOUT) as gangs:
        model = create_llama_model(config, device=gangs.device)
        if activation_checkpointing:
            checkpoint_activations(model)
        batches = [torch.randint(config.vocab_size, (batch_size, seq_len + 1))] * 6
        trainer(model, batches, max_num_steps=3, gradient_accumulation=2, gangs=gangs, progress=AfterTheFirstStep())()
        return torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()


class AfterTheFirstStep:
    """Begins to look at memory when the optimizer has made what it keeps."""

    def start(self, step_nr: int, max_num_steps: int | None) -> None: ...

    def record(self, kind: str, step_nr: int, values: Mapping[str, float]) -> None:
        if step_nr == 1:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def close(self) -> None: ...


def memory_of_a_pretended_rank(
    config: LlamaConfig,
    sizes: Mapping[str, Any],
    seq_len: int,
    batch_size: int,
    activation_checkpointing: bool,
    sequence_parallel: bool,
) -> tuple[int, int]:
    """The same of one rank of many, to which nothing is sent: what it computes are no numbers, of the right size."""
    with pretended_gangs(**sizes, device="cuda") as gangs:
        model = create_llama_model(config, device="meta")
        if gangs["tp"].size > 1:
            shard_llama_model(model, config, gangs, sequence_parallel=sequence_parallel)
        spread_logits(model)
        if activation_checkpointing:
            checkpoint_activations(model)
        shard_data_parallel(model, gangs["dp"], dtype=torch.bfloat16)
        model.to_empty(device=gangs.device)
        unit, optimizer = LmUnit(model), make_optimizer(model, lr=1e-3, weight_decay=0.1)
        batch = SequenceBatch(torch.randint(config.vocab_size, (batch_size, seq_len + 1), device=gangs.device))
        for step in range(2):
            if step:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            for _ in range(step + 1):
                with torch.autocast("cuda", torch.bfloat16):
                    loss, _ = unit(batch)
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()


def loading(case: Case, rank: int, ranks: int) -> tuple[list[str], int, int, int]:
    """Which weights are not this rank's, the bytes of those that are, and what memory grew by on GPU and host."""
    with pretended_gangs(rank=rank, tp=ranks, device="cuda") as gangs:
        loaded(case, gangs)  # what CUDA and torch take for themselves
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with most_private_memory() as growth:
            own = loaded(case, gangs).state_dict()
        most = torch.cuda.max_memory_allocated() - before
    whole = loader_of(case)(case[0]).state_dict()
    wrong = [name for name, weight in own.items() if not _is_part(weight, whole[name])]
    return wrong, sum(local(weight).nbytes for weight in own.values()), most, growth[0]


def _is_part(weight: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a weight lies on the GPU and is this rank's part of a whole one."""
    expected = whole[tuple(slice(part.start, part.stop) for part in part_of(weight))]
    return local(weight).is_cuda and torch.equal(local(weight).cpu(), expected)
