"""What is measured in training, and who is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

Kind = Literal["train", "valid"]


class Recorder(Protocol):
    """Something that values are told to."""

    def start(self, step_nr: int, max_num_steps: int | None) -> None:
        """Called once, before all else: a run goes on after `step_nr`, which is 0 when it is new.

        What an earlier run has told of later steps is told again, and is to be forgotten.
        """
        ...

    def record(self, kind: Kind, step_nr: int, values: Mapping[str, float]) -> None:
        """Called with what was measured up to a step."""
        ...

    def close(self) -> None:
        """Called when the run ends, whatever its end."""
        ...


@dataclass
class Sums:
    """What was summed since values were last told, and in all. It is in the checkpoint.

    Attributes:
        loss: The losses.
        weight: The targets they are the sum over, or the batches if losses are means.
        num_targets: The targets.
        seconds: The time that the steps took.
        total_num_targets: The targets since training began; None if losses are means.
    """

    loss: float = 0.0
    weight: int = 0
    num_targets: int = 0
    seconds: float = 0.0
    total_num_targets: int | None = 0

    def add(self, loss: float, weight: int, num_targets: int | None, seconds: float) -> None:
        """Add a step; `num_targets` is None if its losses are means."""
        self.loss += loss
        self.weight += weight
        self.seconds += seconds
        if num_targets is None:
            self.total_num_targets = None
        elif self.total_num_targets is not None:
            self.num_targets += num_targets
            self.total_num_targets += num_targets

    def values(self) -> dict[str, float]:
        """The loss, and what is known of tokens."""
        values: dict[str, float] = {"loss": self.loss / self.weight}
        if self.total_num_targets is not None:
            values["tokens"] = self.total_num_targets
            values["tokens_per_second"] = self.num_targets / self.seconds
        return values

    def clear(self) -> None:
        """Begin anew, after values were told."""
        self.loss, self.weight, self.num_targets, self.seconds = 0.0, 0, 0, 0.0
