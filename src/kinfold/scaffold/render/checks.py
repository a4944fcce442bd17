"""The checks that a family's config makes of itself, as source text."""

from __future__ import annotations

from collections.abc import Iterator

from kinfold.scaffold.spec.schema import Spec
from kinfold.scaffold.spec.sizes import TOKENS

_OTHERWISE = {*TOKENS, "rope_scaling", "sliding_window", "dropout_p", "tied_embeddings"}
"""Fields that are not simply positive numbers."""


def checks(spec: Spec) -> Iterator[str]:
    """The statements of `validate`."""
    names = spec.field_names()
    yield f"check.positive({', '.join(repr(name) for name in names if name not in _OTHERWISE)})"
    if spec.model == "encoder_decoder":
        yield 'check.divides("num_encoder_heads", "model_dim")'
        yield 'check.divides("num_decoder_heads", "model_dim")'
    else:
        yield 'check.divides("num_kv_heads", "num_heads")'
    if spec.rotary:
        yield 'check.even("head_dim")'
    if spec.position.kind == "sinusoidal":
        yield 'check.even("model_dim")'
    if "sliding_window" in names:
        yield 'check.positive_or_none("sliding_window")'
    if "dropout_p" in names:
        yield 'check.share("dropout_p")'
    for token in TOKENS:
        if token in names:
            yield f'check.index("{token}", "vocab_size")'
