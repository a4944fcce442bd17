"""On GPUs: the same numbers, weights that go straight there, and the memory that was estimated. By `make test-gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fused
import pytest
import ranks_gpu as ranks
import torch
from launching import launch
from ranks_loading import Case

from kinfold.parallel.estimate import RankMemory, estimate_memory
from kinfold_zoo.llama import LlamaConfig, create_llama_model, llama_archs, shard_llama_model

pytestmark = pytest.mark.gpu

MEDIUM = LlamaConfig(
    model_dim=1024, num_layers=8, num_heads=16, num_kv_heads=8, head_dim=64, ffn_inner_dim=2816,
    ffn_inner_dim_to_multiple=256, vocab_size=32000, max_seq_len=2048,
)  # fmt: skip

WORKSPACES = 200 * 2**20
"""What cuBLAS takes, 32 MiB for each thread and stream, and what kernels take for themselves."""

WAYS = [
    {},
    {"sequence_parallel": True},
    {"checkpointed": True},
    {"compiled": "inductor"},
]


@pytest.mark.parametrize("gang", ["tp", "dp"])
def test_a_llama_is_the_same_over_all_gpus(gang: str) -> None:
    count = torch.cuda.device_count()
    for found in launch(ranks.llama, count, {gang: count}, WAYS):
        for way, off in zip(WAYS, found, strict=True):
            assert max(off.values()) < 1e-5, way


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    [straight] = launch(ranks.losses_of_training, count, MEDIUM, tmp_path / "straight", [4])[0]
    [_, resumed] = launch(ranks.losses_of_training, count, MEDIUM, tmp_path / "resumed", [2, 4])[0]
    assert resumed == pytest.approx(straight, rel=1e-5)


@pytest.mark.parametrize("rank", [0, 1])
def test_weights_go_straight_to_the_gpu(tmp_path: Path, rank: int) -> None:
    config = fused.config_of(
        model_dim=1024, num_layers=4, num_heads=16, num_kv_heads=4, head_dim=64, ffn_inner_dim=2816, vocab_size=8192
    )
    case: Case = fused.write_checkpoint(tmp_path / "large", config, dtype=torch.bfloat16), config, ()
    prepared = fused.loader(config).prepare(case[0])
    largest = max(info.nbytes for info in prepared.checkpoint.manifest.values())
    [(wrong, own, on_gpu, on_host)] = launch(ranks.loading, 1, case, rank, 2)
    print(f"\n{own} bytes are this rank's; {on_gpu} on the GPU at most, {on_host} on the host")
    assert wrong == []
    assert own <= on_gpu <= own + 2 * largest
    assert on_host <= 2 * largest


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("config", [MEDIUM, llama_archs.get("llama3_2_1b")], ids=lambda config: f"{config.model_dim}")
def test_training_needs_what_is_estimated(config: LlamaConfig, checkpointing: bool) -> None:
    work = {"seq_len": 1024, "batch_size": 4, "activation_checkpointing": checkpointing}
    [estimated] = estimate_memory(create_llama_model, config, **work)
    compare(estimated, *launch(ranks.memory_of_training, 1, config, *work.values()))


@pytest.mark.parametrize(
    ("config", "sizes", "seq_len", "batch_size", "checkpointing", "sequence_parallel"),
    [
        (MEDIUM, {"dp": 2}, 1024, 4, False, False),
        (MEDIUM, {"dp": 2}, 1024, 4, True, False),
        (MEDIUM, {"tp": 2}, 1024, 4, False, False),
        (MEDIUM, {"tp": 2}, 1024, 4, True, False),
        (MEDIUM, {"tp": 2}, 1024, 4, False, True),
        (llama_archs.get("llama3_1_8b"), {"dp": 8}, 4096, 1, False, False),
        (llama_archs.get("llama3_1_8b"), {"tp": 4, "dp": 2}, 8192, 1, False, True),
        (llama_archs.get("llama3_1_70b"), {"tp": 8, "dp": 8}, 8192, 1, True, True),
        (llama_archs.get("llama3_1_405b"), {"tp": 8, "dp": 16}, 8192, 1, True, True),
    ],
)  # fmt: skip
def test_one_rank_of_many_needs_what_is_estimated(
    config: LlamaConfig,
    sizes: dict[str, int],
    seq_len: int,
    batch_size: int,
    checkpointing: bool,
    sequence_parallel: bool,
) -> None:
    work: dict[str, Any] = {
        "seq_len": seq_len,
        "batch_size": batch_size,
        "activation_checkpointing": checkpointing,
        "sequence_parallel": sequence_parallel,
    }
    estimated = estimate_memory(create_llama_model, config, **sizes, **work, sharder=shard_llama_model)[0]
    compare(estimated, *launch(ranks.memory_of_a_pretended_rank, 1, config, sizes, *work.values()))


def compare(estimated: RankMemory, measured: tuple[int, int]) -> None:
    allocated, reserved = measured
    print(f"\nestimated {estimated.total / 1e9:.2f} GB, allocated {allocated / 1e9:.2f}, held {reserved / 1e9:.2f}")
    print(f"{allocated / estimated.total:.3f} of {estimated}")
    assert 0.9 * estimated.total <= allocated <= estimated.total + WORKSPACES
