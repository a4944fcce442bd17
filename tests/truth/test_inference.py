"""A floor under the scores of inference: on families that were looked at while it was written, and on the others.

A floor is what was reached when it was set, less one point.
"""

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

SOME = (
    "albert", "aria", "bert", "convbert", "deepseek_v2", "deepseek_v3", "electra", "flex_olmo", "gemma3", "glm4_moe",
    "gpt_neox", "granitemoe", "hubert", "internvl", "jamba", "lfm2_moe", "llava", "minimax", "mixtral", "mpnet",
    "olmoe", "paligemma", "phimoe", "qwen2_5_vl", "qwen2_moe", "qwen3_moe", "roberta", "vit", "wav2vec2",
)  # fmt: skip
"""Well-known families of transformers' conversion mappings, for where there is no time for all."""


def assert_scores(cases: Iterable[Case], *, seen: float, unseen: float) -> None:
    """At least these parts of all names are decided rightly, seen and unseen families apart."""
    cases = list(cases)
    for least, found in ((seen, [c for c in cases if not c.unseen]), (unseen, [c for c in cases if c.unseen])):
        count = score(found)
        assert count["right"] / count.total() >= least, count
        assert count["wrong"] / count.total() <= WRONG, count


def conversion_mapping_of(family: str) -> Case:
    """The case of the first model of a family that has one."""
    with conversion_mapping.quiet():
        models = conversion_mapping.tiny_models(conversion_mapping.model_classes(family))
        return next(case for model in models if (case := conversion_mapping.case_of(family, model)))


def test_names_of_gguf() -> None:
    assert_scores(gguf_names.cases(), seen=0.977, unseen=0.946)


def test_some_conversion_mappings() -> None:
    assert_scores(map(conversion_mapping_of, SOME), seen=0.99, unseen=0.988)


SLOW: dict[str, tuple[Callable[[], Iterable[Case]], float, float]] = {
    "conversion mappings": (conversion_mapping.cases, 0.986, 0.977),
    "convert scripts": (lambda: convert_scripts.cases(convert_scripts.fetch_wheel()), 0.953, 0.985),
}


@pytest.mark.slow
@pytest.mark.parametrize("origin", SLOW)
def test_all_names(origin: str) -> None:
    cases, seen, unseen = SLOW[origin]
    assert_scores(cases(), seen=seen, unseen=unseen)
