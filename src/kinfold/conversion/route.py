"""From one layout to another by way of the native one, tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from kinfold.checkpoint import Checkpoint, Extent, Manifest, TensorInfo
from kinfold.errors import CheckpointError
from kinfold.keymap import Plan, Step
from kinfold.keymap.ops import Identity

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    Results = dict[str, Tensor]


_PIECE = 2**18
"""How many values are cast at a time: so few that they stay in the processor's cache until they are written."""


class Route:
    """A checkpoint as it is in another layout; each tensor is worked out when it is asked for.

    Args:
        checkpoint: The checkpoint.
        load: From its layout to the native one.
        export: From the native layout to the other one, read backwards; `load` itself if the two are the same, None
            if the other one is the native.
        manifest: What comes out, with the dtypes of the checkpoint.
        dtype: What floating tensors are cast to, as torch calls it; None leaves them as they are.

    Raises:
        CheckpointError: There are tensors that casting would make meaningless.
    """

    def __init__(
        self, checkpoint: Checkpoint, load: Plan, export: Plan | None, manifest: Manifest, *, dtype: str | None = None
    ) -> None:
        self.manifest = {name: _cast_info(info, dtype) for name, info in manifest.items()}
        self._checkpoint = checkpoint
        self._load = load
        self._export = export
        self._copies = dict(export.copies) if export else {}
        self._native = _Latest()
        self._foreign = _Latest()
        scaled = [name for name, info in manifest.items() if dtype and info.dtype.startswith("float8")]
        if scaled:
            raise CheckpointError(
                f"{scaled[0]} and {len(scaled) - 1} more are float8, which means nothing without its scales, and "
                f"cannot be cast to {dtype}.",
                hint="Leave the dtype as it is.",
            )

    def tensor(self, name: str) -> Tensor:
        """One tensor of what comes out; mapped to a file if it is there as it is."""
        import torch

        tensor = self._uncast(name)
        dtype = getattr(torch, self.manifest[name].dtype)
        if tensor.dtype == dtype:
            return tensor
        cast = torch.empty(tensor.numel(), dtype=dtype)
        for part, piece in zip(cast.split(_PIECE), _cast(tensor, dtype, name), strict=False):
            part.copy_(piece)
        return cast.view(tensor.shape)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The values of one tensor, in pieces of one dimension; casting then needs no memory for the whole of it."""
        import torch

        return _cast(self._uncast(name), getattr(torch, self.manifest[name].dtype), name)

    def extent(self, name: str) -> Extent | None:
        """Where a tensor lies in a file of the checkpoint, if it is there as it is to be."""
        origin = self._origin(name)
        if origin is None or self._checkpoint.manifest[origin].stored != self.manifest[name].dtype:
            return None
        return self._checkpoint.extent(origin)

    def origins(self, name: str) -> frozenset[str]:
        """The tensors of the checkpoint that one that comes out is made of."""
        name = self._copies.get(name, name)
        if self._export is self._load:
            return frozenset([name])
        natives = (name,) if self._export is None else self._export.step_of_source[name].targets
        return frozenset(source for native in natives for source in self._load.step_of_target[native].sources)

    def fingerprint(self) -> str:
        """What tells this way of working tensors out from any other."""
        digest = hashlib.sha256()
        for plan in (self._load, self._export):
            digest.update(b"\n")
            for step in plan.steps if plan else ():
                digest.update(repr(step).encode())
        return digest.hexdigest()

    def _origin(self, name: str) -> str | None:
        """The tensor of the checkpoint that one that comes out is, values and shape alike."""
        name = self._copies.get(name, name)
        if self._export is self._load:
            return name
        native: str | None = name
        if self._export is not None:
            step = self._export.step_of_source[name]
            native = _passed(step, step.sources, step.targets, name)
        if native is None:
            return None
        step = self._load.step_of_target[native]
        return _passed(step, step.targets, step.sources, native)

    def _uncast(self, name: str) -> Tensor:
        origin = self._origin(name)
        return self._computed(name) if origin is None else self._checkpoint.tensor(origin)

    def _computed(self, name: str) -> Tensor:
        if self._export is None:
            return self._native_tensor(name)
        name = self._copies.get(name, name)
        step = self._export.step_of_source[name]
        return self._foreign.results(step, lambda: step.export(self._native_tensor))[name]

    def _native_tensor(self, name: str) -> Tensor:
        step = self._load.step_of_target[name]
        return self._native.results(step, lambda: step.load(self._checkpoint.tensor))[name]


class _Latest:
    """What the step gave that was last carried out: the parts of a tensor are asked for one after the other."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self._results: Results = {}

    def results(self, step: Step, carry_out: Callable[[], Iterable[tuple[str, Tensor]]]) -> Results:
        if step is not self._step:
            self._step, self._results = None, {}  # let go of the old ones before there are new ones
            self._results = dict(carry_out())
            self._step = step
        return self._results


def _passed(step: Step, given: tuple[str, ...], taken: tuple[str, ...], name: str) -> str | None:
    """The tensor that a step gives on unchanged under this name."""
    return taken[given.index(name)] if isinstance(step.op, Identity) else None


def _cast_info(info: TensorInfo, dtype: str | None) -> TensorInfo:
    kept = info.dtype if dtype is None or "float" not in info.dtype else dtype
    return TensorInfo(info.shape, kept, kept)


def _cast(tensor: Tensor, dtype: torch.dtype, name: str) -> Iterator[Tensor]:
    """The values of a tensor in another dtype, piece by piece; all at once if it has that dtype.

    Raises:
        CheckpointError: Finite values would become infinite.
    """
    import torch

    values = tensor.reshape(-1)
    if tensor.dtype == dtype:
        yield values
        return
    for start in range(0, len(values), _PIECE):
        piece = values[start : start + _PIECE]
        cast = piece.to(dtype)
        lost = ~torch.isfinite(cast)
        if lost.any() and (lost & torch.isfinite(piece)).any():
            raise CheckpointError(
                f"{name} has the value {piece[lost & torch.isfinite(piece)][0].item():.4g}, which "
                f"{str(dtype).removeprefix('torch.')} does not hold.",
                hint="Choose bfloat16 or float32.",
            )
        yield cast
