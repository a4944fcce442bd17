"""The round trip: exporting a loaded model gives back every tensor of its checkpoint, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinfold.keymap.ops.base import bits
from kinfold.loader import PreparedModel
from kinfold.scaffold.prove.proof import Check


def check_round_trip(prepared: PreparedModel, model: nn.Module) -> tuple[Check, Check]:
    """Export `model`, which was loaded from the checkpoint of `prepared`, and compare with that checkpoint.

    Tensors that are stored quantised are compared as the values they decode to.

    Returns:
        The round trip, and whether all values are finite.
    """
    state_dict = model.state_dict()
    different, not_finite, count = [], [], 0
    checkpoint = prepared.checkpoint
    for name, exported in prepared.conversion.certificate.plan.export(state_dict.__getitem__):
        original = checkpoint.tensor(name)
        count += 1
        if not same_bits(exported.to(original.dtype), original):
            different.append(f"{name} {tuple(original.shape)} {original.dtype}")
        if not torch.isfinite(original).all():
            not_finite.append(name)
    dropped = len(checkpoint.manifest) - count
    detail = (
        f"{count} tensors come back bit for bit" if not different else f"{len(different)} of {count} tensors differ"
    )
    detail += f", {dropped} dropped by name" if dropped else ""
    finite = f"all values of {count} tensors are finite" if not not_finite else "some tensors hold NaN or infinity"
    return (
        Check("round trip", not different, detail, tuple(different)),
        Check("finite", not not_finite, finite, tuple(not_finite)),
    )


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bits; NaN equals itself, 0.0 differs from -0.0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(bits(a.detach()), bits(b.detach()))
