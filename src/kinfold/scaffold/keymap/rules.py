"""From pairings to the rules of a key map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kinfold.errors import KeyMapError
from kinfold.keymap import chain, concat, permute_rotary, rename, reshape, split, stack, transpose, unstack
from kinfold.keymap.rules import Rule, Size
from kinfold.scaffold.keymap.inference.groups import Group
from kinfold.scaffold.keymap.inference.words import words_of
from kinfold.scaffold.keymap.native import NativeSide, Turning
from kinfold.scaffold.keymap.pairing import Pairing, RotaryOrder

Step = tuple[int, Callable[[Sequence[str], Sequence[str]], list[Rule]]]
"""How many tensors a step gives, and its rules: called with the patterns it takes and those it gives."""


def rule_of(pairing: Pairing, native: NativeSide, rotary: RotaryOrder = "halves") -> Rule:
    """The rule of a pairing; several steps are a chain.

    Args:
        pairing: What goes together.
        native: The native side, which says what sizes are called.
        rotary: How queries and keys lie on the foreign side.

    Raises:
        KeyMapError: The rows of tensors that are taken apart would have to be turned.
    """
    there, here, hole = _patterns(pairing)
    # What one rule of a chain hands on to the next is called a, b, ..., with the holes of its neighbours.
    tail = "".join(f".{{{name}}}" for name in _shared(pairing))
    fresh = (f"{letter}{tail}" for letter in "abcdefghijklmnopqrstuvwxyz")
    turned = _turned(pairing, native) if rotary == "interleaved" else {}
    ends = [next(fresh) if group in turned else name for group, name in zip(pairing.targets, here, strict=True)]
    steps = list(_steps(pairing, native, hole))
    rules: list[Rule] = []
    for place, (number, make) in enumerate(steps):
        given = ends if place == len(steps) - 1 else [next(fresh) for _ in range(number)]
        rules += make(there, given)
        there = given
    for a, b, group in zip(there, here, pairing.targets, strict=True):
        if group in turned:
            heads, turning = turned[group]
            start = turning.start or None
            rules.append(permute_rotary(a, b, heads=heads, rotary_dim=turning.rotary_dim, start=start))
    if not rules:
        return rename(there[0], here[0])
    return rules[0] if len(rules) == 1 else chain(*rules)


def hole_names(lists: Iterable[str]) -> list[str]:
    """What the holes of these lists are called: one of `layers` is a `layer`."""
    names: list[str] = []
    for text in lists:
        word = next((word for word in reversed(words_of(text)) if word.isidentifier()), "index")
        name = word.removesuffix("s") if len(word) > 2 else word
        same = sum(other.rstrip("0123456789") == name for other in names)
        names.append(f"{name}{same + 1}" if same else name)
    return names


def named(group: Group) -> str:
    """The pattern of a group with names for its holes."""
    return group.pattern(hole_names(group.lists))


def _patterns(pairing: Pairing) -> tuple[list[str], list[str], str]:
    """The patterns of both sides, and the hole that one of them has beyond the other's."""
    over, hole = pairing.relation.over, ""
    there = here = _shared(pairing)
    if over:
        place = abs(over) - 1
        extra = (pairing.sources if over > 0 else pairing.targets)[0].lists[place]
        hole = hole_names([*_shared_lists(pairing), extra])[-1]
        longer = [*there[:place], hole, *there[place:]]
        there, here = (longer, here) if over > 0 else (there, longer)
    return [g.pattern(there) for g in pairing.sources], [g.pattern(here) for g in pairing.targets], hole


def _shared(pairing: Pairing) -> list[str]:
    return hole_names(_shared_lists(pairing))


def _shared_lists(pairing: Pairing) -> list[str]:
    """The native lists that both sides count through."""
    extra = -pairing.relation.over - 1 if pairing.relation.over < 0 else None
    return [text for number, text in enumerate(pairing.targets[0].lists) if number != extra]


def _turned(pairing: Pairing, native: NativeSide) -> dict[Group, tuple[Size, Turning]]:
    """The targets whose rows have to be put in another order: their heads, and how much of each turns."""
    turning = [group for group in pairing.targets if native.turns(group)]
    if turning and pairing.relation.over < 0:
        raise KeyMapError(f"{pairing}: the rows of tensors that are taken apart cannot be turned.")
    return {group: (native.heads(group.first_name), native.turning[group.first_name]) for group in turning}


def _steps(pairing: Pairing, native: NativeSide, hole: str) -> Iterator[Step]:
    sources, targets, relation = pairing.sources, pairing.targets, pairing.relation
    if relation.over > 0:
        yield len(sources), lambda taken, given: [stack(a, b, over=hole) for a, b in zip(taken, given, strict=True)]
    if len(sources) > 1:
        sizes = _source_sizes(pairing, native)
        yield 1, lambda taken, given: [concat(taken, into=given[0], sizes=sizes, dim=pairing.dim, groups=pairing.turns)]
    if relation.kind == "transpose":
        last = len(pairing.sources[0].shape) - (relation.over <= 0)
        yield 1, lambda taken, given: [transpose(taken[0], given[0], dim0=last - 1, dim1=last)]
    if relation.kind == "reshape":
        there, here = _reshaped(pairing, native)
        yield 1, lambda taken, given: [reshape(taken[0], given[0], there=there, here=here)]
    if len(targets) > 1:
        dim = pairing.dim - (relation.over < 0)
        parts = [native.size(group.first_name, dim) for group in targets]
        yield (
            len(targets),
            lambda taken, given: [split(taken[0], into=given, sizes=parts, dim=pairing.dim, groups=pairing.turns)],
        )
    if relation.over < 0:
        number = _count(pairing.targets[0], -relation.over - 1, native)
        yield (
            len(targets),
            lambda taken, given: [unstack(a, b, over=hole, count=number) for a, b in zip(taken, given, strict=True)],
        )


def _source_sizes(pairing: Pairing, native: NativeSide) -> list[Size]:
    """The sizes of joined sources: their share of what the target's size is called, where they are all equal."""
    own = pairing.dim - (pairing.relation.over > 0)
    numbers = [group.shape[own] for group in pairing.sources]
    target = pairing.targets[0].first_name
    shape = native.manifest[target].shape
    called = [native.size(target, dim) for dim, size in enumerate(shape) if size == sum(numbers)]
    times, _, rest = str(called[0]).partition(" * ") if called else ("", "", "")
    if len(set(numbers)) > 1 or not times.isdecimal() or not rest or int(times) % len(numbers):
        return [*numbers]
    share = int(times) // len(numbers)
    return [rest if share == 1 else f"{share} * {rest}"] * len(numbers)


def _reshaped(pairing: Pairing, native: NativeSide) -> tuple[list[Size], list[Size]]:
    """What the sizes on both sides are called; they are the same but for ones."""
    source, target, over = pairing.sources[0], pairing.targets[0], pairing.relation.over
    here, numbers = [native.size(target.first_name, dim) for dim in range(len(target.shape))], list(target.shape)
    if over < 0:
        here, numbers = [_count(target, -over - 1, native), *here], [0, *numbers]
    there = source.shape if over <= 0 else (target.shape[0], *source.shape)
    long = iter([size for size, number in zip(here, numbers, strict=True) if number != 1])
    return [1 if number == 1 else next(long) for number in there], here


def _count(group: Group, hole: int, native: NativeSide) -> Size:
    """How many numbers stand in a hole: a field of the config, if a single one has that number."""
    number = len({place[hole] for place in group.tensors})
    named = native.fields_of(number)
    return named[0] if len(named) == 1 else number
