"""What a certified key map does, tensor by tensor, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kinfold.errors import KeyMapError
from kinfold.keymap.ops import Op

if TYPE_CHECKING:
    from torch import Tensor

Read = Callable[[str], "Tensor"]


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
        """Native names and tensors, one step at a time.

        Args:
            read: Gives a foreign tensor by name; called when it is needed, once for each step or copy that needs it.

        Raises:
            KeyMapError: A tensor that should repeat another one differs from it.
        """
        import torch

        for name, original in self.copies:
            if not torch.equal(read(name), read(original)):
                raise KeyMapError(f"{name} should repeat {original}, but differs from it.")
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

    @cached_property
    def step_of_source(self) -> dict[str, Step]:
        """The step that reads a source."""
        return {name: step for step in self.steps for name in step.sources}

    @cached_property
    def step_of_target(self) -> dict[str, Step]:
        """The step that fills a target."""
        return {name: step for step in self.steps for name in step.targets}
