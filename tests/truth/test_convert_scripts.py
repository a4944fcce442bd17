"""Truth from convert scripts: names on both sides, sizes that add up, and pairs that are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from kinfold.checkpoint import Manifest
from truth import convert_scripts
from truth.case import Case
from truth.convert_scripts import cases, fetch_wheel

pytestmark = pytest.mark.slow

KNOWN = {
    "vit": {
        "vit.encoder.layer.0.attention.attention.query.weight": "blocks.0.attn.qkv.weight",
        "vit.encoder.layer.1.layernorm_before.weight": "blocks.1.norm1.weight",
        "vit.embeddings.position_embeddings": "pos_embed",
    },
    "clip": {
        "visual_projection.weight": "visual.proj",
        "text_model.encoder.layers.0.self_attn.q_proj.weight": "transformer.resblocks.0.attn.in_proj_weight",
    },
    "detr": {
        "model.decoder.layers.0.encoder_attn.q_proj.weight": (
            "transformer.decoder.layers.0.multihead_attn.in_proj_weight"
        ),
    },
    "roberta": {
        "roberta.encoder.layer.1.attention.self.query.weight": (
            "model.encoder.sentence_encoder.layers.1.self_attn.q_proj.weight"
        )
    },
    "swin": {
        "swin.encoder.layers.0.blocks.0.attention.self.key.weight": "layers.0.blocks.0.attn.qkv.weight",
    },
    "hubert": {
        "hubert.encoder.layers.0.feed_forward.intermediate_dense.weight": "encoder.layers.0.fc1.weight",
    },
    "whisper": {"model.encoder.layers.0.self_attn.q_proj.weight": "encoder.blocks.0.attn.query.weight"},
}


@pytest.fixture(scope="module")
def wheel() -> Path:
    return fetch_wheel()


@pytest.fixture(scope="module")
def found(wheel: Path) -> list[Case]:
    return list(cases(wheel))


def test_there_are_many_families(found: list[Case]):
    assert len({case.family for case in found}) >= 50
    assert sum(len(case.truth) for case in found) >= 5000


def test_truth_names_both_sides(found: list[Case]):
    for case in found:
        assert case.origin == "convert_scripts"
        assert set(case.truth) == set(case.target), case.family
        assert frozenset().union(*case.truth.values()) == set(case.source), case.family


def test_values_are_neither_lost_nor_made_up(found: list[Case]):
    """A source has as many values as the targets taken from it, or the same as each target that is all of it."""
    for case in found:
        for name, taken in _targets_of(case.truth).items():
            if all(len(case.truth[target]) == 1 for target in taken):
                sizes = [case.target[target].numel for target in taken]
                assert case.source[name].numel in (sum(sizes), *set(sizes)), (case.family, name)
        for name, sources in case.truth.items():
            if len(sources) > 1:
                assert case.target[name].numel == _numel(case.source, sources), (case.family, name)


@pytest.mark.parametrize("family", KNOWN)
def test_known_pairs(found: list[Case], family: str):
    truth = {name: sources for case in found if case.family == family for name, sources in case.truth.items()}
    for name, source in KNOWN[family].items():
        assert truth[name] == {source}


def test_fused_sources_have_their_fused_shape(found: list[Case]):
    case = next(case for case in found if case.family == "vit")
    query = next(name for name in case.truth if name.endswith("layer.0.attention.attention.query.weight"))
    (fused,) = case.truth[query]
    out, in_ = case.target[query].shape
    assert case.source[fused].shape == (3 * out, in_)


def test_what_is_skipped_has_a_reason(wheel: Path, found: list[Case]):
    assert found
    assert convert_scripts.SKIPPED
    assert all(name.count("/") == 1 and reason for name, reason in convert_scripts.SKIPPED.items())


def _targets_of(truth: Mapping[str, frozenset[str]]) -> dict[str, list[str]]:
    taken: dict[str, list[str]] = {}
    for name, sources in truth.items():
        for source in sources:
            taken.setdefault(source, []).append(name)
    return taken


def _numel(manifest: Manifest, names: frozenset[str]) -> int:
    return sum(manifest[name].numel for name in names)
