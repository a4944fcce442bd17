"""The random number generators that training draws from: Python's, NumPy's where it is imported, torch's."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import torch


def seed_all(seed: int, *, step_nr: int = 0, rank: int = 0) -> None:
    """Seed every generator.

    Args:
        seed: Of the run.
        step_nr: After which step; 0 at the beginning.
        rank: Which of those that draw numbers of their own.
    """
    if step_nr or rank:
        seed = random.Random(f"{seed} {step_nr} {rank}").getrandbits(63)
    random.seed(seed)
    torch.manual_seed(seed)  # on all devices
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)


def rng_state(device: torch.device) -> dict[str, Any]:
    """Where every generator is, those of `device` included; plain data and tensors."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if numpy := sys.modules.get("numpy"):
        name, keys, *rest = numpy.random.get_state()
        state["numpy"] = (name, keys.tolist(), *rest)
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put every generator where it was; those that had no state stay where they are."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(state["numpy"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
