"""A table of rules, and the look-up it compiles to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.errors import KeyMapError, nearest
from kinfold.keymap.ops import Op
from kinfold.keymap.pattern import Holes, Pattern, normalise
from kinfold.keymap.rules import Resolve, Rule, Size


class KeyMap:
    """Which foreign tensor becomes which of ours: an immutable list of rules.

    Example:
        KeyMap(
            rename("output_norm.weight", "decoder.layer_norm.weight"),
            permute_rotary("blk.{layer}.attn_q.weight", "decoder.layers.{layer}.self_attn.q_proj.weight",
                           heads="num_heads"),
        )
    """

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def bind(self, config: object = None) -> BoundKeyMap:
        """The key map for one config, which gives the sizes that rules name.

        Raises:
            KeyMapError: Lists every size that the config does not have, or that is no positive number.
        """
        faults: list[str] = []

        def resolve(size: Size) -> int:
            number = getattr(config, size, None) if isinstance(size, str) else size
            if _is_number(number) and number > 0:
                return number
            if isinstance(size, str) and not hasattr(config, size):
                known = [name for name in dir(config) if _is_number(getattr(config, name, None))]
                faults.append(f"{size!r} is no number of the config. {nearest(size, known) or ''}".rstrip())
            else:
                named = f"{size!r} is {number!r} in the config, which" if isinstance(size, str) else f"{size!r}"
                faults.append(f"{named} is no positive number.")
            return 1

        for rule in self.rules:
            before = len(faults)
            rule.make_op(resolve, 1)
            faults[before:] = [f"{rule}: {fault}" for fault in faults[before:]]
        if faults:
            raise KeyMapError("The key map does not fit its config:", faults=faults)
        return BoundKeyMap(self.rules, resolve)


@dataclass
class Application:
    """One use of a rule.

    Attributes:
        rule: The rule.
        holes: What stands in the holes that both sides have.
        names: The names found on the side that was looked at, by place in the rule and number in the hole `over`.
    """

    rule: Rule
    holes: Holes
    names: dict[tuple[int, int], str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many tensors there are over the hole `over`."""
        return len(self.names) // len(self.rule.sources) if self.rule.over else 1

    def sources(self, count: int) -> list[str]:
        """All source names, for `count` tensors over the hole `over`."""
        over = [{**self.holes, self.rule.over: n} for n in range(count)] if self.rule.over else [self.holes]
        return [pattern.format(holes) for holes in over for pattern in self.rule.sources]

    def targets(self) -> list[str]:
        """All target names."""
        return [pattern.format(self.holes) for pattern in self.rule.targets]


class BoundKeyMap:
    """A key map whose sizes are known.

    Names are looked up by their normalised form, so what a name costs does not grow with the number of rules.
    """

    def __init__(self, rules: tuple[Rule, ...], resolve: Resolve) -> None:
        self.rules = rules
        self._resolve = resolve
        self._by_source = _index((rule, rule.sources) for rule in rules)
        self._by_target = _index((rule, rule.targets) for rule in rules)

    def op(self, rule: Rule, count: int) -> Op:
        """The operation of a rule, for `count` tensors over its hole `over`."""
        return rule.make_op(self._resolve, count)

    def matches(self, name: str, side: Literal["source", "target"]) -> list[tuple[Rule, int, Holes]]:
        """The rules that have a pattern for a name, the place of the pattern, and what stands in its holes."""
        key, numbers = normalise(name)
        index = self._by_source if side == "source" else self._by_target
        found: list[tuple[Rule, int, Holes]] = [(rule, place, {}) for rule, place, _ in index.literal.get(name, ())]
        for rule, place, pattern in index.by_key.get(key, ()):
            holes = pattern.match_numbers(numbers)
            if holes is not None:
                found.append((rule, place, holes))
        return found

    def applications(self, names: Iterable[str], side: Literal["source", "target"]) -> list[Application]:
        """The uses of rules that names call for, in their order; a name that no rule has is passed over."""
        found: dict[tuple[int, tuple[tuple[str, int], ...]], Application] = {}
        for name in names:
            for rule, place, holes in self.matches(name, side):
                shared = {hole: number for hole, number in holes.items() if hole != rule.over}
                key = (id(rule), tuple(sorted(shared.items())))
                application = found.setdefault(key, Application(rule, shared))
                application.names[place, holes.get(rule.over or "", 0)] = name
        return list(found.values())

    def source_manifest(self, target: Manifest) -> Manifest:
        """What the foreign checkpoint of a model looks like, had it been exported by this map.

        What a rule does not fit is given the shape of what it was given; its certificate says what is wrong.
        """
        source: dict[str, TensorInfo] = {}
        for application in self.applications(target, "target"):
            infos = [target[name] for name in application.targets() if name in target]
            count = infos[0].shape[0] if application.rule.over and infos[0].shape else 1
            names = application.sources(count)
            source.update(_came_out(names, self.op(application.rule, count).inverse(), infos))
        for rule in self.rules:
            if rule.repeats:
                original = rule.repeats
                holes = [found for name in source if (found := original.match(name)) is not None]
                source.update((rule.sources[0].format(found), source[original.format(found)]) for found in holes)
        return source

    def target_manifest(self, source: Manifest) -> Manifest:
        """What the model of a foreign checkpoint looks like: the inverse of `source_manifest`."""
        target: dict[str, TensorInfo] = {}
        for application in self.applications(source, "source"):
            if application.rule.targets:
                infos = [source[name] for name in application.sources(application.count) if name in source]
                target.update(_came_out(application.targets(), self.op(application.rule, application.count), infos))
        return target


@dataclass
class _Index:
    """Name to the patterns without holes that are it, and normalised name to those with holes that may match it."""

    literal: dict[str, list[tuple[Rule, int, Pattern]]] = field(default_factory=dict)
    by_key: dict[str, list[tuple[Rule, int, Pattern]]] = field(default_factory=dict)


def _index(patterns: Iterable[tuple[Rule, tuple[Pattern, ...]]]) -> _Index:
    index = _Index()
    for rule, group in patterns:
        for place, pattern in enumerate(group):
            if pattern.holes:
                index.by_key.setdefault(pattern.key, []).append((rule, place, pattern))
            else:
                index.literal.setdefault(pattern.text, []).append((rule, place, pattern))
    return index


def _came_out(names: list[str], op: Op, infos: list[TensorInfo]) -> Iterator[tuple[str, TensorInfo]]:
    """What an operation gives; where it does not fit, the shape of its first tensor."""
    try:
        shapes = op.shapes([info.shape for info in infos])
    except KeyMapError:
        shapes = [infos[0].shape] * len(names)
    return zip(names, (TensorInfo(shape, infos[0].dtype, infos[0].dtype) for shape in shapes), strict=True)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
