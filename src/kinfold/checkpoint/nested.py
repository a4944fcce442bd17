"""Finding the state dict in what a training run has saved around it: optimizer, arguments, counters."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kinfold.checkpoint.manifest import TensorInfo
from kinfold.errors import CheckpointError

Describe = Callable[[Any], TensorInfo | None]
"""What is known of a value that is a tensor; None for any other value."""

_EXTRA_STATE = "_extra_state"
"""How torch calls what a module keeps besides its tensors (`nn.Module.get_extra_state`)."""


def find_state_dict(saved: Any, describe: Describe, *, place: Path) -> dict[str, Any]:
    """The one mapping from names to tensors in nested mappings, without what in it is clearly no weight.

    It is told by its structure, whatever it is called. State dicts of optimizers (`state` beside `param_groups`)
    are passed over, and so are counters (tensors without dimensions) and states of random number generators (rows
    of bytes) that lie beside it. Within it, texts, whole numbers, and mappings without tensors are no weights.

    Args:
        saved: What was saved.
        describe: Tells tensors from other values.
        place: The file, for messages.

    Raises:
        CheckpointError: There is none, there are several, or there are entries in it that may be weights.
    """
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{place} holds a {type(saved).__name__}, not a mapping from names to tensors.")
    found = list(_candidates(saved, describe, (), set()))
    if not found:
        raise CheckpointError(f"{place} holds no mapping from names to tensors.")
    if len(found) > 1:
        faults = [f"{_called(path)}: {len(mapping)} entries, such as {next(iter(mapping))}" for path, mapping in found]
        raise CheckpointError(
            f"{place} holds several mappings from names to tensors:",
            faults=faults,
            hint="Save the one that is meant in a file of its own.",
        )
    path, mapping = found[0]
    tensors = {name: value for name, value in mapping.items() if describe(value) is not None}
    others = ((name, value) for name, value in mapping.items() if name not in tensors)
    faults = [f"the key {name!r} of a tensor is no text" for name in tensors if not isinstance(name, str)]
    faults += [
        f"{name}: neither a tensor nor clearly no weight, but a {type(value).__name__}"
        for name, value in others
        if not _is_no_weight(name, value, describe)
    ]
    if faults:
        raise CheckpointError(f"{place} is not understood ({_called(path)}):", faults=faults)
    return tensors


def _candidates(
    mapping: Mapping[Any, Any], describe: Describe, path: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping that has weights, with the keys that lead to it."""
    if id(mapping) in seen or mapping.keys() >= {"state", "param_groups"}:
        return
    seen.add(id(mapping))
    if any(_may_be_weight(info) for value in mapping.values() if (info := describe(value)) is not None):
        yield path, mapping
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _candidates(value, describe, (*path, str(key)), seen)


def _may_be_weight(info: TensorInfo) -> bool:
    return bool(info.shape) and not (info.dtype == "uint8" and len(info.shape) == 1)


def _is_no_weight(name: Any, value: Any, describe: Describe) -> bool:
    if isinstance(value, Mapping):
        return not list(_candidates(value, describe, (), set()))
    return (
        value is None
        or isinstance(value, str | bytes | int | Namespace)
        or (isinstance(name, str) and name.endswith(_EXTRA_STATE))
    )


def _called(path: tuple[str, ...]) -> str:
    return repr(".".join(path)) if path else "the outermost"
