"""The stages of a decoder: which layers each has, and what stands in for the others."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from types import MethodType
from typing import Any

from torch import Tensor, nn

from kinfold.errors import ParallelError
from kinfold.nn.embedding import TiedProjection
from kinfold.nn.state import DecodeState, PassState
from kinfold.parallel.gangs import Gang

ENDS = ("transform", "project_out", "final_proj")
"""What a model has after its decoder; parts that it may have."""

_SHARED = "_kinfold_shared"


def stage_layers(num_layers: int, stages: int) -> list[range]:
    """The layers of each stage: neighbours, as evenly as possible, the earlier stages with what is left over."""
    short, longer = divmod(num_layers, stages)
    starts = [stage * short + min(stage, longer) for stage in range(stages + 1)]
    return [range(first, end) for first, end in pairwise(starts)]


def keep_stage(model: nn.Module, gang: Gang) -> None:
    """Leave of a decoder what one stage computes; parameters keep their names.

    The model is then called as `model(x, token_ids=..., padding_mask=...)`: x is what the stage before gave, (B, S, D),
    or the tokens in the first stage. It gives x for the next stage, or logits. The weight of tied embeddings is in the
    first stage and in the last (`shared_weight`).

    Args:
        model: The decoder, in place: on the meta device or not, and already spread by `shard_model` if it is to be.
        gang: The gang `pp`; of one rank, nothing is done.

    Raises:
        ParallelError: It has no stages, or not as many; lists everything.
    """
    if gang.size == 1:
        return
    if faults := list(stage_faults(model, gang.size)):
        raise ParallelError(f"This {type(model).__name__} cannot be cut into pp={gang.size} stages:", faults=faults)
    parts: Any = model
    decoder = parts.decoder
    own = stage_layers(len(decoder.layers), gang.size)[gang.rank]
    decoder.layers = StageLayers({str(number): decoder.layers[number] for number in own})
    is_first, is_last = gang.rank == 0, gang.rank == gang.size - 1
    embed = tied_embedding(model)
    if is_first or is_last:
        setattr(parts, _SHARED, [embed])  # in a list, so that torch does not count it twice
    if not is_first:
        parts.decoder_frontend = Received(embed if is_last else None)
    if not is_last:
        if getattr(decoder, "layer_norm", None) is not None:
            decoder.layer_norm = nn.Identity()
        for name in ENDS:
            if getattr(parts, name, None) is not None:
                setattr(parts, name, nn.Identity())
    # As a method, which a copy of the model has as its own.
    parts.forward = MethodType(_last_stage if is_last else _earlier_stage, model)


def stage_faults(model: Any, stages: int) -> Iterator[str]:
    """Why a model cannot be cut into so many stages."""
    missing = [name for name in ("decoder_frontend", "decoder", "final_proj") if not hasattr(model, name)]
    if missing or not hasattr(model.decoder, "layers"):
        yield f"it has no {' and no '.join(missing or ['decoder.layers'])}"
        return
    if hasattr(model, "encoder"):
        yield "it has an encoder, whose output all stages of the decoder would need"
    if (layers := len(model.decoder.layers)) < stages:
        yield f"it has {layers} layers, less than one for each stage"


def tied_embedding(model: Any) -> nn.Embedding | None:
    """The embedding that a model computes logits by, if it does."""
    final_proj = getattr(model, "final_proj", None)
    return final_proj.embed if isinstance(final_proj, TiedProjection) else None


def shared_weight(stage: nn.Module) -> nn.Parameter | None:
    """The weight that another stage has, too: that of tied embeddings, in the first and in the last."""
    (embed,) = getattr(stage, _SHARED, [None])
    return None if embed is None else embed.weight


class StageLayers(nn.ModuleDict):
    """Some of the layers, by their numbers; goes through them as a list would."""

    def __iter__(self) -> Iterator[nn.Module]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return iter(self.values())


class Received(nn.Module):
    """In place of the frontend of a later stage: what the stage before gave.

    Args:
        embed: The embedding, where logits are computed by it.
    """

    def __init__(self, embed: nn.Module | None = None) -> None:
        super().__init__()
        self.embed = embed
        self.x: Tensor | None = None

    def forward(self, token_ids: Tensor, state: PassState) -> Tensor:
        """int64 (B, S) to (B, S, D)."""
        x, self.x = self.x, None
        assert x is not None
        return x


def _earlier_stage(self: Any, x: Tensor, token_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """What the next stage receives."""
    if isinstance(self.decoder_frontend, Received):
        self.decoder_frontend.x = x
    state = DecodeState()
    state.extend(token_ids, padding_mask)
    return self.decoder(self.decoder_frontend(token_ids, state), state)


def _last_stage(self: Any, x: Tensor, token_ids: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """The logits."""
    self.decoder_frontend.x = x
    return type(self).forward(self, token_ids, padding_mask)
