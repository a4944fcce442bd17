"""How the parts of `kinfold.nn` are spread, by the names that they have in every family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from kinfold.errors import ParallelError
from kinfold.parallel.plan import ShardPlan, Style

if TYPE_CHECKING:
    from torch import nn

NormsOver = Literal["head", "each_head", "width"]
"""What norms of queries and keys are over: a head, a head with weights of its own, or all heads."""

BLOCKS = ("self_attn", "encoder_decoder_attn", "ffn")

_IN_BLOCKS: Mapping[str, Style] = {
    "": "block",
    "q_proj": "column", "k_proj": "column", "v_proj": "column", "gate_proj": "column", "inner_proj": "column",
    "q_up_proj": "column", "kv_up_proj": "column", "sinks": "column", "gate_bias": "column", "bias": "column",
    "dynamic_mask": "column", "dynamic_mask.proj": "gathered", "output_norm": "gathered", "inner_norm": "gathered",
    "q_down_proj": "shared", "q_latent_norm": "shared", "kv_down_proj": "shared", "kv_latent_norm": "shared",
    "activation": "shared", "output_proj": "row",
}  # fmt: skip
_NORMS: Mapping[NormsOver, Style] = {"head": "shared", "each_head": "column", "width": "gathered"}
_WITHOUT_WEIGHTS = ("block", "scatter", "vocabulary", "gathered")
"""Styles that do something even to a module that has no weights."""


def native_styles(
    modules: Iterable[str], *, norms_over: NormsOver = "head", differential: bool = False
) -> dict[str, Style]:
    """The styles of modules by their native names, or patterns of these.

    Args:
        modules: The names, such as `decoder.layers.{layer}.self_attn.q_proj`.
        norms_over: What norms of queries and keys are over.
        differential: Whether attention is differential.

    Raises:
        ParallelError: There are names in blocks that no part has; lists them.
    """
    styles: dict[str, Style | None] = {name: _style(name, norms_over, differential) for name in modules}
    if unknown := [name for name, style in styles.items() if style is None]:
        raise ParallelError("How these modules are spread is not known:", faults=unknown, hint="Write a `ShardPlan`.")
    return {name: style for name, style in styles.items() if style is not None}


def native_plan(model: nn.Module) -> ShardPlan:
    """The plan of a model that is made of the parts of `kinfold.nn`, by what these are called.

    Raises:
        ParallelError: There are parts of other names; lists them.
    """
    attentions = [module for module in model.modules() if hasattr(module, "head_dim")]
    norms_over = _norms_over(attentions)
    differential = any(hasattr(attention, "lambda_init") for attention in attentions)
    patterns: dict[str, None] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        pattern = re.sub(r"\.[0-9]+(?=\.)", ".{layer}", name)
        weighted = any(True for _ in module.parameters(recurse=False))
        acts = hasattr(module, "take_part") or _style(pattern, norms_over, differential) in _WITHOUT_WEIGHTS
        if name and (weighted or acts):
            patterns[pattern] = None
    return ShardPlan(native_styles(patterns, norms_over=norms_over, differential=differential))


def _style(name: str, norms_over: NormsOver, differential: bool) -> Style | None:
    """The style of a module; None if it is in a block, and no part of that name is known."""
    if re.fullmatch(r"\w+_frontend", name):
        return "scatter"
    if re.match(r"\w+_frontend\.", name):
        return "vocabulary" if name.endswith(".embed") else "replicate"
    block = re.match(rf"\w+\.layers\.[^.]+\.(?:{'|'.join(BLOCKS)})(?:\.|$)", name)
    if not block:
        return "vocabulary" if name == "final_proj" else "sequence"
    part = name[block.end() :]
    if part in ("q_norm", "k_norm"):
        return _NORMS[norms_over]
    return "halves" if differential and part in ("q_proj", "k_proj", "v_proj") else _IN_BLOCKS.get(part)


def _norms_over(attentions: Iterable[nn.Module]) -> NormsOver:
    for attention in attentions:
        norm = getattr(attention, "q_norm", None)
        if norm is not None:
            by_head = "each_head" if getattr(norm, "heads", None) else "head"
            return "width" if getattr(attention, "norm_over", "head") == "width" else by_head
    return "head"
