"""Parity: a model computes the logits that a reference computes from the same weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kinfold.errors import ProofError
from kinfold.generation import EncoderDecoder
from kinfold.scaffold.prove.proof import Check
from kinfold.scaffold.prove.reference import Reference


def check_parity(model: nn.Module, reference: Reference, *, tolerance: float) -> Check:
    """Compare logits with a reference.

    Args:
        model: In evaluation mode.
        reference: What to compare with.
        tolerance: The largest difference of two logits that is allowed, relative to the largest logit.

    Returns:
        The check; if it fails, with the first module whose output differs, where the reference recorded them.

    Raises:
        ProofError: The reference is of a decoder and the model of an encoder and decoder, or the other way round.
    """
    if (reference.source_ids is not None) != isinstance(model, EncoderDecoder):
        wanted = "a source and a target" if isinstance(model, EncoderDecoder) else "one sequence"
        raise ProofError(
            f"{reference.origin} is no reference of this model, which is given {wanted}.",
            hint="`source_ids` in it are those of an encoder's tokens.",
        )
    captured: dict[str, Tensor] = {}

    def keep(name: str):
        return lambda module, args, output: captured.__setitem__(name, output)

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in reference.modules]
    device = next(model.parameters()).device
    try:
        with torch.inference_mode():
            logits = model(*(tensor.to(device) for tensor in reference.inputs))
    finally:
        for handle in handles:
            handle.remove()
    name = f"parity with {reference.origin}"
    if logits.shape != reference.logits.shape:
        shapes = f"the logits have the shape {tuple(logits.shape)}, not {tuple(reference.logits.shape)}"
        return Check(name, False, shapes)
    gap = relative_gap(logits, reference.logits)
    same = (logits.argmax(-1).cpu() == reference.logits.argmax(-1)).double().mean().item()
    detail = f"logits differ by {gap:.1e} of the largest (allowed: {tolerance:.0e}), {same:.0%} of top tokens agree"
    if gap <= tolerance:
        return Check(name, True, detail)
    return Check(name, False, detail, _first_difference(captured, reference, tolerance))


def relative_gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value of the second; NaN counts as infinite."""
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    gap = float((ours - theirs).abs().max() / theirs.abs().max())
    return gap if gap == gap else float("inf")


def _first_difference(captured: dict[str, Tensor], reference: Reference, tolerance: float) -> tuple[str, ...]:
    for name, theirs in reference.modules.items():
        gap = relative_gap(captured[name], theirs)
        if gap > tolerance:
            return (f"{name} is the first module whose output differs, by {gap:.1e} of the largest",)
    if reference.modules:
        return ("every recorded module agrees: what differs is the output projection",)
    return ("the reference has no outputs of modules, so which one differs first is not known",)
