"""Every rotary scaling gives the frequencies and the amplitude that transformers computes."""

from __future__ import annotations

from dataclasses import MISSING, fields

import msgspec
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from kinfold import nn as kinfold_nn
from kinfold.errors import ConfigError
from kinfold.nn import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    Rotary,
    YarnScaling,
)
from kinfold.scaffold.spec import scaling

DIM, THETA = 32, 50000.0
SHORT, LONG = tuple(1 + i / 16 for i in range(16)), tuple(1.0 + i for i in range(16))

CASES: dict[str, tuple[RopeScaling, str, dict]] = {
    "linear": (LinearScaling(factor=4.0), "linear", {"factor": 4.0}),
    "dynamic": (DynamicScaling(factor=3.0, original_max_seq_len=64), "dynamic", {"factor": 3.0}),
    "llama3": (
        Llama3Scaling(factor=8.0, original_max_seq_len=64, low_freq_factor=1.0, high_freq_factor=4.0),
        "llama3",
        {
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    "yarn": (
        YarnScaling(factor=4.0, original_max_seq_len=64),
        "yarn",
        {"factor": 4.0, "original_max_position_embeddings": 64},
    ),
    "yarn, amplitude by weights, no rounding": (
        YarnScaling(
            factor=40.0,
            original_max_seq_len=64,
            mscale=0.707,
            mscale_all_dim=1.0,
            beta_fast=16,
            beta_slow=2,
            truncate=False,
        ),
        "yarn",
        {
            "factor": 40.0,
            "original_max_position_embeddings": 64,
            "mscale": 0.707,
            "mscale_all_dim": 1.0,
            "beta_fast": 16,
            "beta_slow": 2,
            "truncate": False,
        },
    ),
    "yarn, one weight of the amplitude is none": (
        YarnScaling(factor=4.0, original_max_seq_len=64, mscale=0.7),
        "yarn",
        {"factor": 4.0, "original_max_position_embeddings": 64, "mscale": 0.7},
    ),
    "yarn, amplitude given": (
        YarnScaling(factor=4.0, original_max_seq_len=64, attention_factor=1.5),
        "yarn",
        {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
    ),
    "yarn, shrinking": (
        YarnScaling(factor=0.5, original_max_seq_len=64),
        "yarn",
        {"factor": 0.5, "original_max_position_embeddings": 64},
    ),
    "yarn, a ramp without length": (
        YarnScaling(factor=4.0, original_max_seq_len=64, beta_slow=11),
        "yarn",
        {
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "beta_slow": 11,
        },
    ),
    "longrope": (
        LongRopeScaling(short_factors=SHORT, long_factors=LONG, original_max_seq_len=64, factor=4.0),
        "longrope",
        {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 64, "factor": 4.0},
    ),
    "longrope, amplitude given": (
        LongRopeScaling(short_factors=SHORT, long_factors=LONG, original_max_seq_len=64, attention_factor=1.5),
        "longrope",
        {
            "short_factor": SHORT,
            "long_factor": LONG,
            "original_max_position_embeddings": 64,
            "factor": 1.0,
            "attention_factor": 1.5,
        },
    ),
}


@pytest.mark.parametrize("seq_len", [10, 64, 65, 200])
@pytest.mark.parametrize("case", CASES)
def test_frequencies_and_amplitude(case: str, seq_len: int) -> None:
    scaling, kind, parameters = CASES[case]
    config = LlamaConfig(
        hidden_size=DIM,
        num_attention_heads=1,
        max_position_embeddings=64,
        rope_parameters={"rope_type": kind, "rope_theta": THETA, **parameters},
    )
    expected, expected_amplitude = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=seq_len)
    frequencies, amplitude = scaling.frequencies(DIM, THETA, seq_len, torch.device("cpu"))
    torch.testing.assert_close(frequencies, expected, rtol=1e-6, atol=0)
    assert amplitude == pytest.approx(expected_amplitude, rel=1e-12)


def test_all_wrong_values_are_refused_at_once() -> None:
    scaling = Llama3Scaling(factor=-1.0, original_max_seq_len=0, low_freq_factor=4.0, high_freq_factor=1.0)
    with pytest.raises(ConfigError) as error:
        Rotary(31, theta=-1.0, scaling=scaling)
    assert len(error.value.faults) == 5


@pytest.mark.parametrize("case", CASES)
def test_only_a_scaling_that_says_so_changes_with_the_length(case: str) -> None:
    scaling, _, _ = CASES[case]
    short, long = (scaling.frequencies(DIM, THETA, length, torch.device("cpu"))[0] for length in (64, 65))
    assert torch.equal(short, long) is not scaling.changes_with_length


def test_the_faults_of_a_scaling_name_it() -> None:
    scaling = LongRopeScaling(short_factors=(0.0, *SHORT[1:]), long_factors=(), original_max_seq_len=-1, factor=0)
    assert scaling.faults(DIM) == [
        "LongRopeScaling.original_max_seq_len = -1: must be above 0",
        "LongRopeScaling.factor = 0: must be above 0",
        "LongRopeScaling.short_factors holds [0.0]: must all be above 0",
        "LongRopeScaling.long_factors has 0 values: must be dim / 2 = 16",
    ]


def test_longrope_needs_a_factor_for_each_frequency() -> None:
    with pytest.raises(ConfigError, match="short_factors has 3 values: must be dim / 2 = 16"):
        Rotary(DIM, scaling=LongRopeScaling(short_factors=(1, 1, 1), long_factors=LONG, original_max_seq_len=64))


@pytest.mark.parametrize("name", [cls.__name__ for cls in RopeScaling.__subclasses__()])
def test_specs_spell_the_fields_alike(name: str) -> None:
    runtime = {field.name: field.default for field in fields(getattr(kinfold_nn, name))}
    spec = {field.name: field.default for field in msgspec.structs.fields(getattr(scaling, name))}
    required = {MISSING: "required", msgspec.NODEFAULT: "required"}
    assert [(name, required.get(value, value)) for name, value in runtime.items()] == [
        (name, required.get(value, value)) for name, value in spec.items()
    ]


def test_a_dynamic_base_needs_more_than_one_pair() -> None:
    with pytest.raises(ConfigError, match="DynamicScaling needs a dim above 2"):
        Rotary(2, scaling=DynamicScaling(factor=2.0, original_max_seq_len=64))
