"""Cases from convert scripts: what a script wrote, with the shapes of the model it wrote to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from kinfold.checkpoint import TensorInfo
from truth.case import Case
from truth.convert_scripts import invert, models
from truth.convert_scripts.script import Script, entry_points
from truth.convert_scripts.symbols import Joined, Source
from truth.convert_scripts.wheel import scripts

ORIGIN = "convert_scripts"
KEPT = 0.7
"""The least share of a script's pairs whose names the model has."""
FOUND = 0.4
"""The least share of a model's tensors that must be found where old names are derived by undoing edits."""
FEW = 16
"""A script that writes fewer names than this outside of a state dict may rename the rest inside of it."""
SAME = 0.65
"""The greatest share of names that are the same on both sides."""
FEWEST = 8
"""The fewest tensors that make a case."""

SKIPPED: dict[str, str] = {}
"""The scripts that `cases` got nothing from, by `family/file.py`, and why; filled by `cases`."""


def cases(wheel: Path) -> Iterator[Case]:
    """One case for each convert script that can be read; a family with several scripts has several."""
    SKIPPED.clear()
    for name, text in scripts(wheel):
        with contextlib.redirect_stdout(io.StringIO()):
            script = Script(name, text)
            case = _case(script)
        if isinstance(case, Case):
            yield case
        else:
            SKIPPED[name] = case


def _case(script: Script) -> Case | str:
    classes = [name for name in script.classes if models.tensors(name)]
    if not classes:
        return "it names no model class that can be built here"
    best: Case | None = None
    wrote = 0
    for written in _written(script):
        for name, pairs in written.items():
            wrote = max(wrote, len(pairs))
            for cls in [name] if name in classes else classes:
                best = _better(best, _assemble(script, cls, pairs, KEPT))
    if best is None or wrote < FEW:
        best = _better(best, _inverted(script, classes))
    if best is not None:
        kept = sum(sources == {name} for name, sources in best.truth.items())
        return best if kept <= SAME * len(best.truth) else "it keeps nearly all names, or nearly none can be derived"
    return "its old names cannot be derived" if wrote < FEWEST else "the model has too few of the names it writes"


def _better(one: Case | None, other: Case | None) -> Case | None:
    if one is None or other is None:
        return one or other
    return other if len(other.truth) > len(one.truth) else one


def _written(script: Script) -> Iterator[dict[str, dict[str, Any]]]:
    for function in entry_points(script):
        for given in (script.defaults(), {}):
            for flags in (None, True, False):
                yield script.run(function, given, flags).written


def _inverted(script: Script, classes: list[str]) -> Case | None:
    """The case of a script that renames what it is given: the explanation that explains most of a model's names."""
    best: Case | None = None
    most = 0
    inner = script.loaded_into()
    composite = any(models.is_composite(cls) for cls in classes)
    for cls in classes:
        base = models.prefixes(cls)[-1]
        for forward in invert.forwards(script):
            for names in models.tensors(cls):
                for prefix in [inner] if inner in models.prefixes(cls) and inner else models.prefixes(cls):
                    wanted = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
                    if len(wanted) < FOUND * len(names):
                        continue
                    score, found = invert.invert(script, forward, wanted, base)
                    if score <= most or len(found) < FOUND * len(wanted):
                        continue
                    if composite and not invert.prefix_only(found):
                        continue
                    case = _assemble(script, cls, {prefix + name: value for name, value in found.items()}, KEPT)
                    if case is not None:
                        best, most = case, score
    return best


def _assemble(script: Script, cls: str, pairs: Mapping[str, Any], least: float) -> Case | None:
    best: Case | None = None
    for names in models.tensors(cls):
        for prefix in models.prefixes(cls):
            found = _with_shapes({prefix + name: value for name, value in pairs.items()}, names)
            if len(found[1]) < max(FEWEST, least * len(pairs)):
                continue
            source, target, truth = found
            best = _better(best, Case(ORIGIN, script.family, source, target, truth))
    return best


Sides = tuple[dict[str, TensorInfo], dict[str, TensorInfo], dict[str, frozenset[str]]]


def _with_shapes(pairs: Mapping[str, Any], names: Mapping[str, TensorInfo]) -> Sides:
    """The pairs whose target is among `names`, with the sources' shapes as the script's operations imply them."""
    wholes: dict[str, tuple[int, ...]] = {}
    parts: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    made: dict[str, list[str]] = {}
    for name, value in _tensors(pairs, names):
        sources = value._parts if isinstance(value, Joined) else [value]
        shape: tuple[int, ...] | None = names[name].shape
        if len(sources) > 1:
            shape = (shape[0] // len(sources), *shape[1:]) if shape[0] % len(sources) == 0 else None
        for source in sources:
            turned = _turned(shape, source._ops)
            if turned is None or not source._path:
                break
            if "P" in source._ops:
                parts.setdefault(source._path, []).append((name, turned))
            elif wholes.setdefault(source._path, turned) != turned:
                break
        else:
            made[name] = [source._path for source in sources]
    for path, taken in parts.items():
        shapes = [shape for _, shape in taken]
        if len(taken) > 1 and path not in wholes and len({shape[1:] for shape in shapes}) == 1:
            wholes[path] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        else:
            for name, _ in taken:
                made.pop(name, None)
    made = _without_shared(made)
    used = {path for sources in made.values() for path in sources}
    source = {path: TensorInfo(shape, "float32", "float32") for path, shape in wholes.items() if path in used}
    made = {name: sources for name, sources in made.items() if all(path in source for path in sources)}
    truth = {name: frozenset(sources) for name, sources in made.items()}
    return source, {name: names[name] for name in truth}, truth


def _without_shared(made: dict[str, list[str]]) -> dict[str, list[str]]:
    """`made` without the sources that stand for several layers at once: what they were told apart by is not known."""
    layers: dict[str, set[str]] = {}
    for name, sources in made.items():
        for path in sources:
            layers.setdefault(path, set()).add(".".join(part for part in name.split(".") if part.isdigit()))
    return {name: sources for name, sources in made.items() if all(len(layers[path]) == 1 for path in sources)}


def _tensors(pairs: Mapping[str, Any], names: Mapping[str, TensorInfo]) -> Iterator[tuple[str, Source]]:
    """The pairs, a module's as one for each of its tensors."""
    for name, value in pairs.items():
        if not isinstance(value, Source):
            continue
        if name in names:
            yield name, value
        elif not isinstance(value, Joined):
            for inner in names:
                if inner.startswith(f"{name}."):
                    yield inner, Source(value._path + inner[len(name) :], value._ops)


def _turned(shape: tuple[int, ...] | None, ops: tuple[str, ...]) -> tuple[int, ...] | None:
    if shape is None or "R" in ops or "J" in ops:
        return None
    if ops.count("T") % 2 == 0:
        return shape
    return shape[::-1] if len(shape) == 2 and prod(shape) else None
