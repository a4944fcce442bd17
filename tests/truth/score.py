"""How an inferred key map compares with one that somebody else wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from kinfold.scaffold.keymap.inference.infer import Inference, infer
from truth.case import Case


def score(cases: Iterable[Case]) -> Counter[str]:
    """How many names of all cases are "right", "open" or "wrong"."""
    return sum((Counter(outcome(case).values()) for case in cases), Counter())


def outcome(case: Case) -> dict[str, str]:
    """For each name that the truth speaks of: "right", "open" or "wrong"."""
    inference = infer(case.source, case.target)
    said = dict(sources_of_targets(inference))
    found = {}
    for name, truth in case.truth.items():
        sources, sure = said.get(name, (frozenset(), False))
        found[name] = "open" if not sure else "right" if sources == truth else "wrong"
    return found


def sources_of_targets(inference: Inference) -> Iterator[tuple[str, tuple[frozenset[str], bool]]]:
    """For each native name that was paired: the foreign names that it is made of, and whether that is decided."""
    for decision in inference.decisions:
        over = decision.relation.over
        for target in decision.targets:
            for place in target.tensors:
                names = set()
                for source in decision.sources:
                    if over > 0:
                        hole = over - 1
                        names |= {source.name(p) for p in source.tensors if p[:hole] + p[hole + 1 :] == place}
                    elif over < 0:
                        hole = -over - 1
                        names.add(source.name(place[:hole] + place[hole + 1 :]))
                    else:
                        names.add(source.name(place))
                yield target.name(place), (frozenset(names), decision.sure)
