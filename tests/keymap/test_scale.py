"""Key maps at the size of DeepSeek-V3: ninety thousand tensors in FP8, experts stacked."""

from __future__ import annotations

import re

import pytest
from deepseek import EXPERTS, LAYERS, checkpoint, key_map, regular_expressions

from kinfold.checkpoint import TensorInfo
from kinfold.keymap import certify

SCALE = ".weight_scale_inv"


@pytest.fixture(scope="module")
def source() -> dict[str, TensorInfo]:
    return checkpoint()


def test_the_checkpoint_is_that_of_transformers_but_for_the_scales() -> None:
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
    from truth.conversion_mapping import saved_tensors

    with torch.device("meta"):
        model = DeepseekV3ForCausalLM(DeepseekV3Config(num_hidden_layers=5, n_routed_experts=16))
    expected = {name: tuple(tensor.shape) for name, tensor in saved_tensors(model).items()}
    ours = checkpoint(layers=5, experts=16)
    assert {name: info.shape for name, info in ours.items() if not name.endswith(SCALE)} == expected
    assert {name.removesuffix(SCALE) for name in ours if name.endswith(SCALE)} == {
        name.removesuffix(".weight") for name, info in ours.items() if "float8" in info.dtype
    }


def test_it_has_as_many_tensors_as_the_published_one(source: dict[str, TensorInfo]) -> None:
    assert len(source) == 90_427
    # llama.cpp counts 1,025 tensors in its own file of the model, where experts are stacked and nothing has a scale.
    assert len({re.sub(r"experts\.[0-9]+", "experts", name) for name in source if not name.endswith(SCALE)}) == 1025


def test_each_name_becomes_what_a_loop_over_regular_expressions_makes_of_it(source: dict[str, TensorInfo]) -> None:
    table = regular_expressions()
    found = key_map().bind().lookup(source)
    assert found.keys() == source.keys()
    assert len(table) == 22
    for name in list(source)[::37]:
        changed = (re.sub(pattern, replacement, name) for pattern, replacement in table.items())
        assert found[name] == next(new for new in changed if new != name)


def test_the_certificate_holds_and_stacks_every_expert(source: dict[str, TensorInfo]) -> None:
    bound = key_map().bind()
    target = bound.target_manifest(source)
    certificate = certify(bound, source, target)
    assert certificate.faults == ()
    assert str(certificate) == f"90427 tensors used once; {len(target)} parameters filled once"
    step = certificate.plan.step_of_target["decoder.layers.60.ffn.experts.output_proj_scale_inv"]
    assert step.sources == tuple(
        f"model.layers.{LAYERS - 1}.mlp.experts.{expert}.down_proj.weight_scale_inv" for expert in range(EXPERTS)
    )
    assert bound.source_manifest(target) == source


def test_one_missing_expert_of_ninety_thousand_tensors_is_found(source: dict[str, TensorInfo]) -> None:
    bound = key_map().bind()
    target = bound.target_manifest(source)
    lost = "model.layers.41.mlp.experts.128.up_proj.weight"
    faults = certify(bound, {name: info for name, info in source.items() if name != lost}, target).faults
    assert any(f"{lost} is missing beside" in fault for fault in faults)
    assert any("decoder.layers.41.ffn.experts.inner_proj" in fault for fault in faults)
