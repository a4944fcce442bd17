"""Finding the rules that names call for.

Names are grouped by their normalised form and each form is looked up once, so that what a name costs grows with its
length alone: neither with the number of rules nor with what rules there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from kinfold.keymap.pattern import Holes, Named, Numbers, Pattern, by_form, fits_hole
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


class PatternIndex:
    """The patterns of one side of a key map, by their normalised form and the digits that they have themselves."""

    def __init__(self, patterns: Iterable[tuple[Rule, tuple[Pattern, ...]]]) -> None:
        self._by_form: dict[str, dict[tuple[int, ...], dict[Hashable, list[_Entry]]]] = {}
        for rule, group in patterns:
            for place, pattern in enumerate(group):
                form, slots = pattern.form()
                fixed = tuple(slot for slot, (hole, _) in enumerate(slots) if not hole)
                digits = _numbers_at(fixed)([digits for _, digits in slots])
                by_digits = self._by_form.setdefault(form, {}).setdefault(fixed, {})
                by_digits.setdefault(digits, []).append(_Entry(rule, place, slots))

    def match(self, names: Iterable[str]) -> Matching:
        """The uses of rules that names call for."""
        matching = Matching()
        applications: dict[int, dict[Hashable, Application]] = {}
        for group, taken in self._groups(names):
            self._note_names(group, taken, matching)
            for entry, named in taken:
                uses = applications.setdefault(id(entry.rule), {})
                shared, over, place = entry.shared, entry.over, entry.place
                for name, numbers in named:
                    key = shared(numbers)
                    if key not in uses:
                        uses[key] = entry.application(numbers)
                    uses[key].found[place, 0 if over is None else int(numbers[over])] = name
        matching.applications = [application for uses in applications.values() for application in uses.values()]
        return matching

    def lookup(self, names: Iterable[str]) -> dict[str, str]:
        """The first target of each name that has one."""
        found = {}
        for _, taken in self._groups(names):
            for entry, named in taken:
                if entry.rule.targets:
                    template, holes = entry.translation()
                    found.update([(name, template % holes(numbers)) for name, numbers in named])
        return found

    def _groups(self, names: Iterable[str]) -> Iterator[tuple[list[Named], list[tuple[_Entry, list[Named]]]]]:
        """The names of each form, and the patterns that take some of them, with what they take."""
        for form, group in by_form(names).items():
            taken = [
                (entry, entry.taken(named))
                for fixed, by_digits in self._by_form.get(form, {}).items()
                for digits, named in _by_digits(group, fixed).items()
                for entry in by_digits.get(digits, ())
            ]
            yield group, [(entry, named) for entry, named in taken if named]

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

    def __init__(self, rule: Rule, place: int, slots: tuple[tuple[str, str], ...]) -> None:
        self.rule = rule
        self.place = place
        self.slots = {hole: slot for slot, (hole, _) in enumerate(slots) if hole}
        self.over = self.slots.get(rule.over or "")
        self._shared_slots = {hole: self.slots[hole] for hole in sorted(rule.holes)}
        self.shared = _numbers_at(self._shared_slots.values())

    def taken(self, group: list[Named]) -> list[Named]:
        """Those of a group of names, of the pattern's form and with its digits, that have numbers in its holes."""
        unfit = [
            (slot, wrong)
            for slot in self.slots.values()
            if (wrong := {number for number in {numbers[slot] for _, numbers in group} if not fits_hole(number)})
        ]
        if not unfit:
            return group
        return [(name, numbers) for name, numbers in group if not any(numbers[slot] in wrong for slot, wrong in unfit)]

    def application(self, numbers: Numbers) -> Application:
        """The use of the rule for a name with these numbers; what is found is yet to be filled in."""
        holes = {hole: int(numbers[slot]) for hole, slot in self._shared_slots.items()}
        return Application(self.rule, holes, self.over is not None, {})

    def translation(self) -> tuple[str, Callable[[Numbers], str | Numbers]]:
        """The template of the rule's first target, and what takes its numbers out of a name's."""
        target = self.rule.targets[0]
        if self.over is None and self.rule.over in target.holes:  # taken apart over it: the first part
            target = Pattern(target.text.replace(f"{{{self.rule.over}}}", "0"))
        return target.template, _numbers_at(self.slots[hole] for hole in target.holes)


def _by_digits(group: list[Named], fixed: tuple[int, ...]) -> Mapping[Hashable, list[Named]]:
    """Names of one form by the numbers in these slots."""
    if not fixed:
        return {(): group}
    found: defaultdict[Hashable, list[Named]] = defaultdict(list)
    digits = _numbers_at(fixed)
    for name, numbers in group:
        found[digits(numbers)].append((name, numbers))
    return found


def _numbers_at(slots: Iterable[int]) -> Callable[[Sequence[str]], str | Numbers]:
    """What takes the numbers in these slots out of all numbers of a name: a tuple, or the number itself if it is one.

    So `%` takes them, and it is fast.
    """
    slots = tuple(slots)
    return itemgetter(*slots) if slots else lambda numbers: ()
