"""The rules for parameters whose rotary pairs are neighbours in a checkpoint, and halves here."""

from __future__ import annotations

from collections.abc import Mapping

from kinfold.keymap import chain, permute_rotary, reshape
from kinfold.keymap.rules import Rule, Size
from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.structure import QkNorm

_LATENT: Mapping[str, Mapping[str, Size]] = {
    "q_proj": {"heads": "num_heads", "start": "head_dim - rotary_dim"},
    "q_up_proj": {"heads": "num_heads", "start": "head_dim - rotary_dim"},
    "kv_down_proj": {"heads": 1, "start": "kv_latent_dim"},
}
"""Which rows turn of the projections of latent attention."""


def turned(spec: Spec, foreign: str, native: str) -> Rule | None:
    """The rule for a parameter that turns; None for one that does not."""
    module = native.rpartition(".")[0].partition(".self_attn.")[2]
    if not spec.rotary or not native.startswith("decoder.") or not module:
        return None
    if spec.attention.kind == "latent":
        options = _LATENT.get(module)
        return permute_rotary(foreign, native, rotary_dim="rotary_dim", **options) if options else None
    name, _, part = module.partition("_")
    all_heads = {"q": "num_heads", "k": spec.kv_heads}
    if name not in all_heads or part not in ("proj", "norm"):
        return None
    rotary_dim = "rotary_dim" if "rotary_dim" in spec.field_names() else None
    heads: Size = all_heads[name]
    norms = spec.attention.norms or QkNorm()
    if part == "norm" and norms.over == "each_head":
        return _turned_by_heads(foreign, native, all_heads[name], rotary_dim)
    if part == "norm" and norms.over == "head":
        heads = 1
    return permute_rotary(foreign, native, heads=heads, rotary_dim=rotary_dim)


def _turned_by_heads(foreign: str, native: str, heads: str, rotary_dim: str | None) -> Rule:
    """The rule for a parameter with a dimension for heads of its own."""
    flat, apart = (f"{heads} * head_dim",), (heads, "head_dim")
    return chain(
        reshape(foreign, "stored.{layer}", there=apart, here=flat),
        permute_rotary("stored.{layer}", "turned.{layer}", heads=heads, rotary_dim=rotary_dim),
        reshape("turned.{layer}", native, there=flat, here=apart),
    )
