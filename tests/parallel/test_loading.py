"""Loading over ranks: each has its part, bit for bit, has read no more than that, and all fail if one does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fused
import gguf
import pytest
import ranks_loading as ranks
import torch
from gguf.quants import quantize
from launching import launch
from ranks_loading import Case
from safetensors.torch import load_file, save_file
from small import FUSED, LLAMA, card_of
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kinfold import load_model
from kinfold.errors import CertificateError, ParallelError
from kinfold.keymap import Plan
from kinfold.parallel import pretended_gangs, shard_data_parallel
from kinfold.parallel.loading import bytes_to_read
from kinfold.parallel.local import local, part_of
from kinfold.parallel.stages import keep_stage

PADDING = 6 * 32 * 4
"""Bytes of the rows that `fused` pads its embeddings with, which whoever has the last row looks at."""


def test_what_ranks_have_together_is_the_model(cases: dict[str, Case]) -> None:
    layouts = [{"tp": 4}, {"dp": 4}, {"tp": 2, "dp": 2}]
    for faults in launch(ranks.faults_of_layouts, 4, cases, layouts):
        assert faults == []


def own_of(model: nn.Module) -> dict[str, Tensor]:
    """What this rank has of each weight."""
    return {name: local(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}


@pytest.mark.parametrize("name", ["llama", "tied", "fused", "nllb"])
@pytest.mark.parametrize("sizes", [{"tp": 4}, {"dp": 3}, {"tp": 2, "dp": 2}], ids=str)
def test_a_rank_reads_its_own_parts_and_nothing_else(
    cases: dict[str, Case], name: str, sizes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases[name]
    loader = ranks.loader_of(case)
    whole, prepared = loader(case[0]).state_dict(), loader.prepare(case[0])
    asked: dict[str, Any] = {}
    read = Plan.read
    monkeypatch.setattr(
        Plan, "read", lambda plan, target, index, source: read(plan, target, asked.setdefault(target, index), source)
    )
    for rank in range(sizes.get("tp", 1) * sizes.get("dp", 1)):
        asked.clear()
        with pretended_gangs(rank=rank, **sizes) as gangs:
            model = ranks.loaded(case, gangs)
            parts = {name: part_of(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
            own = own_of(model)
            nbytes = bytes_to_read(model, prepared.conversion.certificate.plan, prepared.checkpoint.manifest)
        assert asked == parts
        for tensor, index in parts.items():
            assert torch.equal(own[tensor], whole[tensor][tuple(slice(p.start, p.stop) for p in index)])
        has_padding = name == "fused" and parts["decoder_frontend.embed.weight"][0].stop == FUSED.vocab_size
        assert nbytes - PADDING * has_padding == sum(part.nbytes for part in own.values())


@pytest.mark.parametrize(
    ("name", "repeated"),
    [("llama", "norm|k_proj|v_proj"), ("fused", "norm"), ("nllb", r"norm|output_proj\.bias")],
)
def test_of_four_ranks_each_reads_a_quarter_of_what_is_spread(cases: dict[str, Case], name: str, repeated: str) -> None:
    whole = ranks.loader_of(cases[name])(cases[name][0]).state_dict()
    for rank in range(4):
        with pretended_gangs(rank=rank, tp=4) as gangs:
            own = own_of(ranks.loaded(cases[name], gangs))
        shares = {tensor: part.nbytes / whole[tensor].nbytes for tensor, part in own.items()}
        assert shares == {tensor: 1 if re.search(repeated, tensor) else 0.25 for tensor in whole}


def test_rows_that_need_no_change_stay_mapped(cases: dict[str, Case]) -> None:
    (file,) = Path(str(cases["fused"][0].checkpoint)).glob("*.safetensors")
    for mmap in (True, False):
        with pretended_gangs(rank=1, tp=2, dp=2) as gangs:
            own = own_of(ranks.loaded(cases["fused"], gangs, mmap=mmap))
        mapped = {name for name, part in own.items() if part.untyped_storage().nbytes() >= file.stat().st_size}
        changed = {name for name in own if re.search("q_proj|k_proj|output_proj", name)}  # reordered, or columns
        assert mapped == (set(own) - changed if mmap else set())
        assert all(part.is_contiguous() for part in own.values())


@pytest.fixture
def quantised(cases: dict[str, Case], tmp_path: Path) -> Case:
    """The Llama in a GGUF file."""
    card = cases["llama"][0]
    loader = load_model.get("llama")
    state = loader(card).state_dict()
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    for name, tensor in loader.checkpoint_converter.export(state, loader.config_loader(card), layout="gguf").items():
        if tensor.dim() == 1:
            writer.add_tensor(name, tensor.numpy())
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(tensor.contiguous().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return card_of("llama", tmp_path / "tiny.gguf", LLAMA), None, ()


def test_of_what_is_decoded_a_rank_keeps_its_part(quantised: Case) -> None:
    whole = load_model(quantised[0]).state_dict()
    with pretended_gangs(rank=1, tp=2) as gangs:
        own = own_of(ranks.loaded(quantised, gangs))
    for name, part in own.items():
        if part.dim() > 1:
            assert part.untyped_storage().nbytes() == part.nbytes
            dim = next(dim for dim in (0, 1) if part.shape[dim] < whole[name].shape[dim])
            assert torch.equal(part, whole[name].chunk(2, dim)[1])


def test_a_stage_loads_what_it_has_left_in_the_dtype_of_the_whole(cases: dict[str, Case], tmp_path: Path) -> None:
    (file,) = Path(str(cases["fused"][0].checkpoint)).glob("*.safetensors")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    tensors["ln"] = tensors["ln"].float()  # of the last stage
    save_file(tensors, tmp_path / "model.safetensors")
    card, loader = fused.card_of(tmp_path, FUSED), fused.loader(FUSED)
    whole, names = loader(card).state_dict(), []
    for rank in range(2):
        seen = []
        with pretended_gangs(rank=rank, pp=2) as gangs:
            stage = loader(
                card,
                gangs=gangs,
                before_loading=lambda model, gang=gangs["pp"]: keep_stage(model, gang),
                progress=lambda *both, seen=seen: seen.append(both),
            )
        state = stage.state_dict()
        names += state
        assert all(torch.equal(tensor, whole[name]) and tensor.dtype == torch.float32 for name, tensor in state.items())
        assert seen[-1] == (sum(tensor.nbytes for tensor in state.values()),) * 2
    assert sorted(names) == sorted(whole)


def test_what_is_added_before_loading_is_not_filled(cases: dict[str, Case]) -> None:
    def add(model: nn.Module) -> None:
        model.register_parameter("adapter", nn.Parameter(torch.empty(2, device="meta")))

    with pytest.raises(CertificateError) as error:
        load_model(cases["llama"][0], before_loading=add)
    assert error.value.faults == ("adapter",)


def test_the_model_is_spread_before_there_are_weights(cases: dict[str, Case]) -> None:
    seen = []
    with pretended_gangs(tp=2) as gangs:
        load_model(
            cases["llama"][0],
            dtype=torch.bfloat16,
            gangs=gangs,
            before_loading=lambda model: seen.append(states(model)),
        )
    assert seen == [{(DTensor, "meta", torch.bfloat16)}]


def states(model: nn.Module) -> set[tuple[type, str, torch.dtype]]:
    return {(type(parameter.data), parameter.device.type, parameter.dtype) for parameter in model.parameters()}


def test_a_family_without_a_sharder_is_not_spread_in_silence(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_model.get("llama"), "sharder", None)
    with pretended_gangs(dp=2) as gangs:
        load_model(cases["llama"][0], gangs=gangs, before_loading=lambda model: shard_data_parallel(model, gangs["dp"]))
    with pretended_gangs(tp=2) as gangs, pytest.raises(ParallelError, match="'llama' has no sharder for tp=2 ranks"):
        load_model(cases["llama"][0], gangs=gangs)


@pytest.fixture
def repeated(cases: dict[str, Case], tmp_path: Path) -> Case:
    """A checkpoint in whose reference layout the output should repeat the embeddings, and does not."""
    card = cases["tied"][0]
    converter, config = load_model.get("llama").checkpoint_converter, load_model.get("llama").config_loader(card)
    foreign = converter.export(load_model(card).state_dict(), config, layout="reference")
    foreign["output.weight"] = foreign["output.weight"] + 1
    save_file({name: tensor.clone() for name, tensor in foreign.items()}, tmp_path / "model.safetensors")
    return card_of("llama", tmp_path, {**LLAMA, "tied_embeddings": True}), None, ()


def test_all_ranks_fail_alike_and_before_anything_is_read(
    cases: dict[str, Case], repeated: Case, tmp_path: Path
) -> None:
    odd = fused.config_of(
        model_dim=30, num_layers=2, num_heads=3, num_kv_heads=3, head_dim=10, ffn_inner_dim=45, vocab_size=64
    )
    indivisible: Case = fused.write_checkpoint(tmp_path / "odd", odd), odd, ()
    first, second = launch(ranks.outcomes_of_errors, 2, indivisible, repeated, cases["llama"])

    assert first["indivisible"] == second["indivisible"]
    kind, said, reads = first["indivisible"]
    assert (kind, reads) == ("ParallelError", 0)
    assert "3 query heads cannot be divided among 2 ranks" in said
    assert "45 dimensions cannot be divided among 2 ranks" in said

    assert first["misfit"] == second["misfit"]
    kind, said, reads = first["misfit"]
    assert (kind, reads) == ("CertificateError", 0)
    assert "the model has (99, 64)" in said

    assert first["repeated"][0] == "KeyMapError"  # the first rank alone has compared them
    assert second["repeated"][0] == "RankError"
    assert "rank 0: KeyMapError: The checkpoint does not hold what the key map says" in second["repeated"][1]
    assert first["repeated"][2] == 2

    assert second["torn"][0] == "CheckpointError"
    assert first["torn"][0] == "RankError"
    assert "failed on other ranks:\n  - rank 1: CheckpointError" in first["torn"][1]

    assert first["sound"][:2] == second["sound"][:2] == ("", "")


def test_a_rank_has_its_share_in_memory_and_little_more(cases: dict[str, Case], tmp_path: Path) -> None:
    config = fused.config_of(
        model_dim=1024, num_layers=4, num_heads=16, num_kv_heads=4, head_dim=64, ffn_inner_dim=2816, vocab_size=8192
    )
    case: Case = fused.write_checkpoint(tmp_path / "large", config, dtype=torch.bfloat16), config, ()
    prepared = fused.loader(config).prepare(case[0])
    source, target = prepared.checkpoint.manifest, prepared.model.state_dict()
    whole = sum(4 * tensor.numel() for tensor in target.values())
    largest = max([info.nbytes for info in source.values()] + [4 * tensor.numel() for tensor in target.values()])
    for grown, own in launch(ranks.private_memory, 4, case, cases["fused"]):
        assert own == pytest.approx(whole / 4, rel=0.01)
        assert grown <= own + 2 * largest
        assert own + 2 * largest < 0.6 * whole  # or else the bound would say nothing
