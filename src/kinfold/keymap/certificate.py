"""The certificate of a key map: that it explains a checkpoint and a model to each other, in full.

It is made from names, shapes and dtypes alone, and fails closed: what is not explained is a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, islice

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap.keymap import BoundKeyMap
from kinfold.keymap.match import Application, Matching
from kinfold.keymap.pattern import normalise
from kinfold.keymap.plan import Plan, Step
from kinfold.memory import collector_paused


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was found.

    Attributes:
        plan: What to do, tensor by tensor; complete only if there is no fault.
        faults: Everything that is not explained.
    """

    plan: Plan
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every source is used once or dropped by name, and every target filled once."""
        return not self.faults

    def raise_for_faults(self, summary: str, *, hint: str | None = None) -> None:
        """Raise a `CertificateError` that lists all faults, if there are any."""
        if self.faults:
            raise CertificateError(summary, faults=self.faults, hint=hint)

    def __str__(self) -> str:
        if self.faults:
            return f"{len(self.faults)} faults: {'; '.join(self.faults)}"
        sources = sum(len(step.sources) for step in self.plan.steps)
        targets = sum(len(step.targets) for step in self.plan.steps)
        others = "".join(
            f", {len(names)} {what}"
            for names, what in ((self.plan.copies, "that repeat others"), (self.plan.dropped, "dropped by name"))
            if names
        )
        return f"{sources} tensors used once{others}; {targets} parameters filled once"


def certify(key_map: BoundKeyMap, source: Manifest, target: Manifest) -> Certificate:
    """Whether a key map explains a checkpoint and a model to each other, in full.

    Args:
        key_map: The map, bound to the model's config.
        source: The manifest of the checkpoint.
        target: The manifest of the model.

    Returns:
        The certificate; faults are in it, never raised.
    """
    with collector_paused():  # thousands of steps come and none goes
        return _certify(key_map, source, target)


def _certify(key_map: BoundKeyMap, source: Manifest, target: Manifest) -> Certificate:
    matching = key_map.match(source, "source")
    found: list[str] = []
    steps: dict[str, Step] = {}
    copies: list[tuple[str, str]] = []
    dropped: list[tuple[str, str]] = []
    filled: list[str] = []
    checks = _ShapeChecks(key_map)
    for application in matching.applications:
        rule = application.rule
        count = key_map.count(application, [source[name] for name in application.found.values()])
        names = application.names(rule.sources, count)
        if wrong := _wrong_sources(application, names, count):
            found.append(f"{rule}: {wrong}")
        elif rule.repeats is not None:
            original = rule.repeats.format(application.holes)
            found += _copy_faults(names[0], original, source)
            copies.append((names[0], original))
        elif not rule.targets:
            dropped.append((names[0], rule.reason))
        else:
            targets = application.names(rule.targets, count)
            filled += targets
            infos = [target[name] for name in targets if name in target]
            if len(infos) < len(targets):
                missing = [name for name in targets if name not in target]
                found.append(f"{rule}: the model has no {_listed(missing)}")
            else:
                found += checks.faults(application, count, [source[name] for name in names], infos)
                steps[targets[0]] = Step(key_map.op(rule, count), tuple(names), tuple(targets))
    read = {name for step in steps.values() for name in step.sources}
    found += [
        f"{name} should repeat {original}, which no rule loads"
        for name, original in copies
        if original in source and original not in read
    ]
    times = Counter(filled)
    faults = [*_name_faults(matching, source), *_alike(found)]
    faults += _grouped((name for name in target if name not in times), "is filled by no tensor", target)
    faults += _grouped((name for name in times if times[name] > 1), "is filled more than once", target)
    order = {name: number for number, name in enumerate(target)}
    ordered = sorted(steps.values(), key=lambda step: min(map(order.__getitem__, step.targets)))
    return Certificate(Plan(tuple(ordered), tuple(copies), tuple(dropped)), tuple(dict.fromkeys(faults)))


def _wrong_sources(application: Application, names: list[str], count: int) -> str:
    """What is wrong with the names that were found, where other ones were expected."""
    found = application.found
    if len(found) == len(names) and all(number < count for _, number in found):
        return ""
    lacking = [name for name in names if name not in found.values()]
    if lacking:
        return f"{_listed(lacking)} is missing beside {next(iter(found.values()))}"
    return f"{_listed(name for name in found.values() if name not in names)} is one too many for {count}"


def _name_faults(matching: Matching, source: Manifest) -> list[str]:
    """Sources that no rule takes, or more than one; and numbers that are missing in a row."""
    ambiguous = [f"{name} is taken by more than one rule: {_listed(rules)}" for name, rules in matching.ambiguous]
    gaps = [
        f"{hole} {_missing(found)} is missing between 0 and {max(found)}"
        for hole, found in matching.numbers.items()
        if len(found) <= max(found)
    ]
    return [*_grouped(matching.unmatched, "is taken by no rule", source), *_alike(ambiguous), *gaps]


def _copy_faults(name: str, original: str, source: Manifest) -> list[str]:
    if original not in source:
        return [f"{name} should repeat {original}, which is not there"]
    if (source[original].shape, source[original].dtype) != (source[name].shape, source[name].dtype):
        sides = [f"{n} {source[n].shape} {source[n].dtype}" for n in (name, original)]
        return [f"{sides[0]} cannot repeat {sides[1]}"]
    return []


class _ShapeChecks:
    """Checks of shapes and dtypes; the layers of a model are alike, so most have been made before."""

    def __init__(self, key_map: BoundKeyMap) -> None:
        self._key_map = key_map
        self._known: set[tuple] = set()

    def faults(
        self, application: Application, count: int, sources: list[TensorInfo], targets: list[TensorInfo]
    ) -> list[str]:
        """What does not fit between the two sides of one application, and on the way back."""
        rule = application.rule
        given, wanted = [info.shape for info in sources], [info.shape for info in targets]
        key = (id(rule), *given, *[info.dtype for info in sources], *wanted, *[info.dtype for info in targets])
        if key in self._known:
            return []
        dtypes = {_is_floating(info) for info in (*sources, *targets)}
        stored = dict.fromkeys(info.dtype for info in sources)
        where = f"{rule} with {dict(application.holes)}" if application.holes else str(rule)
        op = self._key_map.op(rule, count)
        try:
            got = op.shapes(given)
            back = op.inverse().shapes(got)
        except KeyMapError as error:
            return [f"{where}: {error}"]
        found = []
        if got != wanted:
            found.append(f"{where}: gives {_shapes(got)}, the model has {_shapes(wanted)}")
        elif back != given:
            found.append(f"{where}: exporting would give {_shapes(back)}, not {_shapes(given)}")
        if len(dtypes) > 1:
            found.append(f"{where}: {sources[0].dtype} there and {targets[0].dtype} here do not go together")
        elif len(stored) > 1:
            found.append(f"{where}: {' and '.join(stored)} cannot be joined and come apart again as they were")
        if not found:
            self._known.add(key)
        return found


def _is_floating(info: TensorInfo) -> bool:
    return "float" in info.dtype


def _shapes(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


def _grouped(names: Iterable[str], what: str, manifest: Manifest) -> list[str]:
    """One fault for all names that differ only in their numbers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(normalise(name)[0], []).append(name)
    found = []
    for first, *rest in groups.values():
        shape = manifest[first].shape if first in manifest else ""
        found.append(f"{first} {shape} {what}" + (f" (and {len(rest)} more like it)" if rest else ""))
    return found


def _alike(faults: Iterable[str]) -> list[str]:
    """One for all faults that differ only in their numbers."""
    groups: dict[str, list[str]] = {}
    for fault in dict.fromkeys(faults):
        groups.setdefault(normalise(fault)[0], []).append(fault)
    return [first if not rest else f"{first} (and {len(rest)} more like it)" for first, *rest in groups.values()]


def _missing(found: set[int], most: int = 8) -> str:
    """The numbers from 0 on that are not there."""
    missing = max(found) + 1 - len(found)
    first = islice((number for number in count() if number not in found), min(missing, most))
    return ", ".join(map(str, first)) + (f" and {missing - most} more" if missing > most else "")


def _listed(items: Iterable[object], most: int = 8) -> str:
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more
