"""What is said of two architectures that differ in one thing."""

from __future__ import annotations

import pytest

from kinfold.scaffold.spec.compare import Side, differences
from kinfold.scaffold.spec.schema import parse_spec

SAID = {
    "attention: {qk_norm: {over: width, kind: layer, bias: true}}": [
        "+ q/k norms over all heads together (layer norms, with a bias)"
    ],
    "attention: {qkv_bias: [v, q]}": ["+ attention.qkv_bias q, v"],
    "attention: {qkv_bias: [k, v, q], output_bias: last}": ["+ biases of q, k and v", "+ attention.output_bias last"],
    "attention: {gate: headwise, gate_bias: true}": ["+ attention.gate headwise", "+ a bias of the gate for each head"],
    "norm: {order: both, weight: offset}": ["~ norm.order pre -> both", "~ norm.weight plain -> offset"],
    "norm: {order: post}": ["~ norm.order pre -> post", "- a norm after the last layer"],
    "norm: {kind: layer, bias: false, first: false}": [
        "~ norm.kind rms -> layer",
        "- a norm before the first attention",
    ],
    "norm: {bias: false}": [],  # which an RMS norm does not have anyway
    "residual: {parallel: true, weights: none}": ["+ attention and feed-forward in parallel"],
    "position: {kind: alibi}": ["~ position.kind rotary -> alibi", "- rope_theta 500000"],
    "archs: {a: {window_pattern: [true, true, false], sliding_window: 9}}": [
        "+ sliding_window 9",
        "+ window_pattern true x 2, false",
    ],
    "archs: {a: {rope_theta: [1000, 1000, 0]}}": ["~ rope_theta 500000 -> 1000 x 2, 0"],
    "archs: {a: {query_scaling: {kind: log, beta: 0.5, interval: 7}}}": ["+ query_scaling log, beta 0.5, interval 7"],
    "archs: {a: {rotary_dim: 4, logit_cap: 30}}": ["+ rotary_dim 4", "+ logit_cap 30"],
}


@pytest.mark.parametrize("text", SAID)
def test_each_difference_is_a_line(text: str) -> None:
    plain, other = (parse_spec(said, place="spec") for said in ("archs: {a: {}}", _with_arch(text)))
    found = differences(*(Side(name, spec, spec.sizes()["a"]) for name, spec in (("x", plain), ("y", other))))
    assert [str(difference) for difference in found] == SAID[text]
    back = differences(*(Side(name, spec, spec.sizes()["a"]) for name, spec in (("y", other), ("x", plain))))
    assert {difference.what for difference in back} == {difference.what for difference in found}


def _with_arch(text: str) -> str:
    return text if "archs" in text else f"{text}\narchs: {{a: {{}}}}"
