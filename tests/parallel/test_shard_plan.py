"""Shard plans and gangs that do not fit are errors that say everything at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from kinfold.errors import ParallelError
from kinfold.parallel import Gang, ShardPlan, pretended_gangs, setup_gangs, shard_model, shard_transformer_decoder_model
from kinfold.parallel.gangs import own_device
from kinfold.parallel.native import native_plan
from kinfold.parallel.stages import keep_stage, stage_layers
from kinfold_zoo.llama import LlamaConfig, create_llama_model
from kinfold_zoo.llama.loader import llama_shard_plan
from kinfold_zoo.nllb import NllbConfig, create_nllb_model

SMALL = LlamaConfig(
    model_dim=24, num_layers=2, num_heads=6, num_kv_heads=3, head_dim=4, ffn_inner_dim=40, ffn_inner_dim_to_multiple=1,
    vocab_size=61, unk_idx=None,
)  # fmt: skip


def small(**changes: Any) -> nn.Module:
    return create_llama_model(dataclasses.replace(SMALL, **changes), device="meta")


def changed(**styles: str) -> ShardPlan:
    known: dict[str, Any] = {**llama_shard_plan.styles, **{name.replace("__", "."): s for name, s in styles.items()}}
    return ShardPlan({name: style for name, style in known.items() if style != "none"})


def test_a_style_that_there_is_not() -> None:
    with pytest.raises(ParallelError) as caught:
        ShardPlan({"final_proj": "colunm", "ffn": "rows"})  # pyright: ignore[reportArgumentType]
    assert caught.value.faults == (
        "`final_proj`: there is no style 'colunm'. Did you mean 'column'?",
        "`ffn`: there is no style 'rows'. Did you mean 'row'?",
    )


def test_patterns_that_match_nothing_and_modules_that_nothing_matches() -> None:
    plan = ShardPlan({
        **{name: style for name, style in llama_shard_plan.styles.items() if not name.endswith("ffn.output_proj")},
        "decoder.layers.{layer}.self_attn.q_porj": "column",
        "decoder.layers.0.self_attn.q_proj": "column",
    })  # fmt: skip
    with pytest.raises(ParallelError) as caught:
        plan.matched(small())
    assert caught.value.summary == "The shard plan does not fit this LlamaModel:"
    first, second, third = caught.value.faults
    assert first.startswith("`decoder.layers.{layer}.self_attn.q_porj` matches no module. Did you mean ")
    assert "'decoder.layers.{layer}.self_attn.q_proj'" in first
    assert second == (
        "decoder.layers.0.self_attn.q_proj is matched by decoder.layers.{layer}.self_attn.q_proj and "
        "decoder.layers.0.self_attn.q_proj"
    )
    assert third == "nothing says how `decoder.layers.{layer}.ffn.output_proj` is spread"


def test_a_part_that_a_model_may_have_and_has_not_is_no_fault() -> None:
    plan = ShardPlan({**llama_shard_plan.styles, "decoder_frontend.project": "replicate"})
    assert "decoder_frontend.project" not in plan.matched(small())


def test_numbers_that_do_not_divide_are_all_named_and_nothing_is_changed() -> None:
    model = small()
    before = dict(model.named_parameters())
    with pytest.raises(ParallelError) as caught:
        shard_transformer_decoder_model(model, Gang("tp", 0, 4))
    assert caught.value.faults == (
        "decoder.layers.{layer}.self_attn: 6 query heads cannot be divided among 4 ranks; 1, 2, 3, 6 would do",
        "decoder.layers.{layer}.self_attn: 3 key and value heads cannot be divided among 4 ranks; 1, 3 would do",
    )
    assert caught.value.hint == "These would fit: tp = 1."
    assert all(before[name] is parameter for name, parameter in model.named_parameters())
    with pytest.raises(ParallelError, match=r"These would fit: tp = 1, 3, 6\."):
        shard_transformer_decoder_model(small(ffn_inner_dim=42), Gang("tp", 0, 4))


def test_fewer_key_and_value_heads_than_ranks_are_whole_on_every_rank() -> None:
    with pretended_gangs(tp=6, rank=5) as gangs:
        model = small(ffn_inner_dim=42)
        shard_model(model, llama_shard_plan, gangs)
        shapes = {name.rpartition("self_attn.")[2]: tuple(p.to_local().shape) for name, p in model.named_parameters()}  # pyright: ignore
    assert shapes["q_proj.weight"] == (4, 24)
    assert shapes["k_proj.weight"] == (12, 24)


def test_the_gang_of_one_process_needs_no_process_group() -> None:
    with setup_gangs(device="cpu") as gangs:
        assert {gang.size for gang in gangs.values()} == {1}
        model = small()
        shard_model(model, llama_shard_plan, gangs)
        assert type(next(model.parameters())) is nn.Parameter
        assert str(gangs) == "one rank"
    assert not torch.distributed.is_initialized()


def test_sizes_that_do_not_fit_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParallelError, match=r"tp=4 does not fit 1 process\.\nStart 4 processes or a multiple of it"):
        setup_gangs(tp=4)
    with pytest.raises(ParallelError, match=r"dp=2 \* tp=4 does not fit 1 process\.\nStart 8 processes: torchrun"):
        setup_gangs(tp=4, dp=2)
    with pytest.raises(ParallelError) as caught:
        setup_gangs(tp=0, pp=-1)
    assert caught.value.faults == ("pp = -1: must be an int above 0", "tp = 0: must be an int above 0")
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ParallelError, match="tp=4 does not fit 6 processes"):
        setup_gangs(tp=4)


def test_more_processes_than_gpus_are_an_error_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in range(4):
        for name, value in {"WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4, "RANK": rank, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ParallelError, match=r"4 processes were started on a machine that has 2 GPUs\.\nStart one"):
            setup_gangs(device="cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert own_device("cuda") == torch.device("cuda", 1)


def test_a_sequence_that_does_not_divide_says_what_would() -> None:
    with pretended_gangs(tp=2) as gangs:
        model = create_llama_model(dataclasses.replace(SMALL, num_kv_heads=6))
        shard_model(model, llama_shard_plan, gangs, sequence_parallel=True)
        with pytest.raises(ParallelError, match=r"A sequence of 7 tokens .* 2 ranks .*\nPad it to 8 tokens"):
            model(torch.zeros(1, 7, dtype=torch.int64))


def test_a_model_that_has_no_stages() -> None:
    with pytest.raises(ParallelError) as caught:
        keep_stage(small(), Gang("pp", 0, 3))
    assert caught.value.faults == ("it has 2 layers, less than one for each stage",)
    with pytest.raises(ParallelError, match="it has an encoder"):
        keep_stage(create_nllb_model(NllbConfig(), device="meta"), Gang("pp", 0, 2))


def test_stages_are_as_even_as_can_be() -> None:
    assert stage_layers(7, 3) == [range(0, 3), range(3, 5), range(5, 7)]
    assert stage_layers(4, 4) == [range(n, n + 1) for n in range(4)]


def test_the_plan_by_names_is_that_of_the_family() -> None:
    assert native_plan(small()).styles == llama_shard_plan.styles
