"""Which tensors go together by names and shapes, and what stays open."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.scaffold.keymap.inference.infer import Inference, infer
from kinfold.scaffold.keymap.inference.relations import Relation

LAYERS = 3
D, F, V, S, E = 8, 12, 30, 9, 4
"""Sizes: of the model, its feed-forward network, its vocabulary; the most positions; how many experts."""

Shapes = Mapping[str, tuple[int, ...]]


def manifest(shapes: Shapes, dtype: str = "float32") -> Manifest:
    """The tensors of these patterns, `#` standing for each layer and `@` for each expert."""
    found = {}
    for pattern, shape in shapes.items():
        for layer in range(LAYERS if "#" in pattern else 1):
            for expert in range(E if "@" in pattern else 1):
                name = pattern.replace("#", str(layer)).replace("@", str(expert))
                found[name] = TensorInfo(shape, dtype, dtype)
    return found


def shuffled(data: st.DataObject, tensors: Manifest) -> Manifest:
    return {name: tensors[name] for name in data.draw(st.permutations(list(tensors)))}


def decided(inference: Inference) -> dict[str, str]:
    """For each native group that is decided the foreign ones, with what is done to them; several in their order."""
    found = {}
    for decision in inference.decisions:
        if decision.sure:
            there, here = (", ".join(group.text for group in side) for side in (decision.sources, decision.targets))
            how = "" if decision.relation.kind == "same" else f" {decision.relation.kind}d"
            found[here] = there + how
    return found


def open_ones(inference: Inference) -> dict[str, set[str]]:
    """For each foreign group that is paired, but not decided, all native ones that it could be."""
    return {
        decision.sources[0].text: {group.text for group in (*decision.targets, *decision.alternatives)}
        for decision in inference.decisions
        if not decision.sure
    }


def left_over(inference: Inference) -> tuple[list[str], list[str]]:
    """What is unused there, and unfilled here."""
    return [group.text for group in inference.unused], [group.text for group in inference.unfilled]


LLAMA_SHAPES = ((V, D), (D,), (D, D), (4, D), (4, D), (D, D), (D,), (F, D), (F, D), (D, F), (D,), (V, D))

LLAMA: dict[str, tuple[str, ...]] = {
    "Meta": (
        "tok_embeddings", "layers.#.attention_norm",
        "layers.#.attention.wq", "layers.#.attention.wk", "layers.#.attention.wv", "layers.#.attention.wo",
        "layers.#.ffn_norm", "layers.#.feed_forward.w1", "layers.#.feed_forward.w3", "layers.#.feed_forward.w2",
        "norm", "output",
    ),
    "transformers": (
        "model.embed_tokens", "model.layers.#.input_layernorm",
        "model.layers.#.self_attn.q_proj", "model.layers.#.self_attn.k_proj", "model.layers.#.self_attn.v_proj",
        "model.layers.#.self_attn.o_proj", "model.layers.#.post_attention_layernorm",
        "model.layers.#.mlp.gate_proj", "model.layers.#.mlp.up_proj", "model.layers.#.mlp.down_proj",
        "model.norm", "lm_head",
    ),
    "GGUF": (
        "token_embd", "blk.#.attn_norm", "blk.#.attn_q", "blk.#.attn_k", "blk.#.attn_v", "blk.#.attn_output",
        "blk.#.ffn_norm", "blk.#.ffn_gate", "blk.#.ffn_up", "blk.#.ffn_down", "output_norm", "output",
    ),
    "Kinfold": (
        "decoder_frontend.embed", "decoder.layers.#.self_attn_layer_norm",
        "decoder.layers.#.self_attn.q_proj", "decoder.layers.#.self_attn.k_proj", "decoder.layers.#.self_attn.v_proj",
        "decoder.layers.#.self_attn.output_proj", "decoder.layers.#.ffn_layer_norm",
        "decoder.layers.#.ffn.gate_proj", "decoder.layers.#.ffn.inner_proj", "decoder.layers.#.ffn.output_proj",
        "decoder.layer_norm", "final_proj",
    ),
}  # fmt: skip
"""What the modules of a Llama are called, in one order."""


@pytest.mark.parametrize(("there", "here"), list(permutations(LLAMA, 2)))
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_each_dialect_of_llama_is_understood_in_each_other_and_in_any_order(
    there: str, here: str, data: st.DataObject
) -> None:
    theirs, ours = ([f"{module}.weight" for module in LLAMA[dialect]] for dialect in (there, here))
    source, target = (manifest(dict(zip(side, LLAMA_SHAPES, strict=True))) for side in (theirs, ours))
    inference = infer(shuffled(data, source), shuffled(data, target))
    truth = {b.replace("#", "{}"): a.replace("#", "{}") for a, b in zip(theirs, ours, strict=True)}
    assert decided(inference) == truth
    assert left_over(inference) == ([], [])


GPT2 = {
    "wte.weight": (V, D), "wpe.weight": (S, D), "ln_f.weight": (D,), "ln_f.bias": (D,),
    "h.#.ln_1.weight": (D,), "h.#.ln_1.bias": (D,), "h.#.ln_2.weight": (D,), "h.#.ln_2.bias": (D,),
    "h.#.attn.bias": (1, 1, S, S), "h.#.attn.c_attn.weight": (D, 3 * D), "h.#.attn.c_attn.bias": (3 * D,),
    "h.#.attn.c_proj.weight": (D, D), "h.#.attn.c_proj.bias": (D,),
    "h.#.mlp.c_fc.weight": (D, F), "h.#.mlp.c_fc.bias": (F,),
    "h.#.mlp.c_proj.weight": (F, D), "h.#.mlp.c_proj.bias": (D,),
}  # fmt: skip
"""GPT-2 as published: Conv1D holds its weights transposed, and what is called `attn.bias` is a mask."""

NATIVE_GPT2 = {
    "embed.weight": (V, D), "pos_encoder.weight": (S, D), "layer_norm.weight": (D,), "layer_norm.bias": (D,),
    "layers.#.self_attn_layer_norm.weight": (D,), "layers.#.self_attn_layer_norm.bias": (D,),
    "layers.#.ffn_layer_norm.weight": (D,), "layers.#.ffn_layer_norm.bias": (D,),
    "layers.#.self_attn.v_proj.weight": (D, D), "layers.#.self_attn.v_proj.bias": (D,),
    "layers.#.self_attn.q_proj.weight": (D, D), "layers.#.self_attn.q_proj.bias": (D,),
    "layers.#.self_attn.k_proj.weight": (D, D), "layers.#.self_attn.k_proj.bias": (D,),
    "layers.#.self_attn.output_proj.weight": (D, D), "layers.#.self_attn.output_proj.bias": (D,),
    "layers.#.ffn.inner_proj.weight": (F, D), "layers.#.ffn.inner_proj.bias": (F,),
    "layers.#.ffn.output_proj.weight": (D, F), "layers.#.ffn.output_proj.bias": (D,),
}  # fmt: skip


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_gpt_2_is_transposed_and_taken_apart_in_any_order(data: st.DataObject) -> None:
    inference = infer(shuffled(data, manifest(GPT2)), shuffled(data, manifest(NATIVE_GPT2)))
    layer = {
        f"{here}.{leaf}": f"{there}.{leaf}"
        for here, there in {
            "self_attn_layer_norm": "ln_1",
            "self_attn.output_proj": "attn.c_proj",  # whether a square one is transposed is settled later
            "ffn_layer_norm": "ln_2",
            "ffn.inner_proj": "mlp.c_fc",
            "ffn.output_proj": "mlp.c_proj",
        }.items()
        for leaf in ("weight", "bias")
    }
    layer["ffn.inner_proj.weight"] += " transposed"
    layer["ffn.output_proj.weight"] += " transposed"
    qkv = {
        leaf: ", ".join(f"layers.{{}}.self_attn.{name}_proj.{leaf}" for name in "qkv") for leaf in ("weight", "bias")
    }
    assert decided(inference) == {
        "embed.weight": "wte.weight",
        "pos_encoder.weight": "wpe.weight",
        "layer_norm.weight": "ln_f.weight",
        "layer_norm.bias": "ln_f.bias",
        **{f"layers.{{}}.{here}": f"h.{{}}.{there}" for here, there in layer.items()},
        qkv["weight"]: "h.{}.attn.c_attn.weight transposed",
        qkv["bias"]: "h.{}.attn.c_attn.bias",
    }
    assert left_over(inference) == (["h.{}.attn.bias"], [])


@pytest.mark.parametrize(
    ("there", "here", "relation"),
    [
        (("h.#.c_fc.weight", (D, F)), ("l.#.up_proj.weight", (F, D)), Relation("transpose")),
        (("cls_token", (1, 1, D)), ("class_embedding", (D,)), Relation("reshape")),
        (("l.#.experts.@.w1.weight", (F, D)), ("l.#.experts.gate_proj", (E, F, D)), Relation("same", over=2)),
        (("l.#.experts.@.w1.weight", (F, D)), ("l.#.experts.gate_proj", (E, D, F)), Relation("transpose", over=2)),
        (("l.#.experts.gate_proj", (E, F, D)), ("l.#.experts.@.w1.weight", (F, D)), Relation("same", over=-2)),
        (("l.#.experts.gate_proj", (E, D, F)), ("l.#.experts.@.w1.weight", (F, D)), Relation("transpose", over=-2)),
        (("l.#.norm.weight", (D,)), ("norms", (LAYERS, D)), Relation("same", over=1)),
    ],
)  # fmt: skip
def test_shapes_say_what_is_done(
    there: tuple[str, tuple[int, ...]], here: tuple[str, tuple[int, ...]], relation: Relation
) -> None:
    (decision,) = infer(manifest(dict([there])), manifest(dict([here]))).decisions
    assert decision.sure
    assert decision.relation == relation


def test_a_square_layer_among_others_is_transposed_with_them() -> None:
    source, target = ({}, {})
    for layer, size in enumerate((F, D, F)):
        source |= manifest({f"h.{layer}.mlp.c_fc.weight": (D, size)})
        target |= manifest({f"layers.{layer}.mlp.up_proj.weight": (size, D)})
    assert decided(infer(source, target)) == {"layers.{}.mlp.up_proj.weight": "h.{}.mlp.c_fc.weight transposed"}


def test_one_that_would_be_transposed_among_many_that_are_not_is_not_decided_by_its_shape_alone() -> None:
    many = {f"m.{name}.weight": (D, 20 + number) for number, name in enumerate("abcdefghijlmnoprstuwxy")}
    source, target = ({**many, "gate_proj.weight": (D, 7)}, {**many, "up_proj.weight": (7, D)})
    assert decided(infer(manifest(source), manifest(target))) == {name: name for name in many}


@pytest.mark.parametrize("shape", [(F, D + 1), (2 * D, F // 2), (D, F, 2), (F * D,)])
def test_other_shapes_do_not_go_together_whatever_the_names_say(shape: tuple[int, ...]) -> None:
    inference = infer(manifest({"up_proj.weight": shape}), manifest({"up_proj.weight": (F, D)}))
    assert left_over(inference) == (["up_proj.weight"], ["up_proj.weight"])


def test_integers_become_no_floats() -> None:
    inference = infer(manifest({"table.weight": (F, D)}, dtype="int64"), manifest({"table.weight": (F, D)}))
    assert inference.decisions == ()


def test_experts_are_told_apart_and_from_their_router_and_the_shared_one() -> None:
    theirs = {
        "layers.#.mlp.experts.@.gate_proj.weight": (F, D), "layers.#.mlp.experts.@.up_proj.weight": (F, D),
        "layers.#.mlp.experts.@.down_proj.weight": (D, F), "layers.#.mlp.gate.weight": (E, D),
        "layers.#.mlp.shared_experts.gate_proj.weight": (F, D), "layers.#.mlp.shared_experts.up_proj.weight": (F, D),
        "layers.#.mlp.shared_experts.down_proj.weight": (D, F),
    }  # fmt: skip
    ours = {
        "decoder.layers.#.ffn.experts.gate_proj": (E, F, D), "decoder.layers.#.ffn.experts.inner_proj": (E, F, D),
        "decoder.layers.#.ffn.experts.output_proj": (E, D, F), "decoder.layers.#.ffn.router.weight": (E, D),
        "decoder.layers.#.ffn.shared_expert.gate_proj.weight": (F, D),
        "decoder.layers.#.ffn.shared_expert.inner_proj.weight": (F, D),
        "decoder.layers.#.ffn.shared_expert.output_proj.weight": (D, F),
    }  # fmt: skip
    truth = {b: a.replace("@", "{}") for a, b in zip(theirs, ours, strict=True)}
    inference = infer(manifest(theirs), manifest(ours))
    assert decided(inference) == {b.replace("#", "{}"): a.replace("#", "{}") for b, a in truth.items()}
    over = {decision.targets[0].text: decision.relation.over for decision in inference.decisions}
    assert {text for text, hole in over.items() if hole == 2} == {text for text in over if ".experts." in text}


def test_a_fused_projection_has_its_parts_in_the_order_of_its_name() -> None:
    source = manifest({"layers.#.attn.qkv_proj.weight": (D + 4 + 4, D)})
    target = manifest({f"blocks.#.self_attn.{name}_proj.weight": (4 if name != "q" else D, D) for name in "vkq"})
    (decision,) = infer(source, target).decisions
    assert decision.sure
    assert [group.text.split(".")[3] for group in decision.targets] == ["q_proj", "k_proj", "v_proj"]


def test_fused_ones_stay_open_if_no_name_says_which_parts_are_whose() -> None:
    source = manifest({f"layers.#.{module}.qkv.weight": (3 * D, D) for module in ("foo", "bar")})
    parts = {f"layers.#.{module}.{name}_proj.weight": (D, D) for module in ("one", "two") for name in "qkv"}
    assert decided(infer(source, manifest(parts))) == {}


def test_a_fused_bias_is_not_made_of_weights() -> None:
    source = manifest({"layers.#.attn.qkv.bias": (3 * D,)})
    target = manifest({f"layers.#.attn.{name}_norm.weight": (D,) for name in "qkv"})
    assert infer(source, target).decisions == ()


def test_an_encoder_and_a_decoder_are_kept_apart() -> None:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
    modules = {
        "encoder.layers.#.self_attn": "enc.block.#.attention.self",
        "decoder.layers.#.self_attn": "dec.block.#.attention.self",
        "decoder.layers.#.encoder_attn": "dec.block.#.cross_attention",
    }
    truth = {f"{b}.{y}.weight": f"{a}.{x}.weight" for a, b in modules.items() for x, y in parts.items()}
    source, target = manifest(dict.fromkeys(truth.values(), (D, D))), manifest(dict.fromkeys(truth, (D, D)))
    assert decided(infer(source, target)) == {b.replace("#", "{}"): a.replace("#", "{}") for b, a in truth.items()}


@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_meaningless_names_stay_open_and_could_be_each_other(data: st.DataObject) -> None:
    source = manifest({"l.#.abc.weight": (D, D), "l.#.xyz.weight": (D, D)})
    target = manifest({"layers.#.uvw.weight": (D, D), "layers.#.rst.weight": (D, D)})
    inference = infer(shuffled(data, source), shuffled(data, target))
    both = {"layers.{}.uvw.weight", "layers.{}.rst.weight"}
    assert open_ones(inference) == {"l.{}.abc.weight": both, "l.{}.xyz.weight": both}
    assert decided(inference) == {}


def test_meaningless_names_are_not_even_tried_where_those_here_mean_something() -> None:
    source = manifest({"l.#.abc.weight": (D, D), "l.#.xyz.weight": (D, D)})
    target = manifest({"layers.#.attn.q_proj.weight": (D, D), "layers.#.attn.k_proj.weight": (D, D)})
    assert infer(source, target).decisions == ()


def test_one_of_a_shape_needs_no_name() -> None:
    source = manifest({"l.#.abc.weight": (D, F), "l.#.xyz.weight": (V, D)})
    target = manifest({"layers.#.attn.q_proj.weight": (V, D), "layers.#.attn.k_proj.weight": (D, F)})
    assert decided(infer(source, target)) == {
        "layers.{}.attn.q_proj.weight": "l.{}.xyz.weight",
        "layers.{}.attn.k_proj.weight": "l.{}.abc.weight",
    }


FFN = ("gate_proj", "inner_proj", "output_proj")


@pytest.mark.parametrize("shape", [(D, D), (F, D)])
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_three_numbered_matrices_of_one_shape_stay_open(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Some write w2(silu(w1(x)) * w3(x)), others w3(silu(w1(x)) * w2(x))."""
    source = manifest({f"layers.#.feed_forward.w{number}.weight": shape for number in (1, 2, 3)})
    target = manifest({f"decoder.layers.#.ffn.{name}.weight": shape for name in FFN})
    any_of_them = {f"decoder.layers.{{}}.ffn.{name}.weight" for name in FFN}
    inference = infer(shuffled(data, source), shuffled(data, target))
    assert decided(inference) == {}
    assert open_ones(inference) == {f"layers.{{}}.feed_forward.w{number}.weight": any_of_them for number in (1, 2, 3)}


def test_of_three_numbered_matrices_only_what_shapes_say_is_believed_if_they_contradict_metas_names() -> None:
    shapes = dict(zip(FFN, ((F, D), (F, D), (D, F)), strict=True))
    target = manifest({f"decoder.layers.#.ffn.{name}.weight": shape for name, shape in shapes.items()})
    w3_is_down = {f"layers.#.feed_forward.w{n}.weight": (D, F) if n == 3 else (F, D) for n in (1, 2, 3)}
    assert decided(infer(manifest(w3_is_down), target)) == {
        "decoder.layers.{}.ffn.output_proj.weight": "layers.{}.feed_forward.w3.weight"
    }
    none_is_down = {f"layers.#.feed_forward.w{number}.weight": (F, D) for number in (1, 2, 3)}
    assert decided(infer(manifest(none_is_down), target)) == {}


def test_a_number_is_not_believed_if_the_next_one_fits_nothing_of_what_it_says() -> None:
    source = manifest({f"layers.#.mlp.fc{number}.weight": (F, D) for number in (1, 2)})
    shapes = dict(zip(FFN, ((F, D), (F, D), (D, 5)), strict=True))
    inference = infer(
        source, manifest({f"decoder.layers.#.ffn.{name}.weight": shape for name, shape in shapes.items()})
    )
    assert decided(inference) == {}
    assert left_over(inference) == ([], ["decoder.layers.{}.ffn.output_proj.weight"])


def test_biases_tell_which_module_is_which() -> None:
    source = manifest({"abc.weight": (D, D), "abc.bias": (D,), "xyz.weight": (D, D), "xyz.bias": (F,)})
    target = manifest({"uvw.weight": (D, D), "uvw.bias": (F,), "rst.weight": (D, D), "rst.bias": (D,)})
    modules = {"uvw": "xyz", "rst": "abc"}
    assert decided(infer(source, target)) == {
        f"{b}.{leaf}": f"{a}.{leaf}" for b, a in modules.items() for leaf in ("weight", "bias")
    }


def test_three_numbered_matrices_that_are_called_the_same_here_go_together() -> None:
    source = manifest({f"layers.#.feed_forward.w{number}.weight": (D, D) for number in (1, 2, 3)})
    target = manifest({f"blocks.#.ffn.w{number}.weight": (D, D) for number in (1, 2, 3)})
    assert decided(infer(source, target)) == {
        f"blocks.{{}}.ffn.w{number}.weight": f"layers.{{}}.feed_forward.w{number}.weight" for number in (1, 2, 3)
    }


def test_what_has_no_partner_is_left_over() -> None:
    source = manifest({"embed.weight": (V, D), "surprise.weight": (3, 5)})
    inference = infer(source, manifest({"embed.weight": (V, D), "wanted.weight": (7, 9)}))
    assert left_over(inference) == (["surprise.weight"], ["wanted.weight"])


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([(2,), (3,), (2, 3)]), max_size=5))
@settings(deadline=None)
def test_each_tensor_is_said_to_be_one_thing(shapes: dict[str, tuple[int, ...]]) -> None:
    inference = infer(manifest(shapes), manifest({f"x.{name}": shape for name, shape in shapes.items()}))
    for side, left in (("sources", inference.unused), ("targets", inference.unfilled)):
        groups = [group for decision in inference.decisions for group in getattr(decision, side)]
        assert len({*groups, *left}) == len(groups) + len(left) == len(shapes)


def test_a_shape_of_its_own_does_not_outweigh_names_that_contradict_each_other() -> None:
    """A key projection there is no value projection here, though only that has its shape, and transposed."""
    source = manifest({"layers.#.self_attn.q_proj.weight": (D, D), "layers.#.self_attn.k_proj.weight": (8, 7)})
    target = manifest({"blocks.#.attn.q_proj.weight": (D, D), "blocks.#.attn.v_proj.weight": (7, 8)})
    assert "blocks.{}.attn.v_proj.weight" not in decided(infer(source, target))
