"""Fresh weights over ranks are those of one process, and no rank has all of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from kinfold.nn import RMSNorm, materialize, without_storage
from kinfold.parallel import fresh_model, keep_stage, pretended_gangs, shard_data_parallel, shard_model
from kinfold.parallel.estimate.live import Live
from kinfold.parallel.local import local, part_of
from kinfold.parallel.native import native_plan
from kinfold_zoo.llama import LlamaConfig, create_llama_model

CONFIG = LlamaConfig(
    model_dim=32, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, ffn_inner_dim=48, ffn_inner_dim_to_multiple=1,
    vocab_size=61, unk_idx=None, bos_idx=0, eos_idx=1, tied_embeddings=True,
)  # fmt: skip


def parts_of(whole: nn.Module, spread: nn.Module) -> None:
    """Every part that a rank has is that of the whole, bit for bit."""
    expected = whole.state_dict()
    for name, own in spread.state_dict().items():
        part = expected[name][tuple(slice(each.start, each.stop) for each in part_of(own))]
        assert torch.equal(local(own), part), name


def test_every_rank_has_its_part_of_the_weights_of_one_process() -> None:
    torch.manual_seed(3)
    whole = create_llama_model(CONFIG)
    after = torch.rand(())
    names = set()
    for rank in range(8):
        with pretended_gangs(rank=rank, tp=2, dp=2, pp=2) as gangs:

            def spread(model: nn.Module, gangs: Any = gangs) -> None:
                shard_model(model, native_plan(model), gangs)
                keep_stage(model, gangs["pp"])
                shard_data_parallel(model, gangs["dp"])

            model = fresh_model(create_llama_model, CONFIG, spread, seed=3, device="cpu")
            assert torch.equal(torch.rand(()), after)  # what is drawn afterwards is the same, too
            parts_of(whole, model)
            names |= model.state_dict().keys()
    assert names == whole.state_dict().keys()


def test_a_buffer_that_is_not_saved_is_there_too() -> None:
    class Scaled(Two):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.empty(8), persistent=False)

        def reset_parameters(self) -> None:
            torch.nn.init.uniform_(self.get_buffer("scale"))

    def create(config: None, *, device: Any = None, dtype: Any = None) -> nn.Module:
        with without_storage():
            model = Scaled()
        return materialize(model, device=device, dtype=dtype)

    compare(create)
    with pretended_gangs(rank=1, dp=2) as gangs:
        model = fresh_model(create, None, lambda model: shard_data_parallel(model, gangs["dp"]), seed=5, device="cpu")
    assert "scale" not in model.state_dict()
    torch.manual_seed(5)
    assert torch.equal(model.get_buffer("scale"), create(None).get_buffer("scale"))


def test_one_process_has_them_all() -> None:
    torch.manual_seed(3)
    model = fresh_model(create_llama_model, CONFIG, lambda model: None, seed=3, device="cpu", dtype=torch.bfloat16)
    torch.manual_seed(3)
    parts_of(create_llama_model(CONFIG, dtype=torch.bfloat16), model)


def test_a_rank_has_its_part_and_one_module_at_a_time() -> None:
    with pretended_gangs(tp=4) as gangs, Live() as live:
        model = fresh_model(
            create_llama_model,
            CONFIG,
            lambda model: shard_model(model, native_plan(model), gangs),
            seed=0,
            device="cpu",
        )
    own = sum(part.to_local().nbytes for part in model.parameters() if isinstance(part, DTensor))
    largest = max(parameter.numel() * 4 for parameter in model.parameters())
    assert own <= live.now
    assert live.lap() <= own + 1.5 * largest < 0.6 * sum(parameter.numel() * 4 for parameter in model.parameters())


class Two(nn.Module):
    """Two projections and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.layer_norm = RMSNorm(8)


def scaled(first: Any, last: Any) -> None:
    with torch.no_grad():
        last.weight.mul_(0.5)


def scaled_as_data(first: Any, last: Any) -> None:
    last.weight.data.mul_(0.5)


def replaced(first: Any, last: Any) -> None:
    last.weight = nn.Parameter(last.weight * 0.5)


def tied_late(first: Any, last: Any) -> None:
    last.weight = first.weight


def scaled_together(first: Any, last: Any) -> None:
    torch._foreach_mul_([first.weight.data, last.weight.data], 0.5)  # pyright: ignore[reportPrivateImportUsage]


def drawn(first: Any, last: Any) -> None:
    nn.init.xavier_uniform_(first.weight)


@pytest.mark.parametrize("change", [scaled, scaled_as_data, scaled_together, replaced, tied_late, drawn])
def test_weights_that_a_factory_changes_afterwards_are_as_it_leaves_them(
    change: Callable[[Any, Any], None],
) -> None:
    def create(config: None, *, device: Any = None, dtype: Any = None) -> nn.Module:
        with without_storage():
            model = Two()
        materialize(model, device=device, dtype=dtype)
        change(*model.layers)
        return model

    compare(create)


def test_a_factory_that_makes_its_weights_by_itself() -> None:
    compare(lambda config, *, device=None, dtype=None: Two().to(device=device, dtype=dtype))


def compare(create: Callable[..., nn.Module]) -> None:
    torch.manual_seed(5)
    whole = create(None, device="cpu", dtype=torch.float32)
    with pretended_gangs(rank=1, dp=2) as gangs:
        model = fresh_model(create, None, lambda model: shard_data_parallel(model, gangs["dp"]), seed=5, device="cpu")
        parts_of(whole, model)
