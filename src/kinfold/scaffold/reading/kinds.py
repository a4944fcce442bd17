"""How the layers of a decoder differ: which have a window, and which turn by their positions, at what base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kinfold.scaffold.reading import config_keys as keys
from kinfold.scaffold.reading.config import Config, note_key
from kinfold.scaffold.reading.facts import Findings


def note_windows(config: Config, findings: Findings) -> None:
    """Note `sliding_window`, and `window_pattern` where not all layers have it."""
    kinds = _kinds(config, findings)
    used = config.get("use_sliding_window", True) is not False
    windows = [key for key in keys.WINDOWS if config.get(key) is not None]
    if not used or not windows or (kinds is not None and True not in kinds):
        return
    note_key("sliding_window", windows[0], config, findings)
    if kinds is None:
        kinds = _by_interval(config, findings)
    if kinds is not None and False in kinds:
        key = next((key for key in keys.LAYER_KINDS if config.get(key)), "sliding_window_pattern")
        findings.note("window_pattern", tuple(shortest(kinds)), f"{key} = {config.get(key)}")


def note_turning_layers(config: Config, findings: Findings) -> None:
    """Note which layers turn queries and keys, where not all do."""
    listed = config.get("no_rope_layers")
    thetas = config.get("layer_rope_theta")
    interval = config.get("no_rope_layer_interval")
    wrong = [key for key in ("no_rope_layers", "layer_rope_theta") if not isinstance(config.get(key) or [], list)]
    if wrong:
        findings.faults += [f"{key} = {config[key]!r}: a list was expected" for key in wrong]
        return
    if listed:
        turning = tuple(shortest([bool(layer) for layer in listed]))
        if False in turning:
            findings.note("turning_layers", turning, f"no_rope_layers = {listed}")
    elif isinstance(interval, int) and interval > 0 and listed is None:
        turning = tuple(number % interval != 0 for number in range(1, interval + 1))
        findings.note("turning_layers", turning, f"no_rope_layer_interval = {interval}")
    if thetas:
        findings.note("layer_thetas", tuple(shortest([float(t or 0) for t in thetas])), f"layer_rope_theta = {thetas}")
    if any(config.get(key) for key in keys.LAYER_KINDS) and "turning_layers" not in findings.facts:
        findings.ask(
            "which layers turn by their positions",
            {"turning_layers": "all"},
            {"turning_layers": "windowed"},
            why="as most do",
        )


def thetas(facts: Any) -> float | tuple[float, ...]:
    """The base of each layer, in turns; one number where all have the same, 0 where a layer does not turn."""
    base, windowed = facts("rope_theta"), facts("windowed_rope_theta")
    has_window = facts("sliding_window") is not None
    pattern, turning = (facts("window_pattern") or (True,)) if has_window else (False,), facts("turning_layers")
    if facts("layer_thetas"):
        found = facts("layer_thetas")
    else:
        found = [windowed if window and windowed is not None else base for window in pattern]
    if turning == "windowed":
        found = [theta if window else 0.0 for theta, window in in_step(found, pattern)]
    elif turning not in (None, "all"):
        found = [theta if turns else 0.0 for theta, turns in in_step(found, turning)]
    found = shortest(found)
    return found[0] if len(found) == 1 else tuple(found)


def in_step(first: Sequence[Any], second: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Two patterns side by side, each as often as it takes until both end together."""
    count = next(n for n in range(1, len(first) * len(second) + 1) if n % len(first) == 0 and n % len(second) == 0)
    return [(first[number % len(first)], second[number % len(second)]) for number in range(count)]


def shortest(pattern: Sequence[Any]) -> list[Any]:
    """The shortest pattern that gives the same in turns."""
    values = list(pattern)
    periods = range(1, len(values) + 1)
    period = next(p for p in periods if all(value == values[n % p] for n, value in enumerate(values)))
    return values[:period]


def _kinds(config: Config, findings: Findings) -> list[bool] | None:
    """Whether each layer has a window, by a list of kinds; None if there is no such list."""
    for key in keys.LAYER_KINDS:
        kinds = config.get(key)
        if not kinds:
            continue
        if not isinstance(kinds, list | tuple):
            findings.faults.append(f"{key} = {kinds!r}: a list was expected")
            return None
        unknown = sorted({str(kind) for kind in kinds} - keys.WINDOWED - keys.UNWINDOWED)
        if unknown:
            findings.faults.append(f"{key} names layers of the kind {', '.join(unknown)}, which is not understood")
            return None
        return [kind in keys.WINDOWED for kind in kinds]
    return None


def _by_interval(config: Config, findings: Findings) -> list[bool] | None:
    """The kinds of layers where only every n-th is without a window."""
    for key in ("sliding_window_pattern", "_sliding_window_pattern"):
        interval = config.get(key)
        if isinstance(interval, int) and interval > 1:
            return [number % interval != 0 for number in range(1, interval + 1)]
    if isinstance(most := config.get("max_window_layers"), int) and config.get("use_sliding_window"):
        number = findings.value("num_layers", 0)
        return [layer >= most for layer in range(number)] if most < number else [False]
    return None
