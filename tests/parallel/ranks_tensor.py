"""What ranks compute of a model that is spread over them, beside what one process computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from structures import STRUCTURES, spec_of
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from kinfold.errors import ParallelError
from kinfold.nn import EncoderOutput
from kinfold.parallel import (
    Gangs,
    Pipeline,
    checkpoint_activations,
    cross_entropy,
    keep_stage,
    setup_gangs,
    shard_data_parallel,
    shard_model,
    shard_transformer_decoder_model,
    spread_logits,
)
from kinfold.parallel.local import local
from kinfold.parallel.native import native_plan
from kinfold.parallel.stages import shared_weight
from kinfold.scaffold.render.memory import load_family
from kinfold_zoo.llama import LlamaConfig, create_llama_model
from kinfold_zoo.nllb import NllbConfig, create_nllb_model

TIMEOUT = 60.0
VOCAB, SEQ = 61, 8


def structures(names: Sequence[str], tp: int) -> dict[str, float | str]:
    """How far every structure is off over ranks, relative to the largest value, in logits and gradients; or why not."""
    found: dict[str, float | str] = {}
    with setup_gangs(tp=tp, device="cpu", timeout=TIMEOUT) as gangs:
        for name in names:
            family = load_family(name, spec_of(STRUCTURES[name]))
            for arch in family.archs.names():
                model = randomized(family.create(family.archs.get(arch), dtype=torch.float64))
                try:
                    found[f"{name} {arch}"] = max(
                        deviation(model, gangs, sequence_parallel=sequence_parallel)
                        for sequence_parallel in (False, True)
                    )
                except ParallelError as error:
                    found[f"{name} {arch}"] = str(error)
    return found


def sharded_structures(names: Sequence[str], tp: int) -> dict[str, float]:
    """How far every structure is off in gradients where its weights are shared by ranks of `dp`, too."""
    found = {}
    with setup_gangs(tp=tp, device="cpu", timeout=TIMEOUT) as gangs:
        dp = gangs["dp"]
        for name in names:
            family = load_family(name, spec_of(STRUCTURES[name]))
            model = randomized(family.create(family.archs.get(), dtype=torch.float64))
            spread = copy.deepcopy(model)
            shard_model(spread, native_plan(spread), gangs)
            shard_data_parallel(spread, dp)
            token_ids = torch.randint(VOCAB, (2 * dp.size, SEQ), generator=torch.Generator().manual_seed(1))
            model(token_ids).square().sum().backward()
            spread(token_ids.chunk(dp.size)[dp.rank]).square().sum().backward()
            found[name] = off_gradients(spread, model, times=dp.size)
    return found


def deviation(model: nn.Module, gangs: Gangs, *, sequence_parallel: bool) -> float:
    """How far logits and gradients of the spread model are off."""
    spread = copy.deepcopy(model)
    shard_model(spread, native_plan(spread), gangs, sequence_parallel=sequence_parallel)
    token_ids = torch.randint(VOCAB, (2, SEQ), generator=torch.Generator().manual_seed(1))
    looked_at = looked_at_here = {}
    if any(name.endswith("encoder_decoder_attn") for name, _ in model.named_modules()):
        source = torch.randn(2, SEQ, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        here = source.chunk(gangs["tp"].size, dim=1)[gangs["tp"].rank] if sequence_parallel else source
        looked_at, looked_at_here = {"encoder_output": EncoderOutput(source)}, {"encoder_output": EncoderOutput(here)}
    wanted, given = model(token_ids, **looked_at), spread(token_ids, **looked_at_here)
    wanted.square().mean().backward()
    given.square().mean().backward()
    off = max(relative(given, wanted), off_gradients(spread, model))
    model.zero_grad()
    return off


def llama(tp: int, pp: int, tied: bool, ways: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """How far a small Llama is off in each of several ways of spreading it: losses and gradients of a batch.

    Args:
        tp: Ranks that share each tensor.
        pp: Stages; what ranks there are besides share the data.
        tied: Whether embeddings are tied.
        ways: Options: `sequence_parallel`, `shard_embed_dim`, `logits`, `checkpointed`, `compiled`.
    """
    with setup_gangs(tp=tp, pp=pp, device="cpu", timeout=TIMEOUT) as gangs:
        return llama_in_ways(gangs, tied=tied, ways=ways)


def llama_in_ways(gangs: Gangs, *, tied: bool, ways: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The same over gangs that there are."""
    config = LlamaConfig(
        model_dim=32, num_layers=3, num_heads=8, num_kv_heads=2, head_dim=8, ffn_inner_dim=48,
        ffn_inner_dim_to_multiple=16, vocab_size=VOCAB, unk_idx=None, bos_idx=0, eos_idx=1, tied_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = create_llama_model(config).to(gangs.device)
    return [_llama_in_one_way(model, gangs, **way) for way in ways]


def _llama_in_one_way(
    model: nn.Module,
    gangs: Gangs,
    *,
    sequence_parallel: bool = False,
    shard_embed_dim: bool = False,
    logits: bool = False,
    checkpointed: bool = False,
    compiled: str | None = None,
) -> dict[str, float]:
    spread, dp = copy.deepcopy(model), gangs["dp"]
    shard_transformer_decoder_model(
        spread, gangs["tp"], shard_embed_dim=shard_embed_dim, sequence_parallel=sequence_parallel
    )
    if logits:
        spread_logits(spread)
    loss_of = partial(cross_entropy, reduction="sum") if logits else summed
    keep_stage(spread, gangs["pp"])
    if checkpointed:
        checkpoint_activations(spread)
    shard_data_parallel(spread, dp)
    if compiled:
        spread.compile(backend=compiled)
    numbers = torch.Generator().manual_seed(1)
    token_ids, targets = (
        torch.randint(VOCAB, (4 * dp.size, SEQ), generator=numbers).to(gangs.device) for _ in range(2)
    )
    padding_mask = torch.ones_like(token_ids, dtype=torch.bool)
    padding_mask[0, -2:] = False
    model.zero_grad()
    wanted = summed(model(token_ids, padding_mask), targets)
    wanted.backward()
    batch = [tensor.chunk(dp.size)[dp.rank] for tensor in (token_ids, targets, padding_mask)]
    found = {}
    pipeline = Pipeline(spread, gangs, loss_of, microbatches=2) if gangs["pp"].size > 1 else None
    if pipeline is not None:
        found["evaluated"] = relative(dp.all_reduce(pipeline.evaluate(*batch)), wanted)
        loss = pipeline.backward(*batch)
    else:
        loss = loss_of(spread(batch[0], batch[2]), batch[1])
        loss.backward()
    found["loss"] = relative(dp.all_reduce(loss.detach().clone()), wanted)
    found["gradients"] = off_gradients(spread, model, times=dp.size)
    if pipeline is not None:
        for length in [SEQ] if compiled else range(SEQ, 0, -2):  # of a shape that there was, and of others
            pipeline.backward(*(tensor[:, :length] for tensor in batch))
            pipeline.evaluate(*(tensor[:, :length] for tensor in batch))
            summed(model(token_ids[:, :length], padding_mask[:, :length]), targets[:, :length]).backward()
        found["accumulated"] = off_gradients(spread, model, times=dp.size)
        shared = shared_weight(spread)
        both = gangs["pp"].gathered(None if shared is None or shared.grad is None else local(shared.grad))
        torch.testing.assert_close(both[0], both[-1], rtol=0, atol=0)  # so that they stay the same
    return found


def encoder_decoder(tp: int) -> list[float]:
    """How far an encoder-decoder is off over ranks, without and with sequence parallel."""
    config = NllbConfig(
        model_dim=32, num_encoder_layers=2, num_decoder_layers=2, num_encoder_heads=4, num_decoder_heads=4,
        ffn_inner_dim=48, vocab_size=VOCAB, unk_idx=3, bos_idx=0, eos_idx=1, pad_idx=2, dropout_p=0.0,
    )  # fmt: skip
    model = randomized(create_nllb_model(config, dtype=torch.float64))
    numbers = torch.Generator().manual_seed(1)
    source, target = (torch.randint(VOCAB, (2, length), generator=numbers) for length in (12, SEQ))
    mask = torch.ones_like(source, dtype=torch.bool)
    mask[0, -3:] = False
    found = []
    with setup_gangs(tp=tp, device="cpu", timeout=TIMEOUT) as gangs:
        for sequence_parallel in (False, True):
            spread = copy.deepcopy(model)
            shard_model(spread, native_plan(spread), gangs, sequence_parallel=sequence_parallel)
            model.zero_grad()
            wanted, given = model(source, target, mask), spread(source, target, mask)
            wanted.square().mean().backward()
            given.square().mean().backward()
            found.append(max(relative(given, wanted), off_gradients(spread, model)))
    return found


def randomized(model: nn.Module) -> nn.Module:
    """A model in which everything has an effect: all weights are random, and large; the same on every rank."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, mean=0.5 if parameter.dim() < 2 else 0.0, std=0.3)
    return model.eval()


def summed(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def relative(given: Tensor, wanted: Tensor, *, least: float = 0.0) -> float:
    return ((given - wanted).abs().max() / wanted.abs().max().clamp(min=least)).item()


def off_gradients(spread: nn.Module, model: nn.Module, times: float = 1.0) -> float:
    """How far gradients are off, each relative to its largest value; those that lie elsewhere than weights raise.

    Those that would be zero but for rounding (of biases of keys, which a softmax does not heed) are off relative to a
    millionth of the largest value of all.
    """
    whole = dict(model.named_parameters())
    largest = max(weight.grad.abs().max().item() for weight in whole.values() if weight.grad is not None)
    found = [0.0]
    for name, parameter in spread.named_parameters():
        if (gradient := whole[name].grad) is None:
            assert parameter.grad is None, name
            continue
        given = parameter.grad
        assert given is not None
        if dist.get_world_size() > 1:
            assert isinstance(parameter, DTensor)
            assert isinstance(given, DTensor)
            assert given.placements == parameter.placements, name
            given = given.full_tensor()
        found.append(relative(given * times, gradient, least=largest * 1e-6))
    return max(found)
