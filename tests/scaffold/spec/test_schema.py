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
    ("text", "faults"),
    [
        (
            "residual: {parallel: true, of_norm: true, weights: depth}\nnorm: {order: both}",
            ["norm.order = both: parallel sublayers", "residual.of_norm = true: parallel", "residual.weights = depth"],
        ),
        ("norm: {shared: true}", ["norm.shared = true: only parallel sublayers"]),
        (
            "norm: {order: output, first: false}\nresidual: {of_norm: true}",
            ["norm.first = false: norm.order = output", "residual.of_norm = true: norm.order = output"],
        ),
        ("norm: {shared: true, first: false}\nresidual: {parallel: true}", ["norm.first = false: the norm is that of"]),
        (
            "position: {kind: alibi, reversed: true, scaled_layers: full, start: 2, frequencies: paper}",
            [
                "position.reversed = true: alibi",
                "position.scaled_layers = full: alibi",
                "position.start = 2: only dist",
                "position.frequencies = paper: alibi",
            ],
        ),
        ("position: {kind: learned}\narchs: {a: {rotary_dim: 4}}", ["rotary_dim is no size of such a model"]),
        ("position: {scaled_layers: full}", ["position.scaled_layers = full: no window_pattern"]),
        (
            "position: {scaled_layers: full}\narchs: {a: {window_pattern: [true, false]}}",
            ["scaled_layers = full: without a sliding_window", "window_pattern: no arch has a sliding_window"],
        ),
        ("attention: {gate_bias: true}", ["attention.gate_bias = true: there is no attention.gate"]),
        ("attention: {qk_norm: {bias: true}}", ["attention.qk_norm.bias = true: only a layer norm with weights"]),
        (
            "attention: {qk_norm: {after_position: true}}\nposition: {kind: none}",
            ["attention.qk_norm.after_position = true: without rotary positions"],
        ),
        (
            "attention: {kind: latent, qk_norm: true, sinks: true, qkv_bias: true}\nposition: {kind: learned}\n"
            "archs: {a: {}}",
            [
                "attention.qk_norm = true: attention.kind = latent",
                "attention.sinks = true: attention.kind = latent",
                "attention.qkv_bias: only the projections to latent vectors have a bias",
                "position.kind = learned: latent attention has `rotary`",
            ],
        ),
        ("attention: {kind: latent}\narchs: {a: {}}", ["rotary_dim is missing: latent attention"]),
        (
            "attention: {kind: latent}\narchs: {a: {rotary_dim: 5, head_dim: 4, rope_theta: [0, 1], qkv_clip: 1}}",
            [
                "rotary_dim = 5 is odd: 4 or 6",
                "rotary_dim = 5: must be at most head_dim = 4",
                "rope_theta = 0: latent",
                "qkv_clip = 1.0: attention.kind = latent does not",
            ],
        ),
        (
            "attention: {kind: differential, gate: headwise}\n"
            "archs: {a: {num_heads: 4, num_kv_heads: 1, dropout_p: 0.1}}",
            ["num_kv_heads = 1 is odd", "attention.gate = headwise: attention.kind = differential", "dropout_p = 0.1"],
        ),
        ("archs: {a: {rope_theta: [1, -1]}}", ["rope_theta = (1.0, -1.0): must be a tuple of at least one number"]),
        ("archs: {a: {rope_theta: []}}", ["rope_theta = (): must be a tuple"]),
        (
            "archs: {a: {window_pattern: [], sliding_window: 4}}",
            ["window_pattern = (): must be a tuple of at least one True or False"],
        ),
        (
            "archs: {a: {attention_cap: 0, logit_scale: 0, embedding_dim: -1}}",
            [
                "attention_cap = 0.0: must be a number above 0",
                "logit_scale = 0.0",
                "embedding_dim = -1: must be an int",
            ],
        ),
        ("output: {transform_bias: true}", ["output.transform_bias = true: there is no output.transform"]),
        (
            "model: encoder_decoder\nposition: {kind: sinusoidal}\nnorm: {order: both, first: false}\n"
            "attention: {sinks: true, output_bias: last, gate: headwise}\nresidual: {weights: learned}\n"
            "output: {bias: true}\nffn: {inner_norm: true}\narchs: {a: {}}",
            [
                "norm.order = both",
                "norm.first = false",
                "attention.sinks = true",
                "attention.output_bias = last",
                "attention.gate = headwise",
                "residual.weights = learned",
                "output.bias = true",
                "ffn.inner_norm = true",
            ],
        ),
        (
            "key_maps: {gguf: {}, reference: {}}\nresidual: {weights: learned}",
            [
                "key_maps.gguf: the layout has no name for decoder.layers.{layer}.self_attn_residual.weight",
                "key_maps.reference: the layout has no name",
            ],
        ),
        ("key_maps: {gguf: {}}\nnorm: {weight: offset}", ["key_maps.gguf: such files hold one and the weights"]),
        (
            "key_maps: {hf: {rules: ['rename(a)', 'open(\"x\")', 'rename(\"a\")', 'rename(\"a\", \"b\")']}}",
            ["key_maps.hf.rules[0]", "key_maps.hf.rules[1]: 'open(\"x\")'", "key_maps.hf.rules[2]"],
        ),
    ],
)
def test_parts_that_exclude_each_other_are_said_all_at_once(text: str, faults: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_spec(text, place="spec.yaml")
    assert [fault for fault in faults if fault not in str(error.value)] == []
    assert len(error.value.faults) == len(faults)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "archs: {a: {num_heads: 4, model_dim: 64, tied_embeddings: true}, b: {sliding_window: 5, description: B.}}",
        "archs: {a: {rope_scaling: {kind: yarn, factor: 4, original_max_seq_len: 9, mscale: 0.7}}}",
        "archs: {a: {head_dim: 4, rope_scaling: {kind: longrope, short_factors: [1, 2], long_factors: [1, 2], "
        "original_max_seq_len: 9}}}",
        "attention: {qk_norm: true}\nffn: {kind: plain}\nkey_maps: {gguf: {rotary_pairs: interleaved, drop: {a: b}}}",
        "attention: {qk_norm: {over: width}, qkv_bias: [q], output_bias: last}\nnorm: {final: false, bias: false}",
        "archs: {a: {rope_theta: [1, 0], window_pattern: [true, false], sliding_window: 4}, b: {rope_theta: 5, "
        "query_scaling: {kind: log, beta: 0.1, interval: 9}, attention_cap: 50}}",
        'key_maps: {hf: {rules: [\'rename("a", "b")\']}}',
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
