"""What has to be so of the sizes of an arch; a spec is held to it, and a family's config holds itself to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from kinfold.scaffold.spec.sizes import TOKENS

if TYPE_CHECKING:
    from kinfold.scaffold.spec.schema import Spec

Check = tuple[str, tuple[str, ...]]
"""A method of `ConfigChecks`, and the fields it is called with."""

_COUNTS_OR_NONE = ("embedding_dim", "q_latent_dim", "sliding_window")
_NUMBERS_OR_NONE = ("attention_scale", "attention_cap", "qkv_clip", "logit_cap")
_NO_PLAIN_NUMBERS = frozenset({
    *TOKENS, *_COUNTS_OR_NONE, *_NUMBERS_OR_NONE, "rope_scaling", "query_scaling", "window_pattern", "dropout_p",
    "tied_embeddings",
})  # fmt: skip


def checks(spec: Spec, sizes: Collection[str]) -> Iterator[Check]:
    """The checks of an arch of a spec.

    Args:
        spec: The spec.
        sizes: The sizes that are there to be checked, in their order.
    """
    in_turns = {"rope_theta"} if spec.thetas_in_turns else set()
    yield "positive", tuple(size for size in sizes if size not in _NO_PLAIN_NUMBERS | in_turns)
    yield from _relations(spec, sizes)
    for method, names in (
        ("numbers_in_turns", in_turns),
        ("switches_in_turns", ("window_pattern",)),
        ("positive_or_none", _COUNTS_OR_NONE),
        ("positive_number_or_none", _NUMBERS_OR_NONE),
        ("share", ("dropout_p",)),
    ):
        if found := tuple(size for size in sizes if size in names):
            yield method, found
    for token in TOKENS:
        if token in sizes:
            yield "index", (token, "vocab_size")


def _relations(spec: Spec, sizes: Collection[str]) -> Iterator[Check]:
    """What sizes have to be to one another."""
    if spec.model == "encoder_decoder":
        yield "divides", ("num_encoder_heads", "model_dim")
        yield "divides", ("num_decoder_heads", "model_dim")
    elif "num_kv_heads" in sizes:
        yield "divides", ("num_kv_heads", "num_heads")
    if spec.attention.kind == "differential":
        yield "even", tuple(name for name in ("num_heads", "num_kv_heads") if name in sizes)
    if "rotary_dim" in spec.field_names():
        yield "even", ("rotary_dim",)
        yield "at_most", ("rotary_dim", "head_dim")
    elif spec.rotary:
        yield "even", ("head_dim",)
    if spec.position.kind == "sinusoidal":
        yield "even", ("model_dim",)
