"""Writing the files of a checkpoint, each by one rank, step by step of the key map that its tensors are exported by."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

from kinfold.checkpoint.shards import Shard
from kinfold.errors import TrainingError
from kinfold.filling import Progress
from kinfold.keymap import Plan, Step
from kinfold.keymap.ops.base import bits
from kinfold.parallel.export.assembly import Assembly

_PIECE = 2**18


def write_files(
    folder: Path, shards: Sequence[Shard], plan: Plan, assembly: Assembly, *, progress: Progress | None = None
) -> None:
    """Take part in putting all tensors together, and write the files that fall to this rank.

    If it cannot write, it still takes part to the end, since the others wait for it.

    Args:
        folder: Where the files are written; without any of them.
        shards: The files.
        plan: How their tensors come about.
        assembly: What they are made of.
        progress: Called after each step with the bytes of tensors that all ranks have written, and of all tensors.

    Raises:
        TrainingError: There are weights that are no numbers, or that the dtype of a file does not hold.
        OSError: A file cannot be written.
    """
    tasks = _tasks(plan)
    writers = _writers(shards, tasks, assembly)
    sizes = {name: info.nbytes for shard in shards for name, info in shard.manifest.items()}
    done, total, failure = 0, sum(sizes.values()), None
    with _Files(folder, shards) as files:
        for task in tasks:
            wanted = {writers[name] for name in task.names}
            natives = {name: assembly.whole(name, wanted) for name in task.step.targets}
            if assembly.rank in wanted and failure is None:
                failure = _attempt(
                    files, task, natives, {name for name in task.names if writers[name] == assembly.rank}
                )
            natives.clear()
            done += sum(map(sizes.__getitem__, task.names))
            if progress is not None:
                progress(done, total)
        if failure is not None:
            raise failure


@dataclass(frozen=True, slots=True)
class _Task:
    """A step, and what is written of it.

    Attributes:
        step: The step.
        outputs: What it gives, by name, each with all names that it is written under.
    """

    step: Step
    outputs: Mapping[str, Sequence[str]]

    @property
    def names(self) -> Iterator[str]:
        """All names that something is written under."""
        return chain.from_iterable(self.outputs.values())


def _tasks(plan: Plan) -> list[_Task]:
    copies: dict[str, list[str]] = {}
    for name, original in plan.copies:
        copies.setdefault(original, []).append(name)
    return [_Task(step, {name: [name, *copies.get(name, ())] for name in step.sources}) for step in plan.steps]


def _attempt(
    files: _Files, task: _Task, natives: Mapping[str, Tensor | None], own: Collection[str]
) -> Exception | None:
    """Write what a step gives under these names; gives the error, if there is one."""

    def read(name: str) -> Tensor:
        tensor = natives[name]
        assert tensor is not None
        return tensor

    try:
        for source, tensor in task.step.export(read):
            for name in task.outputs[source]:
                if name in own:
                    files.write(name, tensor)
    except Exception as error:
        return error
    return None


def _writers(shards: Sequence[Shard], tasks: Iterable[_Task], assembly: Assembly) -> dict[str, int]:
    """The rank that writes each tensor: for all of a file the same, one that has most of it and least else to write."""
    origins = {name: task.step.targets for task in tasks for name in task.names}
    loads = [0] * assembly.size
    writers = {}
    for shard in shards:
        held: Counter[int] = Counter()
        for name, info in shard.manifest.items():
            for rank in set.intersection(*map(assembly.holders, origins[name])):
                held[rank] += info.nbytes
        writer = min(range(assembly.size), key=lambda rank: (-held[rank], loads[rank]))
        loads[writer] += shard.nbytes
        writers.update(dict.fromkeys(shard.manifest, writer))
    return writers


class _Files:
    """Files that are opened when the first tensor is written, each at its place, and are on the disk at the end."""

    def __init__(self, folder: Path, shards: Iterable[Shard]) -> None:
        self._folder = folder
        self._shards = {name: shard for shard in shards for name in shard.manifest}
        self._files: dict[str, BinaryIO] = {}
        self._places: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with ExitStack() as stack:
            for file in self._files.values():
                stack.enter_context(file)
            if kind is None:
                for file in self._files.values():
                    os.fsync(file.fileno())

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor, cast to the dtype that it has there.

        Raises:
            TrainingError: It has values that are no numbers, or that the dtype does not hold.
        """
        shard = self._shards[name]
        if shard.file not in self._files:
            self._open(shard)
        file = self._files[shard.file]
        file.seek(self._places[name])
        values: Any = bits(_cast(name, tensor, getattr(torch, shard.manifest[name].dtype))).flatten().numpy()
        data = memoryview(values)
        while data:
            data = data[file.write(data) :]

    def _open(self, shard: Shard) -> None:
        """Begin a file; that the folder is not there means that it was made on another machine."""
        file = self._files[shard.file] = (self._folder / shard.file).open("xb", buffering=0)
        file.write(shard.header)
        file.truncate(len(shard.header) + shard.nbytes)
        ends = accumulate((info.nbytes for info in shard.manifest.values()), initial=len(shard.header))
        self._places.update(zip(shard.manifest, ends, strict=False))


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.to("cpu", dtype).contiguous()
    is_checked = cast.is_floating_point() and cast.itemsize > 1  # of float8 torch does not know it
    if is_checked and not all(bool(piece.isfinite().all()) for piece in cast.flatten().split(_PIECE)):
        raise TrainingError(
            f"{name} has values that are no numbers, or that {dtype} does not hold.",
            hint="If training went well, choose another dtype (`save_dtype`).",
        )
    return cast
