"""What sizes are called is found by asking the factory."""

from __future__ import annotations

import pytest
from scaffold.keymap.sides import llama_side

LAYER = "decoder.layers.0"


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("decoder_frontend.embed.weight", ["vocab_size", "model_dim"]),
        (f"{LAYER}.self_attn.q_proj.weight", ["num_heads * head_dim", "model_dim"]),
        (f"{LAYER}.self_attn.k_proj.weight", ["num_kv_heads * head_dim", "model_dim"]),
        (f"{LAYER}.self_attn.output_proj.weight", ["model_dim", "num_heads * head_dim"]),
        (f"{LAYER}.ffn.output_proj.weight", ["model_dim", "ffn_inner_dim"]),
    ],
)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_sizes_are_products_of_fields(name: str, called: list[str], kv_heads: int) -> None:
    side = llama_side(num_kv_heads=kv_heads)
    assert [side.size(name, dim) for dim in range(2)] == called


def test_fields_with_the_same_number_are_told_apart() -> None:
    side = llama_side(model_dim=64, ffn_inner_dim=64, vocab_size=64, num_heads=8, head_dim=8, num_kv_heads=8)
    assert side.size(f"{LAYER}.ffn.gate_proj.weight", 0) == "ffn_inner_dim"
    assert side.size(f"{LAYER}.self_attn.v_proj.weight", 0) == "num_kv_heads * head_dim"
    assert (side.heads(f"{LAYER}.self_attn.q_proj.weight"), side.heads(f"{LAYER}.self_attn.k_proj.weight")) == (
        "num_heads",
        "num_kv_heads",
    )


def test_what_turns_is_queries_and_keys() -> None:
    side = llama_side()
    turning = {name.removeprefix(f"{LAYER}."): side.turning[name].heads for name in side.turning if LAYER in name}
    assert turning == {"self_attn.q_proj.weight": 4, "self_attn.k_proj.weight": 2}
