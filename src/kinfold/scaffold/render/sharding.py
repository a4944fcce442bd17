"""The shard plan of a family: which of its modules are spread how, by the names they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from kinfold.parallel.native import BLOCKS, native_styles
from kinfold.parallel.plan import Style
from kinfold.scaffold.keymap.parameters import native_parameters
from kinfold.scaffold.spec.schema import Spec

_BLOCK = re.compile(rf"(?:\w+_frontend|\w+\.layers\.{{layer}}\.(?:{'|'.join(BLOCKS)}))(?=\.)")


def shard_plan(spec: Spec) -> dict[str, Style]:
    """The entries of the plan, in the order of the modules; those of parts that only some archs have are among them."""
    norms = spec.attention.norms
    return native_styles(
        dict.fromkeys(_modules(spec)),
        norms_over=norms.over if norms else "head",
        differential=spec.attention.kind == "differential",
    )


def _modules(spec: Spec) -> Iterator[str]:
    """Patterns of the modules that the plan has to name; some come twice."""
    if spec.model == "encoder_decoder":
        yield from ("encoder_frontend", "encoder_frontend.embed")
    for block, parameters in groupby(native_parameters(spec), key=_block):
        yield from [block] if block else []
        yield from (parameter.rpartition(".")[0] for parameter in parameters)
        yield from (f"{block}.{part}" for part in _without_weights(spec, block.rpartition(".")[2]))
    yield "final_proj"


def _block(parameter: str) -> str:
    """The frontend or the sublayer that a parameter is in; nothing if it is in none."""
    found = _BLOCK.match(parameter)
    return found[0] if found else ""


def _without_weights(spec: Spec, block: str) -> Iterator[str]:
    """The parts of a sublayer that may have no weights, and yet do something else on each rank."""
    norms = spec.attention.norms
    if block == "self_attn":
        yield from ("q_norm", "k_norm") if norms and norms.over == "width" else ()
        yield from ("output_norm",) if spec.attention.output_norm else ()
        yield from ("bias",) if spec.position.kind == "alibi" else ()
    elif block == "ffn" and spec.ffn.inner_norm:
        yield "inner_norm"
