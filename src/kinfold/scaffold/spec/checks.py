"""What has to be so of the sizes of an arch; a spec is held to it, and a family's config holds itself to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from kinfold.scaffold.spec.sizes import TOKENS

if TYPE_CHECKING:
    from kinfold.scaffold.spec.schema import Spec

Check = tuple[str, tuple[str, ...]]
"""A method of `ConfigChecks`, and the fields it is called with."""

_NO_PLAIN_NUMBERS = {*TOKENS, "rope_scaling", "sliding_window", "dropout_p", "tied_embeddings"}


def checks(spec: Spec, sizes: Collection[str]) -> Iterator[Check]:
    """The checks of an arch of a spec.

    Args:
        spec: The spec.
        sizes: The sizes that are there to be checked, in their order.
    """
    yield "positive", tuple(size for size in sizes if size not in _NO_PLAIN_NUMBERS)
    if spec.model == "encoder_decoder":
        yield "divides", ("num_encoder_heads", "model_dim")
        yield "divides", ("num_decoder_heads", "model_dim")
    else:
        yield "divides", ("num_kv_heads", "num_heads")
    if spec.rotary:
        yield "even", ("head_dim",)
    if spec.position.kind == "sinusoidal":
        yield "even", ("model_dim",)
    if "sliding_window" in sizes:
        yield "positive_or_none", ("sliding_window",)
    if "dropout_p" in sizes:
        yield "share", ("dropout_p",)
    for token in TOKENS:
        if token in sizes:
            yield "index", (token, "vocab_size")
