"""A floor under the scores of inference: on families that were looked at while it was written, and on the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

pytest.importorskip("gguf")
pytest.importorskip("transformers")

from truth import conversion_mapping, convert_scripts, gguf_names
from truth.case import Case
from truth.score import score

WRONG = 0.005
"""The part of all names that may be decided wrongly."""

QUICK = 12
"""How many families of each third are looked at where there is no time for all."""


def assert_scores(cases: Iterable[Case], *, seen: float, unseen: float) -> None:
    """At least these parts of all names are decided rightly, seen and unseen families apart."""
    cases = list(cases)
    for least, found in ((seen, [c for c in cases if not c.unseen]), (unseen, [c for c in cases if c.unseen])):
        count = score(found)
        assert count["right"] / count.total() >= least
        assert count["wrong"] / count.total() <= WRONG


def first(cases: Iterable[Case]) -> list[Case]:
    """The first families of each kind, in the order of the alphabet."""
    by_name = sorted(cases, key=lambda case: case.family)
    return [case for unseen in (False, True) for case in [c for c in by_name if c.unseen is unseen][:QUICK]]


def test_some_of_ggufs_names() -> None:
    assert_scores(first(gguf_names.cases()), seen=0.95, unseen=0.92)


ORIGINS: dict[str, tuple[Callable[[], Iterable[Case]], float, float]] = {
    "gguf": (gguf_names.cases, 0.975, 0.95),
    "conversion mappings": (conversion_mapping.cases, 0.985, 0.975),
    "convert scripts": (lambda: convert_scripts.cases(convert_scripts.fetch_wheel()), 0.955, 0.98),
}


@pytest.mark.slow
@pytest.mark.parametrize("origin", ORIGINS)
def test_all_names(origin: str) -> None:
    cases, seen, unseen = ORIGINS[origin]
    assert_scores(cases(), seen=seen, unseen=unseen)
