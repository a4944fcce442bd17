"""Finding the rules that names call for.

Names are grouped by their normalised form and each form is looked up once, so that what a name costs grows with its
length alone: neither with the number of rules nor with what rules there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from kinfold.keymap.pattern import Holes, Numbers, Pattern, fits, normalise, normalise_segments
from kinfold.keymap.rules import Rule


@dataclass(slots=True)
class Application:
    """One use of a rule.

    Attributes:
        rule: The rule.
        holes: What stands in the holes that all its patterns have.
        has_over: Whether the side that was looked at has the hole that the rule runs through.
        found: The names found on that side, by place in the rule and number in the hole `over` (0 without).
    """

    rule: Rule
    holes: Holes
    has_over: bool
    found: dict[tuple[int, int], str]

    @property
    def count(self) -> int:
        """How many numbers were found over the hole `over`."""
        return len({number for _, number in self.found}) if self.has_over else 1

    def names(self, patterns: tuple[Pattern, ...], count: int) -> list[str]:
        """The names of all of `patterns`, sources or targets of the rule (see `Rule.names`)."""
        return self.rule.names(patterns, self.holes, count)


@dataclass(slots=True)
class Matching:
    """What was found.

    Attributes:
        applications: Every use of a rule.
        unmatched: Names that no rule has.
        ambiguous: Names that several rules have, or one rule several times.
        numbers: The numbers that stand in each hole, over all rules that give something.
    """

    applications: list[Application] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    ambiguous: list[tuple[str, list[Rule]]] = field(default_factory=list)
    numbers: dict[str, set[int]] = field(default_factory=dict)


Named = tuple[str, Numbers]
"""A name, and the numbers in it."""


class PatternIndex:
    """The patterns of one side of a key map, by their normalised form."""

    def __init__(self, patterns: Iterable[tuple[Rule, tuple[Pattern, ...]]]) -> None:
        placed = [(rule, place, pattern) for rule, group in patterns for place, pattern in enumerate(group)]
        self._segments = all(pattern.holes_are_segments for _, _, pattern in placed)
        self._literal: dict[str, list[_Entry]] = {}
        self._by_key: dict[str, list[_Entry]] = {}
        for rule, place, pattern in placed:
            key, slots = pattern.form(segments=self._segments)
            table, key = (self._by_key, key) if pattern.holes else (self._literal, pattern.text)
            table.setdefault(key, []).append(_Entry(rule, place, pattern, slots))

    def match(self, names: Iterable[str]) -> Matching:
        """The uses of rules that names call for, in the order in which their forms first come."""
        matching = Matching()
        applications: dict[tuple[int, Numbers], Application] = {}
        for group, taken in self._groups(names):
            self._note_names(group, taken, matching)
            for entry, named in taken:
                shared, over, place = entry.shared, entry.over, entry.place
                for name, numbers in named:
                    key = (id(entry.rule), shared(numbers))
                    where = (place, 0 if over is None else int(numbers[over]))
                    application = applications.get(key)
                    if application is None:
                        applications[key] = entry.application(key[1], {where: name})
                    else:
                        application.found[where] = name
        matching.applications = list(applications.values())
        return matching

    def lookup(self, names: Iterable[str]) -> dict[str, str]:
        """The first target of each name that has one."""
        found = {}
        for _, taken in self._groups(names):
            for entry, named in taken:
                if entry.rule.targets:
                    template, chosen = entry.translation()
                    found.update([(name, template % chosen(numbers)) for name, numbers in named])
        return found

    def _groups(self, names: Iterable[str]) -> Iterator[tuple[list[Named], list[tuple[_Entry, list[Named]]]]]:
        """The names of each form, and the patterns that take some of them, with what they take."""
        groups: dict[str, list[Named]] = {}
        form = normalise_segments if self._segments else normalise
        for name in names:
            key, numbers = form(name)
            if key in groups:
                groups[key].append((name, numbers))
            else:
                groups[key] = [(name, numbers)]
        for key, group in groups.items():
            entries = [(entry, entry.taken(group)) for entry in self._by_key.get(key, ())]
            if self._literal:
                entries += [(entry, [named]) for named in group for entry in self._literal.get(named[0], ())]
            yield group, [(entry, taken) for entry, taken in entries if taken]

    def _note_names(self, group: list[Named], taken: list[tuple[_Entry, list[Named]]], matching: Matching) -> None:
        """Note the numbers of a group of names, and which of them none takes, or more than one."""
        if sum(len(named) for _, named in taken) != len(group) or len(taken) > 1:
            rules: dict[str, list[Rule]] = {name: [] for name, _ in group}
            for entry, named in taken:
                for name, _ in named:
                    rules[name].append(entry.rule)
            matching.unmatched += [name for name, found in rules.items() if not found]
            matching.ambiguous += [(name, found) for name, found in rules.items() if len(found) > 1]
        for entry, named in taken:
            for hole, slot in entry.slots.items() if entry.rule.targets else ():
                found = {numbers[slot] for _, numbers in named}
                matching.numbers.setdefault(hole, set()).update(map(int, found))


class _Entry:
    """A pattern of a rule, and how the numbers of a name that it takes are read."""

    def __init__(self, rule: Rule, place: int, pattern: Pattern, slots: tuple[tuple[str, str], ...]) -> None:
        self.rule = rule
        self.place = place
        self.slots = {hole: slot for slot, (hole, _) in enumerate(slots) if hole}
        self.over = self.slots.get(rule.over or "")
        self.names = sorted(rule.holes)
        self.shared = _chosen(self.slots[hole] for hole in self.names)
        self._all_slots = slots

    def taken(self, group: list[Named]) -> list[Named]:
        """Those of a group of names, all of the pattern's normalised form, that the pattern takes."""
        unfit = []
        for place, slot in enumerate(self._all_slots):
            try:
                found = {numbers[place] for _, numbers in group}
            except IndexError:  # braces stand in a name itself
                return self.taken([named for named in group if len(named[1]) == len(self._all_slots)])
            unfit.append({number for number in found if not fits(number, slot)})
        if not any(unfit):
            return group
        return [
            (name, numbers)
            for name, numbers in group
            if not any(number in wrong for number, wrong in zip(numbers, unfit, strict=True))
        ]

    def application(self, shared: Numbers, found: dict[tuple[int, int], str]) -> Application:
        """The use of the rule with these numbers in the holes that its patterns share."""
        return Application(
            self.rule, dict(zip(self.names, map(int, shared), strict=True)), self.over is not None, found
        )

    def translation(self) -> tuple[str, Callable[[Numbers], Numbers]]:
        """The template of the rule's first target, and what takes its numbers out of a name's."""
        target = self.rule.targets[0]
        if self.over is None and self.rule.over in target.holes:  # taken apart over it: the first part
            target = Pattern(target.text.replace(f"{{{self.rule.over}}}", "0"))
        return target.template, _chosen(self.slots[hole] for hole in target.holes)


def _chosen(slots: Iterable[int]) -> Callable[[Numbers], Numbers]:
    """What takes the numbers in these slots out of all numbers of a name."""
    chosen = tuple(slots)
    if len(chosen) < 2:
        return lambda numbers: tuple([numbers[slot] for slot in chosen])
    return itemgetter(*chosen)
