"""Values that are kept: as JSON lines, and for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kinfold.errors import TrainingError
from kinfold.training.metrics import Kind, Recorder


class JsonLinesRecorder(Recorder):
    """Writes a JSON object a line: `kind`, `step`, and the values. Each line is in the file at once.

    A run that goes on cuts what was written beyond its checkpoint, so that no step is there twice.

    Args:
        path: The file; made with its folder if it is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: Any = None
        self._known: set[tuple[str, int]] = set()

    def start(self, step_nr: int, max_num_steps: int | None) -> None:
        """Open the file, and cut it.

        Raises:
            TrainingError: What is in the file was written by something else.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        kept = self._path.stat().st_size and self._kept(step_nr)
        self._file = self._path.open("r+", encoding="utf-8")
        self._file.truncate(kept)
        self._file.seek(0, 2)

    def record(self, kind: Kind, step_nr: int, values: Mapping[str, float]) -> None:
        """Write a line, unless it was written between the checkpoint of this very step and the end."""
        if (kind, step_nr) not in self._known:
            self._file.write(json.dumps({"kind": kind, "step": step_nr, **values}, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _kept(self, step_nr: int) -> int:
        """How many bytes have lines up to a step; what follows is of later ones, or is half a line."""
        kept = 0
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                row = _row(line)
                if row is None:
                    raise TrainingError(
                        f"{self._path}, line {number}: not written by a run of training, so that it is not cut.",
                        hint="Name another file for metrics, or move this one away.",
                    )
                if row[1] > step_nr:
                    break
                if row[1] == step_nr:
                    self._known.add(row)
                kept += len(line)
        return kept


class TensorBoardRecorder(Recorder):
    """Writes for TensorBoard, by torch's `SummaryWriter`: `train/loss`, `valid/loss` and so on.

    Args:
        folder: The folder of this run.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "TensorBoard is not installed.", hint='pip install "kinfold[tensorboard]" brings it in.'
            ) from error
        self._folder = Path(folder)
        self._make = SummaryWriter
        self._writer: Any = None

    def start(self, step_nr: int, max_num_steps: int | None) -> None:
        """Begin a file in which what was told of later steps is taken back."""
        self._writer = self._make(str(self._folder), purge_step=step_nr + 1)

    def record(self, kind: Kind, step_nr: int, values: Mapping[str, float]) -> None:
        """Write each value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step_nr)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()


def _row(line: bytes) -> tuple[str, int] | None:
    """The kind and the step of a line; None if it is not one of ours."""
    try:
        values = json.loads(line)
        return (values["kind"], int(values["step"]))
    except (ValueError, TypeError, KeyError):
        return None
