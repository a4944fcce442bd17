"""A table of rules, and the look-up it compiles to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

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
            KeyMapError: Lists every size that the config does not have.
        """
        faults: list[str] = []

        def resolve(size: Size) -> int:
            number = getattr(config, size, None) if isinstance(size, str) else size
            if isinstance(number, int):
                return number
            known = [name for name in dir(config) if isinstance(getattr(config, name, None), int)]
            faults.append(f"{size!r} is no number of the config. {nearest(str(size), known) or ''}".rstrip())
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
        found = []
        for rule, place, pattern in (self._by_source if side == "source" else self._by_target).get(key, ()):
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
        """What the foreign checkpoint of a model looks like, had it been exported by this map."""
        source: dict[str, TensorInfo] = {}
        for application in self.applications(target, "target"):
            infos = [target[name] for name in application.targets() if name in target]
            count = infos[0].shape[0] if application.rule.over and infos[0].shape else 1
            shapes = self.op(application.rule, count).inverse().shapes([info.shape for info in infos])
            for name, shape in zip(application.sources(count), shapes, strict=True):
                source[name] = TensorInfo(shape, infos[0].dtype, infos[0].dtype)
        for rule in self.rules:
            if rule.repeats and rule.repeats.text in source:
                source[rule.sources[0].text] = source[rule.repeats.text]
        return source

    def target_manifest(self, source: Manifest) -> Manifest:
        """What the model of a foreign checkpoint looks like: the inverse of `source_manifest`."""
        target: dict[str, TensorInfo] = {}
        for application in self.applications(source, "source"):
            if application.rule.targets:
                infos = [source[name] for name in application.sources(application.count) if name in source]
                shapes = self.op(application.rule, application.count).shapes([info.shape for info in infos])
                for name, shape in zip(application.targets(), shapes, strict=True):
                    target[name] = TensorInfo(shape, infos[0].dtype, infos[0].dtype)
        return target


def _index(
    patterns: Iterable[tuple[Rule, tuple[Pattern, ...]]],
) -> Mapping[str, list[tuple[Rule, int, Pattern]]]:
    """Normalised name to the patterns that may match it."""
    index: dict[str, list[tuple[Rule, int, Pattern]]] = {}
    for rule, group in patterns:
        for place, pattern in enumerate(group):
            index.setdefault(pattern.key, []).append((rule, place, pattern))
    return index
