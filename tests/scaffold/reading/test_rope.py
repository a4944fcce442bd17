"""What configs say of rotary positions, in old and new spellings, as transformers reads them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from kinfold.scaffold.reading.facts import Findings
from kinfold.scaffold.reading.rope import note_rope
from kinfold.scaffold.spec.scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    YarnScaling,
)

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
FACTORS = {"short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]}


def read(config: dict[str, Any], max_seq_len: int | None = 4096) -> Findings:
    findings = Findings()
    if max_seq_len is not None:
        findings.note("max_seq_len", max_seq_len, "max_position_embeddings")
    note_rope(config, findings)
    return findings


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, None),
        ({"rope_scaling": None}, None),
        ({"rope_parameters": {"rope_type": "default"}}, None),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, LinearScaling(factor=2.0)),
        ({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}}, LinearScaling(factor=2.0)),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, LinearScaling(factor=2.0)),
        ({"rope.scaling.type": "none"}, None),
        (
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            DynamicScaling(factor=2.0, original_max_seq_len=4096),
        ),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, Llama3Scaling(factor=8.0, original_max_seq_len=8192)),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3}}, Llama3Scaling(factor=8.0, original_max_seq_len=8192)),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
            YarnScaling(factor=4.0, original_max_seq_len=1024),
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 1024},
            YarnScaling(factor=4.0, original_max_seq_len=1024),
        ),
        (
            {"rope_scaling": {"type": "su", **FACTORS}, "original_max_position_embeddings": 1024},
            LongRopeScaling(short_factors=(1.0, 2.0), long_factors=(3.0, 4.0), original_max_seq_len=1024, factor=4.0),
        ),
    ],
)
def test_scaling(config: dict[str, Any], expected: RopeScaling | None) -> None:
    findings = read(config)
    assert findings.faults == []
    assert findings.value("rope_scaling") == expected


@pytest.mark.parametrize(
    "config", [{"rope_theta": 5e5}, {"rope_parameters": {"rope_theta": 5e5}}, {"rope.freq_base": 5e5}]
)
def test_theta(config: dict[str, Any]) -> None:
    assert read(config).value("rope_theta") == 5e5


def test_a_theta_that_is_not_said_is_assumed_as_transformers_does() -> None:
    fact = read({}).facts["rope_theta"]
    assert fact.assumed
    assert LlamaConfig().to_dict()["rope_parameters"]["rope_theta"] == fact.value


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta: 10000.0 according to rope_theta"),
        ({"rope_theta": "big"}, "a number was expected"),
        ({"rope_scaling": {"type": "spiral"}}, "of the type 'spiral'"),
        ({"rope_scaling": {"type": "linear"}}, "missing required field `factor`"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "Expected `float`, got `str`"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2}}, "two types: linear, yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "warp": 9}}, "rope_scaling.warp = 9: not understood"),
        ({"rope_scaling": 3}, "a mapping was expected"),
        ({"rope_parameters": {"partial_rotary_factor": 1.5}}, "a number above 0 and up to 1 was expected"),
        ({"rope_parameters": {"full_attention": {"warp": 9}}}, "rope_parameters.full_attention.warp = 9"),
        (
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "stretched in layers with a window alone",
        ),
        ({"rope.scaling.type": "linear", "rope.scaling.attn_factor": 1.0, "rope.scaling.factor": 2.0}, "attn_factor"),
    ],
)
def test_what_is_not_understood_is_a_fault(config: dict[str, Any], said: str) -> None:
    assert any(said in fault for fault in read(config).faults)
