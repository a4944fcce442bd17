"""A table of rules, and the look-up it compiles to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import Literal, TypeGuard

from kinfold.checkpoint.manifest import Manifest, TensorInfo
from kinfold.errors import KeyMapError, nearest
from kinfold.keymap.match import Application, Matching, PatternIndex
from kinfold.keymap.ops import Op
from kinfold.keymap.rules import Resolve, Rule, Size
from kinfold.memory import collector_paused


class KeyMap:
    """Which foreign tensor becomes which of ours: an immutable list of rules.

    Example:
        KeyMap(
            rename("output_norm.weight", "decoder.layer_norm.weight"),
            permute_rotary("blk.{layer}.attn_q.weight", "decoder.layers.{layer}.self_attn.q_proj.weight",
                           heads="num_heads"),
        )

    Raises:
        KeyMapError: Every name is the same on both sides, though some values are not: what has been converted
            already could not be told from what has not.
    """

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        changing = [f"{rule}" for rule in rules if rule.targets and rule.kind != "rename"]
        there = {pattern.text for rule in rules if rule.targets for pattern in rule.sources}
        if changing and there == {pattern.text for rule in rules for pattern in rule.targets}:
            raise KeyMapError(
                "Both sides of the key map have the same names, so that what is converted already could not be told "
                "from what is not, and these rules would be applied to it again:",
                faults=changing,
            )

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def bind(self, config: object = None) -> BoundKeyMap:
        """The key map for one config, which gives the sizes that rules name, and says which rules hold.

        Raises:
            KeyMapError: Lists every size that the config does not have, or that is no positive number, and every
                switch that it does not have.
        """
        values = _Values(config)
        holding = []
        for rule in self.rules:
            before = len(values.faults)
            if (rule.when is None or values.is_on(rule.when)) and not (rule.unless and values.is_on(rule.unless)):
                holding.append(rule)
            rule.make_op(values.resolve, 1 if rule.count is None else values.resolve(rule.count))
            values.faults[before:] = [f"{rule}: {fault}" for fault in dict.fromkeys(values.faults[before:])]
        if values.faults:
            raise KeyMapError("The key map does not fit its config:", faults=values.faults)
        return BoundKeyMap(tuple(holding), values.resolve)


class _Values:
    """What a config says of the sizes and switches that rules name; what it does not say is a fault."""

    def __init__(self, config: object) -> None:
        self._config = config
        self.faults: list[str] = []

    def resolve(self, size: Size) -> int:
        """The number that a size stands for; 1 where there is none."""
        if not isinstance(size, str):
            return self._factor(size)
        whole, *parts = (prod(map(self._factor, term.split(" * "))) for term in size.split(" - "))
        if (rest := whole - sum(parts)) < 0:
            self.faults.append(f"{size!r} is {rest} in the config, which is below 0.")
        return max(rest, 0)

    def is_on(self, switch: str) -> bool:
        """Whether a switch is on: true, or a part that may be None and is not."""
        value = getattr(self._config, switch, 0)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            self.faults.append(f"{switch!r} is no switch of the config. {self._nearest(switch, bool)}".rstrip())
        return value is not None and value is not False

    def _factor(self, size: Size) -> int:
        number = int(size) if isinstance(size, str) and size.isdecimal() else size
        number = getattr(self._config, number, None) if isinstance(number, str) else number
        if _is_number(number) and number > 0:
            return number
        if isinstance(size, str) and not hasattr(self._config, size):
            self.faults.append(f"{size!r} is no number of the config. {self._nearest(size, int)}".rstrip())
        else:
            named = f"{size!r} is {number!r} in the config, which" if isinstance(size, str) else f"{size!r}"
            self.faults.append(f"{named} is no positive number.")
        return 1

    def _nearest(self, name: str, kind: type) -> str:
        known = [known for known in dir(self._config) if type(getattr(self._config, known, None)) is kind]
        return nearest(name, known) or ""


class BoundKeyMap:
    """A key map whose sizes are known."""

    def __init__(self, rules: tuple[Rule, ...], resolve: Resolve) -> None:
        self.rules = rules
        self._resolve = resolve
        self._ops: dict[tuple[int, int], Op] = {}
        self._sources = PatternIndex((rule, rule.sources) for rule in rules)
        self._targets = PatternIndex((rule, rule.targets) for rule in rules)

    def restricted_to(self, *rules: Rule) -> BoundKeyMap:
        """The map of some of its rules alone."""
        return BoundKeyMap(rules, self._resolve)

    def op(self, rule: Rule, count: int) -> Op:
        """The operation of a rule, for `count` tensors over its hole `over`."""
        key = (id(rule), count)
        if key not in self._ops:
            self._ops[key] = rule.make_op(self._resolve, count)
        return self._ops[key]

    def match(self, names: Iterable[str], side: Literal["source", "target"]) -> Matching:
        """The uses of rules that names call for, and the names that no rule has, or more than one."""
        with collector_paused():
            return (self._sources if side == "source" else self._targets).match(names)

    def lookup(self, names: Iterable[str]) -> dict[str, str]:
        """What each foreign name is called here: its target, or the one that it becomes a part of.

        A name that becomes several targets is given the first; one that no rule takes, or that is dropped, is left
        out. Only names are looked at: a certificate says whether the map fits.
        """
        with collector_paused():
            return self._sources.lookup(names)

    def count(self, application: Application, infos: list[TensorInfo]) -> int:
        """How many tensors there are over the hole `over` of an application.

        Args:
            application: The use of a rule.
            infos: The tensors that were found for it.
        """
        rule = application.rule
        if rule.count is not None:
            return self._resolve(rule.count)
        if rule.over is None or application.has_over:
            return application.count
        return infos[0].shape[0] if infos and infos[0].shape else 1

    def source_manifest(self, target: Manifest) -> Manifest:
        """What the foreign checkpoint of a model looks like, had it been exported by this map.

        What a rule does not fit is given the shape of what it was given; its certificate says what is wrong.
        """
        source: dict[str, TensorInfo] = {}
        for application in self.match(target, "target").applications:
            rule = application.rule
            infos = [target[name] for name in application.found.values()]
            count = self.count(application, infos)
            infos = [target[name] for name in application.names(rule.targets, count) if name in target]
            source.update(_came_out(application.names(rule.sources, count), self.op(rule, count).inverse(), infos))
        for rule in self.rules:
            if rule.repeats and rule.written:
                original = rule.repeats
                matches = [found for name in source if (found := original.match(name)) is not None]
                source.update((rule.sources[0].format(found), source[original.format(found)]) for found in matches)
        return source

    def target_manifest(self, source: Manifest) -> Manifest:
        """What the model of a foreign checkpoint looks like: the inverse of `source_manifest`."""
        target: dict[str, TensorInfo] = {}
        for application in self.match(source, "source").applications:
            rule = application.rule
            if rule.targets:
                count = self.count(application, [source[name] for name in application.found.values()])
                infos = [source[name] for name in application.names(rule.sources, count) if name in source]
                target.update(_came_out(application.names(rule.targets, count), self.op(rule, count), infos))
        return target


def _came_out(names: list[str], op: Op, infos: list[TensorInfo]) -> Iterator[tuple[str, TensorInfo]]:
    """What an operation gives; where it does not fit, the shape of its first tensor."""
    try:
        shapes = op.shapes([info.shape for info in infos])
    except (KeyMapError, ValueError, IndexError):  # a number of tensors that it does not take
        shapes = []
    if len(shapes) != len(names):
        shapes = [infos[0].shape] * len(names)
    return zip(names, (TensorInfo(shape, infos[0].dtype, infos[0].dtype) for shape in shapes), strict=True)


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
