"""What a certified key map does, tensor by tensor, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from kinfold.checkpoint.manifest import Manifest
from kinfold.errors import KeyMapError, nearest
from kinfold.keymap.ops import Index, Op, Shape, Source, TensorSource
from kinfold.keymap.ops.base import bits

if TYPE_CHECKING:
    from torch import Tensor

    from kinfold.checkpoint.base import Checkpoint

Read = Callable[[str], "Tensor"]

OpenSource = Callable[[str], Source]
"""Gives a foreign tensor by name, as something of which parts can be read."""


@dataclass(frozen=True, slots=True)
class Step:
    """One application of a rule.

    Attributes:
        op: From the sources to the targets.
        sources: Foreign names.
        targets: Native names.
    """

    op: Op
    sources: tuple[str, ...]
    targets: tuple[str, ...]

    def load(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        """The targets, from sources that `read` gives."""
        return zip(self.targets, self.op.apply([read(name) for name in self.sources]), strict=True)

    def export(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        """The sources, from targets that `read` gives."""
        return zip(self.sources, self.op.inverse().apply([read(name) for name in self.targets]), strict=True)


@dataclass(frozen=True)
class Plan:
    """The steps, in the order of the targets, and the sources that none of them reads.

    Attributes:
        steps: Every target is in exactly one of them.
        copies: Sources that repeat another source, which a step reads.
        dropped: Sources that are not needed, and why.
    """

    steps: tuple[Step, ...]
    copies: tuple[tuple[str, str], ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()

    def load(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        """Native names and tensors, one step at a time, once the copies have been checked.

        Args:
            read: Gives a foreign tensor by name; called when it is needed, once for each step or copy that needs it.

        Raises:
            KeyMapError: A tensor that should repeat another one differs from it.
        """
        self.check_copies(read)
        for step in self.steps:
            yield from step.load(read)

    def export(self, read: Read) -> Iterator[tuple[str, Tensor]]:
        """Foreign names and tensors, one step at a time: all but the dropped ones.

        Args:
            read: Gives a native tensor by name.
        """
        for step in self.steps:
            yield from step.export(read)
        for name, original in self.copies:
            yield name, dict(self.step_of_source[original].export(read))[original]

    def exported(self, source: Manifest) -> Manifest:
        """The manifest of what it exports, in that order, out of that of all sources."""
        names = [*(name for step in self.steps for name in step.sources), *(name for name, _ in self.copies)]
        return {name: source[name] for name in names}

    def check_copies(self, read: Read) -> None:
        """Compare every tensor that should repeat another one with it, bit for bit.

        `load` does so; who loads by parts, as the ranks of a gang do, calls this once for all of them.

        Raises:
            KeyMapError: Lists all that differ.
        """
        import torch

        faults = [
            f"{name} should repeat {original}, but differs from it"
            for name, original in self.copies
            if not torch.equal(bits(read(name)), bits(read(original)))
        ]
        if faults:
            raise KeyMapError("The checkpoint does not hold what the key map says:", faults=faults)

    def read(self, target: str, index: Index, open_source: OpenSource) -> Tensor:
        """A part of one target, such as a rank's slice of it, from no more of its sources than that part needs.

        Args:
            target: A native name.
            index: The positions along each dimension of the target: a range with step 1, or a tensor of int64.
            open_source: Gives the sources (see `sources_in` for those of a checkpoint).

        Returns:
            The part, with as many values along each dimension as the index has; it may be a view of a source.

        Raises:
            KeyMapError: No step fills the target, the index does not lie in it, or an operation refuses its values.
        """
        step, output = self._output(target)
        sources = [open_source(name) for name in step.sources]
        _check_index(target, index, step.op.shapes([source.shape for source in sources])[output])
        return step.op.read(output, index, sources)

    def parts_of(self, target: str, index: Index, source: Manifest) -> list[tuple[str, Index]]:
        """The parts of foreign tensors that `read` would read, without reading: names and positions, in its order.

        Args:
            target: A native name.
            index: The part of it, as `read` takes it.
            source: The manifest of the checkpoint.
        """
        found: list[tuple[str, Index]] = []
        self.read(target, index, lambda name: _Noted(name, source[name].shape, found))
        return found

    def sources_of(self, target: str) -> tuple[str, ...]:
        """The foreign tensors that the step of a target takes."""
        return self._output(target)[0].sources

    def _output(self, target: str) -> tuple[Step, int]:
        """The step that fills a target, and which of its targets that is."""
        if target not in self.step_of_target:
            raise KeyMapError(f"The plan fills no {target!r}.", hint=nearest(target, self.step_of_target))
        step = self.step_of_target[target]
        return step, step.targets.index(target)

    @cached_property
    def step_of_source(self) -> dict[str, Step]:
        """The step that reads a source."""
        return {name: step for step in self.steps for name in step.sources}

    @cached_property
    def step_of_target(self) -> dict[str, Step]:
        """The step that fills a target."""
        return {name: step for step in self.steps for name in step.targets}


def sources_in(checkpoint: Checkpoint) -> OpenSource:
    """The tensors of an open checkpoint as sources.

    Those that lie in the file as they are stay mapped to it, so that of a part only its pages are read; quantised
    ones are decoded in whole, each time they are opened.
    """
    return lambda name: TensorSource(checkpoint.tensor(name))


@dataclass(frozen=True, slots=True)
class _Noted:
    """A source without values, which notes what is read of it."""

    name: str
    shape: Shape
    found: list[tuple[str, Index]] = field(repr=False)

    def read(self, index: Index) -> Tensor:
        import torch

        self.found.append((self.name, index))
        return torch.empty([len(positions) for positions in index], device="meta")


def _check_index(target: str, index: Index, shape: Shape) -> None:
    if len(index) != len(shape):
        raise KeyMapError(
            f"{target} has the shape {shape}; a part of it needs {len(shape)} positions, not {len(index)}."
        )
    faults = []
    for dim, (positions, size) in enumerate(zip(index, shape, strict=True)):
        if isinstance(positions, range):
            lowest, highest = (positions[0], positions[-1]) if positions else (0, 0)
            fits = lowest >= 0 and highest < max(size, 1) and (len(positions) < 2 or positions.step == 1)
        else:
            fits = not len(positions) or bool((positions >= 0).all() and (positions < size).all())
        if not fits:
            faults.append(f"{positions} are no positions from 0 to {size - 1} of dimension {dim}")
    if faults:
        raise KeyMapError(f"{target} {shape} has no such part:", faults=faults)
