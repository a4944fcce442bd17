"""What the ranks of one stage have and need."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cache, cached_property
from itertools import accumulate

from kinfold.parallel.estimate.layout import Layout, Workload
from kinfold.parallel.estimate.parts import ModelParts, Part, Shares, Weight
from kinfold.parallel.estimate.usage import Usage
from kinfold.parallel.pipeline import alternates, microbatches_in_flight
from kinfold.parallel.stages import stage_layers


class Stage:
    """The parts of a model that one stage computes; all of them where there is one stage.

    Args:
        model: The model, taken apart, as ranks that share tensors have it.
        work: What is computed.
        layout: How ranks are laid out.
        number: Which stage it is.
    """

    def __init__(self, model: ModelParts, work: Workload, layout: Layout, number: int) -> None:
        self._model = model
        self._work = work
        self._layout = layout
        self._number = number
        self._parts = _of_stage(model, number, layout.pp)
        self._counts = Counter(self._parts)
        self.peak = cache(self._peak)
        """The bytes of activations, and of weights as they compute, when both together are most; of a rank of `tp`."""

    @property
    def buffers(self) -> int:
        """The bytes of what is no parameter."""
        return sum(part.buffers * count for part, count in self._counts.items())

    def numel(self, shares: Shares, *, trained: bool) -> int:
        """How many values a rank has: of all parameters, or of those that have gradients."""
        return sum(_numel(part.weights, shares, trained=trained) * count for part, count in self._counts.items())

    def _peak(self, tp_rank: int) -> tuple[int, int]:
        shares = {"tp": (tp_rank, self._layout.tp)}
        working = self._casts(shares) if self._layout.dp == 1 else self._gathered(shares)
        moments = (
            (kept + used, weights)
            for kept, usage, (forward, backward) in zip(self._kept, self._usages(), working, strict=True)
            for used, weights in ((usage.forward, forward), (usage.backward, backward))
        )
        return max(moments, key=sum)

    @cached_property
    def _kept(self) -> list[int]:
        """The bytes of activations that there are when each part computes: what those before it have kept.

        With stages several microbatches have gone forward before one goes backward. torch has places in memory for
        what a stage receives from its neighbours of each microbatch, and keeps what it sends until it is sent.
        """
        *before, kept = accumulate((usage.kept for usage in self._usages()), initial=0)
        stages = self._layout.pp
        if stages == 1:
            return before
        microbatches = self._work.microbatches_of(self._layout) if self._work.trains else 1
        in_flight = microbatches_in_flight(microbatches, stages, self._number)
        before_it, after_it = self._number > 0, self._number < stages - 1
        received = (before_it + (after_it and self._work.trains)) * microbatches
        sent = before_it + after_it if alternates(microbatches, stages) else 0
        waiting = (in_flight - 1) * kept + (received + sent) * self._model.parts[1].usage.given
        if not after_it:
            waiting += in_flight * self._model.output
        return [waiting + one for one in before]

    def _casts(self, shares: Shares) -> Iterator[tuple[int, int]]:
        """The bytes of weights that autocast has cast while each part computes, forward and backward.

        Forward all casts so far are there. For the backward pass those are kept that no layer computes again; where
        there are stages, both passes are within one autocast.
        """
        alike = {
            part: sum(weight.numel(shares) for weight in part.weights if weight.cast) * self._work.dtype.itemsize
            for part in self._counts
        }
        again = self._work.activation_checkpointing and self._layout.pp == 1
        so_far = kept = 0
        for part in self._parts:
            so_far += alike[part]
            yield so_far, kept + alike[part]
            kept += 0 if again and part.layer is not None else alike[part]

    def _gathered(self, shares: Shares) -> Iterator[tuple[int, int]]:
        """The bytes of weights as FSDP has gathered them while each part computes, forward and backward.

        They are what is in no layer, and two layers, of which one is being fetched; in training also the gradients that
        they have before these are spread, of one layer, and once more as they are sent.
        """
        computing, kept = self._work.dtype.itemsize, self._work.kept_dtype.itemsize
        numels = {part: _numel(part.weights, shares) for part in self._counts}
        root = sum(numel for part, numel in numels.items() if part.layer is None)
        layers = [numels[part] for part in self._parts if part.layer is not None]
        largest, next_largest = heapq.nlargest(2, [*layers, 0])
        outside = (root + largest) * computing
        inside = outside + next_largest * computing
        if self._work.trains:
            outside += root * computing
            inside += (root + largest) * computing + largest * kept
        for part in self._parts:
            yield (outside, outside) if part.layer is None else (inside, inside)

    def _usages(self) -> Iterator[Usage]:
        """What the parts use, in order; what layers share is made by the first."""
        seen: set[Hashable] = set()
        for part in self._parts:
            yield part.usage if part.layer in seen else part.usage_first
            seen |= {part.layer} - {None}


def _of_stage(model: ModelParts, number: int, stages: int) -> Sequence[Part]:
    """The layers of a stage, and what comes before them in the first, and after them in the last."""
    if stages == 1:
        return model.parts
    before, *layers, after = model.parts
    if model.tied is not None:  # the last stage has it, too, and autocast casts it there
        after = replace(after, weights=(*after.weights, model.tied))
        uncast = (replace(weight, cast=False) if weight == model.tied else weight for weight in before.weights)
        before = replace(before, weights=tuple(uncast))
    own = [layers[layer] for layer in stage_layers(len(layers), stages)[number]]
    return [*([before] if number == 0 else []), *own, *([after] if number == stages - 1 else [])]


def _numel(weights: Sequence[Weight], shares: Shares, *, trained: bool = False) -> int:
    return sum(weight.numel(shares) for weight in weights if weight.trained or not trained)
