"""What ranks do in the tests of loading; each function is called on every rank."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fused
import msgspec
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kinfold import AssetCard, load_model
from kinfold.checkpoint.safetensors import SafetensorsCheckpoint
from kinfold.errors import CheckpointError, KinfoldError
from kinfold.loader import StandardModelLoader
from kinfold.parallel import Gangs, setup_gangs, shard_data_parallel
from kinfold_zoo.llama import LlamaConfig

_M_MMAP_THRESHOLD = -3
"""The parameter of glibc's `mallopt` for the size from which blocks are mapped by themselves (malloc.h)."""

Case = tuple[AssetCard, LlamaConfig | None, tuple[Tensor, ...]]
"""A card, the config of one whose layout is that of `fused`, and what the model is called with."""


def loader_of(case: Case) -> StandardModelLoader:
    """The loader of a case."""
    card, config, _ = case
    return load_model.get(card.model_family) if config is None else fused.loader(config)


def loaded(case: Case, gangs: Gangs, **options: Any) -> nn.Module:
    """The model of a case, spread over all ranks."""

    def spread(model: nn.Module) -> None:
        shard_data_parallel(model, gangs["dp"])

    return loader_of(case)(case[0], gangs=gangs, before_loading=spread, **options)


def faults_of_layouts(cases: Mapping[str, Case], layouts: list[dict[str, int]]) -> list[str]:
    """What is wrong with models that ranks have loaded together, in comparison with one that each loads alone."""
    found = []
    with setup_gangs(device="cpu"):
        for sizes in layouts:
            gangs = setup_gangs(**sizes, device="cpu")
            for name, case in cases.items():
                whole = loader_of(case)(case[0])
                model = loaded(case, gangs)
                faults = [*wrong_weights(model, whole), *_wrong_results(model, whole, case[2])]
                found += [f"{name}, {gangs}: {fault}" for fault in faults]
    return found


def wrong_weights(model: nn.Module, whole: nn.Module) -> Iterator[str]:
    """What is wrong with the weights that ranks have together, in comparison with those that each has alone."""
    expected, state = whole.state_dict(), model.state_dict()
    if list(state) != list(expected):
        yield "it has other tensors"
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if full.dtype != expected[name].dtype or not torch.equal(full, expected[name]):
            yield f"{name} is not the same"
    if any(not isinstance(tensor, DTensor) for tensor in state.values()):
        yield "not all weights are spread"
    if model.training or not all(parameter.requires_grad for parameter in model.parameters()):
        yield "it is not as a model that was loaded"


def _wrong_results(model: nn.Module, whole: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[str]:
    """Logits, and gradients: what reduces these belongs to the parameters."""
    logits, expected_logits = model(*inputs), whole(*inputs)
    if (error := (logits - expected_logits).abs().max().item()) > 1e-5:
        yield f"its logits are off by {error}"
    for each in (logits, expected_logits):
        each.square().sum().backward()
    right = {name: parameter.grad for name, parameter in whole.named_parameters()}
    largest = max(gradient.norm() for gradient in right.values() if gradient is not None)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter.grad, DTensor)
        expected: Any = right[name]
        error = (parameter.grad.full_tensor() - expected).norm() / largest
        if error > 1e-5:
            yield f"the gradient of {name} is off by {error}"


Outcome = tuple[str, str, int]
"""The class of an error, what it says, and how many tensors were read before."""


def outcomes_of_errors(indivisible: Case, repeated: Case, sound: Case) -> dict[str, Outcome]:
    """What ranks meet where something is wrong, on all of them or on one."""
    with setup_gangs(tp=2, device="cpu") as gangs:
        return {
            "indivisible": _outcome(lambda: loaded(indivisible, gangs)),
            "misfit": _outcome(lambda: loaded((_wider(sound[0]), *sound[1:]), gangs)),
            "repeated": _outcome(lambda: loaded(repeated, gangs)),
            "torn": _outcome(lambda: loaded(sound, gangs), torn=gangs["world"].rank == 1),
            "sound": _outcome(lambda: loaded(sound, gangs)),
        }


def _wider(card: AssetCard) -> AssetCard:
    return msgspec.structs.replace(card, model_config={**card.model_config, "vocab_size": 99})


def _outcome(load: Callable[[], object], *, torn: bool = False) -> Outcome:
    counted = 0
    tensor = SafetensorsCheckpoint.tensor

    def counting(self: SafetensorsCheckpoint, name: str, *, mmap: bool = True) -> Tensor:
        nonlocal counted
        counted += 1
        if torn and counted == 5:
            raise CheckpointError(f"{name} is torn.")
        return tensor(self, name, mmap=mmap)

    SafetensorsCheckpoint.tensor = counting
    try:
        load()
    except KinfoldError as error:
        return type(error).__name__, str(error), counted
    finally:
        SafetensorsCheckpoint.tensor = tensor
    return "", "", counted


def private_memory(case: Case, small: Case) -> tuple[int, int]:
    """The bytes by which private memory grows at most while a model is loaded, and those of this rank's weights."""
    with setup_gangs(tp=4, device="cpu") as gangs:
        loaded(small, gangs, dtype=torch.float32)
        with most_private_memory() as growth:
            model = loaded(case, gangs, dtype=torch.float32)
        own = sum(parameter.to_local().nbytes for parameter in model.parameters() if isinstance(parameter, DTensor))
        return growth[0], own


@contextmanager
def most_private_memory() -> Iterator[list[int]]:
    """Gives a list with the bytes by which private memory has grown at most, once the block has ended.

    What is freed goes back to the system at once; how much else malloc keeps in hand depends on which thread is when.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)
    found, ended, before = [0], threading.Event(), _private()

    def watch() -> None:
        while not ended.wait(0.001):
            found[0] = max(found[0], _private() - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def _private() -> int:
    """The bytes of memory of this process that no file holds."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split(maxsplit=1)[0])
