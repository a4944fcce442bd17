"""Checkpoints that torch has pickled, read without running what a pickle may ask for."""

from __future__ import annotations

import mmap
import re
import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinfold.checkpoint.base import Checkpoint
from kinfold.checkpoint.manifest import ITEMSIZES, TensorInfo
from kinfold.checkpoint.nested import find_state_dict
from kinfold.errors import CheckpointError, UnsupportedError, nearest

if TYPE_CHECKING:
    from torch import Tensor

_ZIP = b"PK\x03\x04"
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_REASON = re.compile(r"WeightsUnpickler error: (.*)")


class PickleCheckpoint(Checkpoint):
    """A checkpoint of files that `torch.save` wrote: one, or several with an index.

    Only what torch allows with `weights_only` is unpickled, and `argparse.Namespace`. The state dict is found by its
    structure (`find_state_dict`). Files in torch's zip format stay mapped; from older ones the shapes are read without
    the values, and the values, all of one file at once, when the first is asked for.

    Args:
        path: What was opened.
        files: The files.
        config: What config.json or params.json holds.
        listed: The file of each tensor according to an index, which has to agree with the files.

    Raises:
        CheckpointError: Lists every fault of every file.
    """

    layout = "pickle"

    def __init__(
        self,
        path: Path,
        files: Iterable[Path],
        *,
        config: Mapping[str, Any],
        listed: Mapping[str, Path] | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self._files: dict[str, Path] = {}
        self._mapped: dict[Path, Mapping[str, Tensor]] = {}
        self._loaded: tuple[Path, Mapping[str, Tensor]] | None = None
        self._shared: set[str] = set()
        manifest: dict[str, TensorInfo] = {}
        faults: list[str] = []
        for file in files:
            try:
                values = self._opened(file)
                infos = {name: _described(tensor, file, name) for name, tensor in values.items()}
            except CheckpointError as error:
                if listed is None:
                    raise
                faults += [error.summary, *error.faults]
                continue
            self._shared |= _shared(self._mapped.get(file, {}))
            twice = [name for name in infos if name in self._files]
            faults += [f"tensor {name} is in two files, {self._files[name].name} and {file.name}" for name in twice]
            self._files.update(dict.fromkeys(infos, file))
            manifest.update(infos)
        if listed is not None and not faults:
            faults = self._disagreements(listed)
        if faults:
            raise CheckpointError(f"{path} cannot be read:", faults=faults)
        self.manifest = manifest

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        if name not in self._files:
            raise CheckpointError(f"{self.path} has no tensor {name!r}.", hint=nearest(name, self._files))
        tensor = self._values(self._files[name])[name].detach()
        if tensor.is_meta:
            raise CheckpointError(f"{self._files[name]}: tensor {name} was saved without its values.")
        given = tensor.resolve_conj().resolve_neg().contiguous()
        # What shares its memory with another tensor here must not do so in a model that has two of them.
        copy = not mmap or name in self._shared
        return given.clone() if copy and given.data_ptr() == tensor.data_ptr() else given

    def close(self) -> None:
        self._mapped, self._loaded = {}, None

    def _opened(self, file: Path) -> Mapping[str, Tensor]:
        """The tensors of a file: mapped, or on the meta device."""
        if not file.is_file():  # before it is opened: opening a FIFO waits for ever
            raise CheckpointError(f"{file} is no regular file.")
        if not _is_mappable(file):
            return _load(file, map_location="meta")
        self._mapped[file] = _load(file, map_location="cpu", mapped=True)
        return self._mapped[file]

    def _values(self, file: Path) -> Mapping[str, Tensor]:
        """The tensors of a file with their values; of the files that cannot be mapped, one is kept at a time."""
        if file in self._mapped:
            return self._mapped[file]
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = None  # let go of one before there is another
            self._loaded = file, _load(file, map_location="cpu")
            self._shared |= _shared(self._loaded[1])
        return self._loaded[1]

    def _disagreements(self, listed: Mapping[str, Path]) -> list[str]:
        return [
            f"{name}: in {_name(self._files.get(name))}, according to the index in {_name(listed.get(name))}"
            for name in {**listed, **self._files}
            if listed.get(name) != self._files.get(name)
        ]


def _is_mappable(file: Path) -> bool:
    """Whether a file is in torch's zip format, with its values as they are.

    Raises:
        UnsupportedError: It is a program (TorchScript).
        CheckpointError: It is damaged.
    """
    with file.open("rb") as start:
        if start.read(len(_ZIP)) != _ZIP:
            return False
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UnsupportedError(
            f"{file} is a TorchScript archive, which holds a program.",
            hint="Save its weights: torch.save(torch.jit.load(...).state_dict(), ...).",
        )
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _load(file: Path, *, map_location: str, mapped: bool = False) -> dict[str, Tensor]:
    """The state dict of a file."""
    import torch

    try:
        with _loading():
            saved = torch.load(file, map_location=map_location, weights_only=True, mmap=mapped)
    except Exception as error:  # what an unpickler meets in a hostile file may raise anything
        if names := _forbidden(file, error):
            raise CheckpointError(
                f"{file} asks for what may run code, and is not read:",
                faults=names,
                hint="Tensors, plain containers and argparse.Namespace are. Load it where you trust it, and save "
                "its state dict alone.",
            ) from error
        reason = _REASON.search(text := str(error))
        shown = reason[1] if reason else next(iter(text.splitlines()), type(error).__name__)
        raise CheckpointError(f"{file} is no file that torch can read, or is damaged: {shown}") from error
    return find_state_dict(saved, _info, place=file)


@contextmanager
def _loading() -> Iterator[None]:
    """argparse.Namespace allowed, files mapped copy on write whatever the process's default, and no warnings."""
    import torch

    with (
        torch.serialization.safe_globals([Namespace]),
        torch.serialization.set_default_mmap_options(mmap.MAP_PRIVATE),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of torch's, about its own old formats
        yield


def _forbidden(file: Path, error: Exception) -> list[str]:
    """The globals that a file asks for and that are not allowed, all of them where torch can list them."""
    import torch

    try:
        with torch.serialization.safe_globals([Namespace]):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # of the old format, or damaged
        names = []
    return sorted({*names, *_GLOBAL.findall(str(error))})


def _info(value: Any) -> TensorInfo | None:
    import torch

    return TensorInfo.of(value) if isinstance(value, torch.Tensor) else None


def _described(tensor: Tensor, file: Path, name: str) -> TensorInfo:
    import torch

    info = _info(tensor)
    if info is None or tensor.layout != torch.strided or tensor.is_quantized or info.dtype not in ITEMSIZES:
        raise UnsupportedError(
            f"{file}: tensor {name} is a {tensor.layout} tensor of {tensor.dtype}, which is not read."
        )
    return info


def _shared(values: Mapping[str, Tensor]) -> set[str]:
    """The names of tensors that have their storage together with others."""
    names: dict[int, list[str]] = {}
    for name, tensor in values.items():
        names.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return {name for together in names.values() if len(together) > 1 for name in together}


def _name(file: Path | None) -> str:
    return file.name if file else "none"
