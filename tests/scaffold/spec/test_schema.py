"""Specs: what is left out follows, what is wrong is said at once, what is written is read back the same."""

from __future__ import annotations

from typing import Any

import pytest

from kinfold.errors import ConfigError
from kinfold.scaffold.spec.schema import Spec, dump_spec, json_schema, parse_spec


def sizes(text: str) -> dict[str, dict[str, Any]]:
    """The sizes of every arch of a spec that matter for the tests."""
    names = ("model_dim", "num_heads", "num_kv_heads", "head_dim", "num_layers", "rope_scaling")
    spec = parse_spec(text, place="spec.yaml")
    return {arch: {name: getattr(found, name) for name in names} for arch, found in spec.sizes().items()}


def test_heads_share_the_width_and_have_their_own_keys() -> None:
    found = sizes("archs: {a: {model_dim: 96, num_heads: 6}}")["a"]
    assert (found["head_dim"], found["num_kv_heads"]) == (16, 6)


def test_other_archs_are_as_the_first() -> None:
    found = sizes("archs: {a: {model_dim: 96, num_heads: 6, num_layers: 3, num_kv_heads: 2}, b: {num_layers: 5}}")
    assert found["b"] == {**found["a"], "num_layers": 5}


def test_what_an_arch_implies_is_worked_out_for_each() -> None:
    found = sizes("archs: {a: {model_dim: 96, num_heads: 6}, b: {model_dim: 128, num_heads: 4}}")
    assert (found["b"]["head_dim"], found["b"]["num_kv_heads"]) == (32, 4)
    found = sizes("archs: {a: {model_dim: 96, num_heads: 6, head_dim: 10}, b: {model_dim: 128, num_heads: 4}}")
    assert found["b"]["head_dim"] == 10


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        (
            "archs: {a: {num_heads: 6, num_kv_heads: 4, head_dim: 8}}",
            ["num_kv_heads = 4 does not divide"],
        ),
        ("archs: {a: {head_dim: 7}}", ["head_dim = 7 is odd: 6 or 8 would do"]),
        ("archs: {a: {sliding_window: 0, norm_eps: 0}}", ["norm_eps = 0", "sliding_window = 0"]),
        ("archs: {}", ["Expected `object` of length >= 1"]),
        ("archs: {a: {num_heds: 3}}\natention: {}", ["did you mean `num_heads`", "did you mean `attention`"]),
        ("archs: {a: {rope_scaling: {kind: spiral, factor: 2}}}", ["Invalid value 'spiral'"]),
        ("archs: {a: {rope_scaling: {kind: linear, factr: 2}}}", ["factr"]),
        ("archs: {a: {num_layers: 2.5}}", ["Expected `int`, got `float`"]),
        ("key_maps: {onnx: {}}", ["Invalid enum value 'onnx'"]),
    ],
)
def test_faults_say_what_would_be_right(text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_spec(text, place="spec.yaml")
    for fault in faults:
        assert fault in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "archs: {a: {num_heads: 4, model_dim: 64, tied_embeddings: true}, b: {sliding_window: 5, description: B.}}",
        "archs: {a: {rope_scaling: {kind: yarn, factor: 4, original_max_seq_len: 9, mscale: 0.7}}}",
        "archs: {a: {head_dim: 4, rope_scaling: {kind: longrope, short_factors: [1, 2], long_factors: [1, 2], "
        "original_max_seq_len: 9}}}",
        "attention: {qk_norm: true}\nffn: {kind: plain}\nkey_maps: {gguf: {rotary_pairs: interleaved, drop: {a: b}}}",
    ],
)
def test_what_is_kept_is_read_back_the_same(text: str) -> None:
    spec = parse_spec(text, place="spec.yaml")
    again = parse_spec(dump_spec(spec), place="again")
    assert again.sizes() == spec.sizes()
    assert dump_spec(again) == dump_spec(spec)
    assert (again.attention, again.ffn, again.key_maps) == (spec.attention, spec.ffn, spec.key_maps)


def test_the_schema_describes_every_field() -> None:
    schema = json_schema()
    definitions = schema["$defs"]
    assert definitions["Spec"]["additionalProperties"] is False
    assert set(definitions["Spec"]["properties"]) == set(Spec.__struct_fields__)
    assert all("description" in field for field in definitions["Arch"]["properties"].values())
