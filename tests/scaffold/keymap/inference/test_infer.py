"""Which tensors go together by names and shapes, and what stays open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.scaffold.keymap.inference.infer import Inference, infer

LAYERS = 3
D, F, V, E = 8, 12, 30, 4


def manifest(shapes: Mapping[str, tuple[int, ...]]) -> Manifest:
    """The tensors of these patterns, `#` standing for each layer and `@` for each expert."""
    found = {}
    for pattern, shape in shapes.items():
        for layer in range(LAYERS if "#" in pattern else 1):
            for expert in range(E if "@" in pattern else 1):
                name = pattern.replace("#", str(layer)).replace("@", str(expert))
                found[name] = TensorInfo(shape, "float32", "float32")
    return found


def decided(inference: Inference) -> dict[str, str]:
    """For each native group that is decided the foreign ones, with what is done to them."""
    found = {}
    for decision in inference.decisions:
        if decision.sure:
            there, here = (", ".join(group.text for group in side) for side in (decision.sources, decision.targets))
            how = "" if decision.relation.kind == "same" else f" {decision.relation.kind}d"
            found[here] = there + how + (" stacked" if decision.relation.over > 0 else "")
    return found


NATIVE = {
    "decoder_frontend.embed.weight": (V, D), "decoder.layers.#.self_attn.q_proj.weight": (D, D),
    "decoder.layers.#.self_attn.k_proj.weight": (4, D), "decoder.layers.#.self_attn.v_proj.weight": (4, D),
    "decoder.layers.#.self_attn.output_proj.weight": (D, D), "decoder.layers.#.self_attn_layer_norm.weight": (D,),
    "decoder.layers.#.ffn.gate_proj.weight": (F, D), "decoder.layers.#.ffn.inner_proj.weight": (F, D),
    "decoder.layers.#.ffn.output_proj.weight": (D, F), "decoder.layers.#.ffn_layer_norm.weight": (D,),
    "decoder.layer_norm.weight": (D,), "final_proj.weight": (V, D),
}  # fmt: skip

LLAMA: dict[str, dict[str, str]] = {
    "Meta": {
        "embed": "tok_embeddings",
        "self_attn.q_proj": "layers.#.attention.wq", "self_attn.k_proj": "layers.#.attention.wk",
        "self_attn.v_proj": "layers.#.attention.wv", "self_attn.output_proj": "layers.#.attention.wo",
        "self_attn_layer_norm": "layers.#.attention_norm", "ffn.gate_proj": "layers.#.feed_forward.w1",
        "ffn.inner_proj": "layers.#.feed_forward.w3", "ffn.output_proj": "layers.#.feed_forward.w2",
        "ffn_layer_norm": "layers.#.ffn_norm", "decoder.layer_norm": "norm", "final_proj": "output",
    },
    "GGUF": {
        "embed": "token_embd", "self_attn.q_proj": "blk.#.attn_q", "self_attn.k_proj": "blk.#.attn_k",
        "self_attn.v_proj": "blk.#.attn_v", "self_attn.output_proj": "blk.#.attn_output",
        "self_attn_layer_norm": "blk.#.attn_norm", "ffn.gate_proj": "blk.#.ffn_gate", "ffn.inner_proj": "blk.#.ffn_up",
        "ffn.output_proj": "blk.#.ffn_down", "ffn_layer_norm": "blk.#.ffn_norm", "decoder.layer_norm": "output_norm",
        "final_proj": "output",
    },
}  # fmt: skip


def llama(dialect: str) -> dict[str, str]:
    """The foreign pattern of each native one."""
    found = {}
    for native in NATIVE:
        module = native.removesuffix(".weight")
        end = next(end for end in sorted(LLAMA[dialect], key=len, reverse=True) if module.endswith(end))
        found[native] = f"{LLAMA[dialect][end]}.weight"
    return found


@pytest.mark.parametrize("dialect", LLAMA)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_llama_in_any_order(dialect: str, data: st.DataObject) -> None:
    names = llama(dialect)
    source = manifest({names[native]: shape for native, shape in NATIVE.items()})
    shuffled = {name: source[name] for name in data.draw(st.permutations(list(source)))}
    found = decided(infer(shuffled, manifest(NATIVE)))
    assert found == {native.replace("#", "{}"): theirs.replace("#", "{}") for native, theirs in names.items()}


def test_conv1d_weights_are_transposed() -> None:
    source = {"h.#.attn.c_attn.weight": (D, 3 * D), "h.#.mlp.c_fc.weight": (D, F), "h.#.mlp.c_proj.weight": (F, D)}
    target = {"layers.#.attn.qkv.weight": (3 * D, D), "layers.#.mlp.up_proj.weight": (F, D), "layers.#.mlp.down_proj.weight": (D, F)}  # noqa: E501  # fmt: skip
    assert decided(infer(manifest(source), manifest(target))) == {
        "layers.{}.attn.qkv.weight": "h.{}.attn.c_attn.weight transposed",
        "layers.{}.mlp.up_proj.weight": "h.{}.mlp.c_fc.weight transposed",
        "layers.{}.mlp.down_proj.weight": "h.{}.mlp.c_proj.weight transposed",
    }


def test_experts_are_stacked() -> None:
    source = {f"layers.#.mlp.experts.@.{name}.weight": (F, D) for name in ("gate_proj", "up_proj")}
    target = {f"decoder.layers.#.ffn.experts.{name}": (E, F, D) for name in ("gate_proj", "inner_proj")}
    assert decided(infer(manifest(source), manifest(target))) == {
        "decoder.layers.{}.ffn.experts.gate_proj": "layers.{}.mlp.experts.{}.gate_proj.weight stacked",
        "decoder.layers.{}.ffn.experts.inner_proj": "layers.{}.mlp.experts.{}.up_proj.weight stacked",
    }


def test_a_fused_projection_has_its_parts_in_the_order_of_its_name() -> None:
    source = manifest({"layers.#.attn.qkv_proj.weight": (D + 4 + 4, D)})
    target = manifest({f"blocks.#.self_attn.{name}_proj.weight": (4 if name != "q" else D, D) for name in "vkq"})
    (decision,) = infer(source, target).decisions
    assert decision.sure
    assert [group.text.split(".")[3] for group in decision.targets] == ["q_proj", "k_proj", "v_proj"]


def test_an_encoder_and_a_decoder_are_kept_apart() -> None:
    parts = {"q": "query", "k": "key", "v": "value", "out": "output"}
    places = {"encoder.layers": ["self_attn"], "decoder.layers": ["self_attn", "encoder_attn"]}
    called = {"self_attn": "attention.self", "encoder_attn": "cross_attention"}
    source, target, truth = {}, {}, {}
    for layers, modules in places.items():
        for module in modules:
            for part, name in parts.items():
                theirs, ours = (
                    f"{layers}.#.{module}.{part}_proj.weight",
                    f"{layers[:7]}.block.#.{called[module]}.{name}.weight",
                )
                source[theirs] = target[ours] = (D, D)
                truth[ours.replace("#", "{}")] = theirs.replace("#", "{}")
    assert decided(infer(manifest(source), manifest(target))) == truth


def test_meaningless_names_stay_open() -> None:
    source = manifest({"l.#.abc.weight": (D, D), "l.#.xyz.weight": (D, D)})
    target = manifest({"layers.#.attn.q_proj.weight": (D, D), "layers.#.attn.k_proj.weight": (D, D)})
    assert decided(infer(source, target)) == {}


def test_numbers_that_cannot_mean_what_they_seem_to_are_not_believed() -> None:
    """`w1`, `w2`, `w3` of one shape, in a network whose down projection has another one."""
    source = manifest({f"layers.#.feed_forward.w{number}.weight": (F, D) for number in (1, 2, 3)})
    shapes = {"gate_proj": (F, D), "inner_proj": (F, D), "output_proj": (D, F)}
    target = manifest({f"decoder.layers.#.ffn.{name}.weight": shape for name, shape in shapes.items()})
    assert decided(infer(source, target)) == {}


def test_what_has_no_partner_is_left_over() -> None:
    source = manifest({"embed.weight": (V, D), "surprise.weight": (3, 5)})
    inference = infer(source, manifest({"embed.weight": (V, D), "wanted.weight": (7, 9)}))
    assert [group.text for group in inference.unused] == ["surprise.weight"]
    assert [group.text for group in inference.unfilled] == ["wanted.weight"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([(2,), (3,), (2, 3)]), max_size=5))
@settings(deadline=None)
def test_each_tensor_is_said_to_be_one_thing(shapes: dict[str, Any]) -> None:
    names = {name: TensorInfo(shape, "float32", "float32") for name, shape in shapes.items()}
    inference = infer(names, {f"x.{name}": info for name, info in names.items()})
    for side in ("sources", "targets"):
        left = inference.unused if side == "sources" else inference.unfilled
        groups = [group for decision in inference.decisions for group in getattr(decision, side)]
        assert len({*groups, *left}) == len(groups) + len(left) == len(shapes)
