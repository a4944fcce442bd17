"""The plan that is derived from a spec is that of the models of the spec, and loses nothing of them."""

from __future__ import annotations

from typing import Any

import pytest
from structures import LATENT, STRUCTURES, spec_of
from zoo.sharding import shard_family

from kinfold.parallel import ShardPlan
from kinfold.parallel.native import native_plan
from kinfold.scaffold.render.memory import load_family
from kinfold.scaffold.render.sharding import shard_plan
from kinfold.scaffold.spec.schema import Spec, parse_spec

WITHOUT_WEIGHTS: dict[str, dict[str, Any]] = {
    "inner_norms_without_weights": {**STRUCTURES["inner_norms"], "norm": {"weight": "none"}},
    "qk_norm_over_width_without_weights": {"attention": {"qk_norm": {"over": "width", "weight": "none"}}},
    "qk_norm_by_head_without_weights": {"attention": {"qk_norm": {"over": "each_head", "weight": "none"}}},
    "latent_norms_without_weights": {**LATENT, "q_latent_dim": 12, "norm": {"weight": "none"}},
    "tied_everywhere": {"tied_embeddings": True, "position": {"kind": "alibi"}},
    "tied_in_one_arch": {"tied_embeddings": True, "b": {"tied_embeddings": False}},
}
ENCODERS_AND_DECODERS = {
    "sinusoidal": "position: {kind: sinusoidal}",
    "learned": "position: {kind: learned}\nattention: {qkv_bias: [q], output_bias: true}\nffn: {kind: plain}",
    "post_norm": "position: {kind: learned}\nnorm: {kind: layer, order: post}",
}
ARCH = (
    "archs: {{a: {{model_dim: 32, num_encoder_heads: 4, num_decoder_heads: 2, ffn_inner_dim: 48, vocab_size: 61, "
    "tied_embeddings: {tied}}}}}"
)
SPECS: dict[str, Spec] = {
    **{name: spec_of(said) for name, said in {**STRUCTURES, **WITHOUT_WEIGHTS}.items()},
    **{
        f"encoder_decoder_{name}{'_tied' * tied}": parse_spec(
            f"model: encoder_decoder\n{said}\n{ARCH.format(tied=str(tied).lower())}", place="spec"
        )
        for name, said in ENCODERS_AND_DECODERS.items()
        for tied in (False, True)
    },
}

DIFFERENT = (
    "plain", "multi_head", "to_encoder", "qk_norm_over_width", "qk_norm_by_head", "gate_by_elements", "inner_norms",
    "latent_queries", "multi_head_differential", "dynamic_mask", "steep_alibi", "narrow_embedding", "xielu",
    "encoder_decoder_learned_tied",
)  # fmt: skip


@pytest.mark.parametrize("name", SPECS)
def test_the_plan_is_that_of_the_models(name: str) -> None:
    family, plan = load_family(name, SPECS[name]), ShardPlan(shard_plan(SPECS[name]))
    found = {}
    for arch in family.archs.names():
        model = family.create(family.archs.get(arch), device="meta")
        of_model = native_plan(model)
        assert plan.matched(model) == of_model.matched(model)
        found |= of_model.styles
    assert plan.styles == found


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_ranks_have_makes_up_the_whole_or_an_error_says_what_cannot_be_divided(name: str) -> None:
    family = load_family(name, SPECS[name])
    for arch in family.archs.names():
        assert shard_family(family.create, family.archs.get(arch), family.sharder).wrong == []


def test_modules_are_named_in_their_order_and_those_of_one_arch_are_among_them() -> None:
    of_one_arch = {"q_latent_dim": None, "embedding_dim": None}
    spec = spec_of({**STRUCTURES["latent_queries"], "embedding_dim": 16, "b": of_one_arch})
    assert list(shard_plan(spec).items()) == [
        ("decoder_frontend", "scatter"),
        ("decoder_frontend.embed", "vocabulary"),
        ("decoder_frontend.project", "replicate"),
        ("decoder.layers.{layer}.self_attn", "block"),
        ("decoder.layers.{layer}.self_attn.q_proj", "column"),
        ("decoder.layers.{layer}.self_attn.q_down_proj", "shared"),
        ("decoder.layers.{layer}.self_attn.q_latent_norm", "shared"),
        ("decoder.layers.{layer}.self_attn.q_up_proj", "column"),
        ("decoder.layers.{layer}.self_attn.kv_down_proj", "shared"),
        ("decoder.layers.{layer}.self_attn.kv_latent_norm", "shared"),
        ("decoder.layers.{layer}.self_attn.kv_up_proj", "column"),
        ("decoder.layers.{layer}.self_attn.output_proj", "row"),
        ("decoder.layers.{layer}.self_attn_layer_norm", "sequence"),
        ("decoder.layers.{layer}.ffn", "block"),
        ("decoder.layers.{layer}.ffn.gate_proj", "column"),
        ("decoder.layers.{layer}.ffn.inner_proj", "column"),
        ("decoder.layers.{layer}.ffn.output_proj", "row"),
        ("decoder.layers.{layer}.ffn_layer_norm", "sequence"),
        ("decoder.layer_norm", "sequence"),
        ("project_out", "sequence"),
        ("final_proj", "vocabulary"),
    ]
