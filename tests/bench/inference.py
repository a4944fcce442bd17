"""How well key maps are inferred from names and shapes, against maps that others wrote.

python tests/bench/inference.py [--verbose] [--seen | --unseen] [WORD ...]

A key is one tensor of the model's side.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from truth import conversion_mapping, convert_scripts, gguf_names
from truth.case import Case
from truth.score import outcome, sources_of_targets

from kinfold.scaffold.keymap.inference.infer import infer


def all_cases() -> Iterator[Case]:
    """The cases of every origin."""
    yield from gguf_names.cases()
    yield from conversion_mapping.cases()
    yield from convert_scripts.cases(convert_scripts.fetch_wheel(Path(sys.prefix) / ".truth"))


def report(cases: Iterable[Case], *, verbose: bool) -> None:
    """Print a row for each origin, seen and unseen families apart."""
    counts: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    families: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for case in cases:
        found = outcome(case)
        key = case.origin, case.unseen
        counts[key].update(found.values())
        families[key].add(case.family)
        if verbose and not case.unseen:
            of_case = Counter(found.values())
            if of_case["wrong"] or of_case["open"]:
                print(f"{case.origin} {case.family}: {dict(of_case)}")
                said = dict(sources_of_targets(infer(case.source, case.target)))
                for name, what in found.items():
                    if what != "right" and not any(part.isdigit() and part != "0" for part in name.split(".")):
                        mine = sorted(said.get(name, (frozenset(), False))[0])[:2]
                        truth = sorted(case.truth[name])[:2]
                        print(f"    {what}: {name} {case.target[name].shape} <- {truth}, not {mine}")
    print("| truth | families | keys | right | open | wrong |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (origin, unseen), count in sorted(counts.items()):
        total = count.total()
        parts = " | ".join(f"{count[what] / total:.1%}" for what in ("right", "open", "wrong"))
        print(f"| {origin}, {'unseen' if unseen else 'seen'} | {len(families[origin, unseen])} | {total} | {parts} |")


if __name__ == "__main__":
    options = {argument for argument in sys.argv[1:] if argument.startswith("--")}
    words = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    chosen = [
        case
        for case in all_cases()
        if (not words or any(word in (case.origin, case.family) for word in words))
        and ("--seen" not in options or not case.unseen)
        and ("--unseen" not in options or case.unseen)
    ]
    report(chosen, verbose="--verbose" in options)
