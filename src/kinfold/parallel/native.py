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

_IN_FRONTENDS: Mapping[str, Style] = {
    "embed": "vocabulary", "project": "replicate", "position": "replicate", "norm": "replicate",
}  # fmt: skip
_IN_BLOCKS: Mapping[str, Style] = {
    "q_proj": "column", "k_proj": "column", "v_proj": "column", "gate_proj": "column", "inner_proj": "column",
    "q_up_proj": "column", "kv_up_proj": "column", "sinks": "column", "gate_bias": "column", "bias": "column",
    "dynamic_mask": "column", "dynamic_mask.proj": "gathered", "output_norm": "gathered", "inner_norm": "gathered",
    "q_down_proj": "shared", "q_latent_norm": "shared", "kv_down_proj": "shared", "kv_latent_norm": "shared",
    "activation": "shared", "output_proj": "row",
}  # fmt: skip
_NORMS: Mapping[str, Style] = {"head": "shared", "each_head": "column", "width": "gathered"}
_WITHOUT_WEIGHTS = (*BLOCKS, "embed", "final_proj", "output_norm", "inner_norm", "q_norm", "k_norm")
"""Modules to which something is done even if they have no weights."""


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
    found: dict[str, Style] = {}
    unknown = []
    for name in modules:
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        block = re.match(rf"\w+\.layers\.[^.]+\.({'|'.join(BLOCKS)})(?:\.|$)", name)
        part = name[block.end() :] if block else ""
        if first.endswith("_frontend"):
            found[name] = "scatter" if name == first else _IN_FRONTENDS.get(last, "replicate")
        elif not block:
            found[name] = "vocabulary" if name == "final_proj" else "sequence"
        elif not part:
            found[name] = "block"
        elif part in ("q_norm", "k_norm"):
            found[name] = _NORMS[norms_over]
        elif differential and part in ("q_proj", "k_proj", "v_proj"):
            found[name] = "halves"
        elif part in _IN_BLOCKS:
            found[name] = _IN_BLOCKS[part]
        else:
            unknown.append(name)
    if unknown:
        raise ParallelError("How these modules are spread is not known:", faults=unknown, hint="Write a `ShardPlan`.")
    return found


def native_plan(model: nn.Module) -> ShardPlan:
    """The plan of a model that is made of the parts of `kinfold.nn`, by what these are called.

    Raises:
        ParallelError: There are parts of other names; lists them.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    weighted = {name for name, module in modules.items() if any(True for _ in module.parameters(recurse=False))}
    attentions = [module for module in modules.values() if hasattr(module, "head_dim")]
    patterns = {
        name: re.sub(r"\.[0-9]+(?=\.)", ".{layer}", name)
        for name, module in modules.items()
        if name in weighted or name.rpartition(".")[2] in _WITHOUT_WEIGHTS or name.endswith("_frontend")
        or hasattr(module, "take_part")
    }  # fmt: skip
    styles = native_styles(
        dict.fromkeys(patterns.values()),
        norms_over=_norms_over(attentions),
        differential=any(hasattr(attention, "lambda_init") for attention in attentions),
    )
    acted_on = {p for name, p in patterns.items() if name in weighted or styles[p] != "shared"}
    return ShardPlan({pattern: style for pattern, style in styles.items() if pattern in acted_on})


def _norms_over(attentions: Iterable[nn.Module]) -> NormsOver:
    for attention in attentions:
        norm = getattr(attention, "q_norm", None)
        if norm is not None:
            by_head = "each_head" if norm.heads else "head"
            return "width" if getattr(attention, "norm_over", "head") == "width" else by_head
    return "head"
