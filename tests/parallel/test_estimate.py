"""Estimates of memory, held against what ranks really have and allocate, and against formulas of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from launching import launch
from ranks_estimate import peak_of_a_step, peaks, peaks_of_stages
from structures import STRUCTURES, spec_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.nn.functional import rms_norm

from kinfold.errors import ParallelError
from kinfold.nn import RMSNorm
from kinfold.parallel import cross_entropy, pretended_gangs, shard_data_parallel, shard_model, spread_logits
from kinfold.parallel.estimate import (
    KINDS,
    Blueprint,
    Estimator,
    Layout,
    RankMemory,
    Workload,
    estimate_memory,
    readable,
    smallest_layouts,
)
from kinfold.parallel.estimate.kernels import AsOnGpus
from kinfold.parallel.estimate.usage import Usage
from kinfold.parallel.local import local
from kinfold.parallel.native import native_plan
from kinfold.parallel.stages import keep_stage
from kinfold.scaffold.render.memory import load_family
from kinfold.scaffold.spec.schema import parse_spec
from kinfold_zoo.llama import LlamaConfig, create_llama_model, llama_archs, shard_llama_model

SMALL = LlamaConfig(
    model_dim=64, num_layers=5, num_heads=4, num_kv_heads=2, head_dim=16, ffn_inner_dim=96, ffn_inner_dim_to_multiple=1,
    vocab_size=250, max_seq_len=96,
)  # fmt: skip
AWKWARD = LlamaConfig(
    model_dim=36, num_layers=5, num_heads=2, num_kv_heads=2, head_dim=10, ffn_inner_dim=50, ffn_inner_dim_to_multiple=2,
    vocab_size=101, max_seq_len=16,
)  # fmt: skip
"""Of sizes that ranks cannot divide evenly."""

ENCODER_DECODER = parse_spec(
    "model: encoder_decoder\nposition: {kind: learned}\nnorm: {kind: layer, order: post}\n"
    "archs: {a: {model_dim: 32, num_encoder_heads: 4, num_decoder_heads: 2, ffn_inner_dim: 48, vocab_size: 61}}",
    place="spec",
)


def estimator(config: LlamaConfig, **work: Any) -> Estimator:
    return Estimator(Blueprint(create_llama_model, config, shard_llama_model), Workload(**work))


def usages_of_layers(created: Estimator, layout: Layout) -> list[Usage]:
    """What the layers of a model of one stack use."""
    parts = created._parts(tp=layout.tp, sequences=created.work.batch_size, gathered=layout.dp > 1).parts
    return [part.usage for part in parts if part.layer is not None]


@pytest.mark.parametrize(("arch", "published"), [("llama3_1_8b", 8_030_261_248), ("llama3_1_405b", 405_853_388_800)])
def test_weights_are_those_of_the_whole_model_spread_over_all_ranks(arch: str, published: int) -> None:
    config = llama_archs.get(arch)
    created = estimator(config, seq_len=8)
    assert created.num_parameters == published
    ranks = created.ranks(Layout(dp=6))
    for kind, size in (("parameters", 4), ("gradients", 4), ("optimizer", 8)):
        assert sum(getattr(memory, kind) for memory in ranks) == published * size
    norms = config.model_dim * (2 * config.num_layers + 1)  # which all ranks have in whole
    ranks = created.ranks(Layout(tp=8, dp=2))
    assert sum(memory.parameters for memory in ranks) == (published + 7 * norms) * 4


@pytest.mark.parametrize("tied", [False, True])
def test_every_rank_has_what_it_is_said_to_have(tied: bool) -> None:
    layout = Layout(tp=2, dp=3, pp=2)
    config = replace(AWKWARD, tied_embeddings=tied)
    estimated = estimator(config, seq_len=8).ranks(layout)
    assert [memory.rank for memory in estimated] == list(range(12))
    for memory in estimated:
        with pretended_gangs(rank=memory.rank, tp=2, dp=3, pp=2) as gangs:
            model = create_llama_model(config, device="meta")
            shard_model(model, native_plan(model), gangs)
            keep_stage(model, gangs["pp"])
            shard_data_parallel(model, gangs["dp"])
            locals_ = [local(parameter) for parameter in model.parameters()]
            assert memory.parameters == sum(p.numel() for p in locals_) * 4
            assert memory.stage == gangs["pp"].rank
    assert len({memory.parameters for memory in estimated}) > 4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_allocates_what_is_estimated(dtype: torch.dtype, checkpointing: bool) -> None:
    [estimated] = estimate_memory(
        create_llama_model, SMALL, batch_size=3, dtype=dtype, kernels="cpu", activation_checkpointing=checkpointing
    )
    model = create_llama_model(SMALL)
    real = peak_of_a_step(model, torch.zeros(3, 96, dtype=torch.int64), dtype=dtype, checkpointing=checkpointing)
    states = torch.get_rng_state().nbytes * SMALL.num_layers if checkpointing else 0  # to draw the same numbers again
    assert real == estimated.activations + estimated.working + states


@pytest.mark.parametrize("name", ["encoder_decoder", "post", "dynamic_mask", "latent", "sinks", "steep_alibi"])
def test_a_step_of_any_structure_allocates_what_is_estimated(name: str) -> None:
    spec = ENCODER_DECODER if name == "encoder_decoder" else spec_of(STRUCTURES[name])
    family = load_family(name, spec)
    config = family.archs.get()
    [estimated] = estimate_memory(
        family.create, config, seq_len=24, batch_size=2, dtype=torch.float32, kernels="cpu", sharder=family.sharder
    )
    tokens = torch.zeros(2, 24, dtype=torch.int64)
    inputs = (tokens, tokens) if spec.model == "encoder_decoder" else (tokens,)
    numbers = peak_of_a_step(family.create(config), *inputs) - estimated.activations
    assert 0 <= numbers <= 64  # single ones, which kernels make for themselves


def test_real_ranks_need_what_is_estimated() -> None:
    ways = [
        {"sequence_parallel": sequence_parallel, "spread_logits": spread_logits}
        for sequence_parallel, spread_logits in ((False, False), (False, True), (True, True))
    ]
    estimated = [
        estimator(SMALL, seq_len=96, batch_size=3, dtype=torch.float32, kernels="cpu", **way).ranks(Layout(tp=2))
        for way in ways
    ]
    assert launch(peaks, 2, SMALL, (3, 96), ways) == [[way[rank].activations for way in estimated] for rank in range(2)]


@pytest.mark.parametrize("seq_len", [16, 512])
@pytest.mark.parametrize("tp", [1, 2])
def test_layers_that_fsdp_has_put_together_are_counted(tp: int, seq_len: int) -> None:
    """Held against torch's own simulation of FSDP."""
    config = LlamaConfig(
        model_dim=256, num_layers=6, num_heads=4, num_kv_heads=2, head_dim=64, ffn_inner_dim=1024, vocab_size=2048,
        ffn_inner_dim_to_multiple=1,
    )  # fmt: skip
    estimated = estimator(config, seq_len=seq_len, kernels="cpu", optimizer="sgd").ranks(Layout(tp=tp, dp=2))[0]
    simulated = fsdp_peak(config, seq_len, tp=tp)
    assert simulated <= estimated.total <= 1.1 * simulated


def fsdp_peak(config: LlamaConfig, seq_len: int, *, tp: int) -> int:
    """The most bytes in a second step that adds to the gradients of the first."""
    token_ids = torch.zeros(1, seq_len, dtype=torch.int64)
    with pretended_gangs(tp=tp, dp=2) as gangs:
        model = create_llama_model(config, device="meta")
        shard_llama_model(model, config, gangs)
        spread_logits(model)
        shard_data_parallel(model, gangs["dp"], dtype=torch.bfloat16)
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            trackers = [FSDPMemTracker(model) for _ in range(2)]
            for tracker in trackers:
                tracker.track_inputs((token_ids,))
                with tracker, torch.autocast("cpu", torch.bfloat16):
                    cross_entropy(model(token_ids), token_ids).backward()
    return max(int(sizes["Total"]) for sizes in trackers[-1].get_tracker_snapshot("peak").values())


@pytest.mark.parametrize(("tp", "sequence_parallel"), [(1, False), (2, False), (2, True), (4, True)])
def test_a_layer_keeps_what_the_formula_says(tp: int, sequence_parallel: bool) -> None:
    """That of Korthikanti et al. 2022, section 4, without dropout and without scores, which flash attention leaves out.

    In units of sequence * batch * width bytes, for values of two bytes (these are of four): two norms keep 4, and give
    the blocks 4; these have 24 inside, of queries, keys, values, what is attended to, and twice four times the width.
    Ranks divide what is inside of blocks, and with sequence parallel all but what these are given.
    """
    spec = {"num_kv_heads": None, "position": {"kind": "learned"}, "norm": {"kind": "layer"}, "ffn": {"kind": "plain"},
            "model_dim": 128, "num_heads": 4, "head_dim": 32, "ffn_inner_dim": 512}  # fmt: skip
    family = load_family("x", spec_of(spec))
    work = Workload(seq_len=64, batch_size=2, dtype=torch.float32, sequence_parallel=sequence_parallel)
    created = Estimator(Blueprint(family.create, family.archs.get(), family.sharder), work)
    tokens, unit = 128, 128 * 128 * 2
    divided = 28 if sequence_parallel else 24
    expected = unit * (32 - divided) + unit * divided // tp
    numbers = tokens * (4 * 4 + 4 * 4)  # of rows: one for each head, and two for each norm, in float32
    for usage in usages_of_layers(created, Layout(tp=tp)):
        assert expected <= usage.kept <= expected + numbers


def test_root_mean_square_norms_give_what_they_are_given_within_autocast() -> None:
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    with AsOnGpus(), torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(x, (8,)).dtype == torch.float32
        assert RMSNorm(8).bfloat16()(x).dtype == torch.bfloat16


def test_decoding_keeps_keys_and_values_alone() -> None:
    created = estimator(SMALL, seq_len=96, batch_size=3, optimizer="none")
    keys_and_values = 2 * 3 * 96 * SMALL.num_kv_heads * SMALL.head_dim * 2
    _, *usages, _ = usages_of_layers(created, Layout())
    assert {usage.kept for usage in usages} == {keys_and_values}
    [memory] = created.ranks(Layout())
    assert (memory.gradients, memory.optimizer, memory.working) == (0, 0, 0)
    assert memory.parameters == created.num_parameters * 2


def test_checkpointing_keeps_what_layers_are_given() -> None:
    created = estimator(SMALL, seq_len=96, batch_size=3, activation_checkpointing=True)
    for layout, itemsize in ((Layout(), 4), (Layout(dp=2), 2)):  # FSDP casts what layers are given
        _, *usages, _ = usages_of_layers(created, layout)
        assert {usage.kept for usage in usages} == {3 * 96 * SMALL.model_dim * itemsize}


def test_real_stages_need_what_is_estimated() -> None:
    """But for copies of the tokens, and what has been sent by the time that memory is most needed."""
    numbers, tokens = [1, 2, 4, 8], 8 * 96
    layout = {"seq_len": 96, "batch_size": 8, "dtype": torch.float32, "kernels": "cpu"}
    estimated = [estimator(SMALL, microbatches=number, **layout).ranks(Layout(pp=3)) for number in numbers]
    for rank, peaks_of_rank in enumerate(launch(peaks_of_stages, 3, SMALL, (8, 96), numbers)):
        for number, peak, ranks in zip(numbers, peaks_of_rank, estimated, strict=True):
            vectors = tokens // number * SMALL.model_dim * 4
            assert peak - 16 * tokens - 64 <= ranks[rank].activations <= peak + vectors, (rank, number)


def test_a_stage_keeps_as_many_microbatches_as_there_are_stages_from_it_on() -> None:
    one, four, eight = (estimator(SMALL, seq_len=96, batch_size=count).ranks(Layout(pp=2)) for count in (1, 4, 8))
    for stage, in_flight in ((0, 2), (1, 1)):
        kept = [ranks[stage].activations for ranks in (one, four, eight)]
        assert (in_flight - 0.5) * kept[0] < kept[1] < (in_flight + 0.5) * kept[0]
        received = 4 * 96 * SMALL.model_dim * 4  # of four microbatches more
        assert kept[2] - kept[1] == received


def test_layers_are_shared_by_stages_and_the_ends_have_what_is_around_them() -> None:
    stages = estimator(SMALL, seq_len=8, optimizer="none").ranks(Layout(pp=3))
    whole = create_llama_model(SMALL, device="meta")
    layer = sum(p.numel() for p in whole.decoder.layers[0].parameters()) * 2
    embedding = SMALL.vocab_size * SMALL.model_dim * 2
    assert [memory.parameters for memory in stages] == [
        2 * layer + embedding, 2 * layer, layer + embedding + SMALL.model_dim * 2
    ]  # fmt: skip


def test_the_smallest_layouts_fit_and_smaller_ones_do_not() -> None:
    created = estimator(SMALL, seq_len=32, activation_checkpointing=True)
    limit = 700_000
    search = smallest_layouts(created, limit, most_ranks=64)
    order = [(fit.layout.ranks, fit.layout.pp, fit.layout.tp) for fit in search.fitting]
    assert order == sorted(order)
    numbers = (1, 2, 4, *range(8, 65, 8))
    for fit in search.fitting:
        assert fit.fullest.total == max(memory.total for memory in created.ranks(fit.layout)) <= limit
        tp, pp = fit.layout.tp, fit.layout.pp
        smaller = [Layout(tp, n // (tp * pp), pp) for n in numbers if n < fit.layout.ranks and n % (tp * pp) == 0]
        assert all(created.fullest(layout).total > limit for layout in smaller)
    assert search.fitting[0].layout.ranks > 1
    assert "tp = 8: " in " ".join(search.ruled_out)
    assert "pp = 8: it has 5 layers, less than one for each stage" in search.ruled_out


@pytest.mark.parametrize("tp", [1, 2])
def test_more_ranks_never_need_more(tp: int) -> None:
    created = estimator(AWKWARD, seq_len=16)
    totals = [created.fullest(Layout(tp, dp)).total for dp in range(2, 40)]
    assert totals == sorted(totals, reverse=True)


def test_where_none_fits_the_nearest_are_named() -> None:
    created = estimator(SMALL, seq_len=96)
    layouts = [Layout(tp, 8 // (tp * pp), pp) for tp in (1, 2, 4) for pp in (1, 2, 4) if tp * pp <= 8]
    nearest = sorted(layouts, key=lambda layout: created.fullest(layout).total)[:3]
    with pytest.raises(ParallelError, match=r"No layout of up to 8 ranks fits 1\.0 KB\. These come nearest:") as raised:
        smallest_layouts(created, 1000, most_ranks=8)
    for fault, layout in zip(raised.value.faults[:3], nearest, strict=True):
        needed = readable(created.fullest(layout).total)
        assert fault.startswith(
            f"tp = {layout.tp}, pp = {layout.pp}: a rank needs {needed} even with dp = {layout.dp}; "
        )
    assert any(fault.startswith("tp = 8: ") for fault in raised.value.faults)


def test_everything_that_does_not_divide_is_named_at_once() -> None:
    created = estimator(SMALL, seq_len=95, batch_size=3, microbatches=2, sequence_parallel=True)
    with pytest.raises(ParallelError, match="This LlamaModel cannot be spread by tp=3 dp=1 pp=9:") as raised:
        created.ranks(Layout(tp=3, pp=9))
    said = str(raised.value)
    assert "tp = 3: decoder.layers.{layer}.self_attn: 4 query heads cannot be divided among 3 ranks; 1, 2, 4" in said
    assert "pp = 9: it has 5 layers, less than one for each stage" in said
    assert "sequence parallel: 95 tokens cannot be divided among tp=3 ranks; 96 would do" in said
    assert "batch_size = 3 cannot be cut into 2 microbatches; 1, 3 would do" in said


def test_sizes_that_there_cannot_be_are_all_named() -> None:
    with pytest.raises(ParallelError) as raised:
        estimate_memory(create_llama_model, SMALL, tp=0, dp=True, pp=-1)
    assert [fault.partition(":")[0] for fault in raised.value.faults] == ["tp = 0", "dp = True", "pp = -1"]
    with pytest.raises(ParallelError) as raised:
        estimate_memory(create_llama_model, SMALL, seq_len=0, batch_size=0)
    assert raised.value.faults == ("seq_len = 0: must be above 0", "batch_size = 0: must be above 0")


def test_bytes_are_readable() -> None:
    assert [readable(n) for n in (0, 999, 1500, 2_000_000, 81_230_000_000, 4_500_000_000_000)] == [
        "0 B", "999 B", "1.5 KB", "2.0 MB", "81.2 GB", "4,500.0 GB"
    ]  # fmt: skip


def test_a_total_is_the_sum_of_all_kinds() -> None:
    memory = RankMemory(0, 0, 1, 2, 3, 4, 5)
    assert memory.total == sum(getattr(memory, kind) for kind in KINDS) == 15


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda layers, x: layers[0](layers[0](x)), "its layers are not called each once"),
        (lambda layers, x: layers[0](x[x[..., 0] > 0]), r"it depends on values \(aten\.nonzero"),
        (lambda layers, x: layers[0](x) * x.sum().item(), r"it depends on values \(aten\._local_scalar_dense"),
    ],
)
def test_what_cannot_be_measured_is_refused(forward: Callable[..., Tensor], said: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.layers = nn.ModuleList([nn.Linear(4, 4)])

        def forward(self, token_ids: Tensor) -> Tensor:
            return forward(self.layers, self.embed(token_ids))

    def create(config: None, *, device: str, dtype: torch.dtype | None = None) -> nn.Module:
        return Model().to(device=device, dtype=dtype)

    with pytest.raises(ParallelError, match=said):
        estimate_memory(create, None, seq_len=4, sharder=lambda *_: None)
