"""Deriving a key map: by names and shapes, by values, by parity; what none of them settles stays open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from scaffold.keymap.sides import InMemory, as_meta, llama_side, random_tensors, renamed, scrambled, tensors_of
from torch import Tensor

from kinfold.keymap import KeyMap, certify
from kinfold.keymap.ops import Split
from kinfold.scaffold.keymap.derive import Derived, derive
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.prove.reference import Reference, read_reference
from kinfold_zoo.llama.loader import hf_key_map

Tiny = Callable[..., Path]


def loaded(derived: Derived, checkpoint: InMemory) -> dict[str, Tensor]:
    assert derived.complete, (derived.questions, derived.certificate.faults)
    return dict(derived.certificate.plan.load(checkpoint.tensor))


def by_hand(tensors: Mapping[str, Tensor], **sizes: int) -> dict[str, Tensor]:
    """What the published map of the shipped Llama gives: the truth."""
    native = llama_side(**sizes)
    checkpoint = InMemory(tensors)
    certificate = certify(hf_key_map.bind(native.config), checkpoint.manifest, native.manifest)
    assert certificate.holds
    return dict(certificate.plan.load(checkpoint.tensor))


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def llama(tiny_checkpoint: Tiny) -> dict[str, Tensor]:
    return tensors_of(tiny_checkpoint("llama"))


@pytest.fixture
def reference(tiny_checkpoint: Tiny) -> Reference:
    return read_reference(tiny_checkpoint("llama") / "reference.safetensors")


def test_names_and_shapes_are_enough_for_transformers_llama(llama: dict[str, Tensor]) -> None:
    checkpoint = InMemory(llama)
    derived = derive(checkpoint, llama_side())
    assert {item.rule for item in derived.rules} == {rule for rule in hf_key_map if rule.targets}
    assert same(loaded(derived, checkpoint), by_hand(llama))
    assert all(item.evidence and item.confidence > 0.9 for item in derived.rules)


def test_metas_names_say_that_rotary_pairs_are_neighbours(llama: dict[str, Tensor]) -> None:
    checkpoint = as_meta(llama)
    derived = derive(checkpoint, llama_side())
    assert same(loaded(derived, checkpoint), by_hand(llama))
    assert derived.rotary is not None
    assert derived.rotary[0] == "interleaved"


def test_fused_projections_as_phi_3_has_them(tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint("phi3", rms_norm_eps=1e-6, sliding_window=None)
    checkpoint = InMemory(tensors_of(folder))
    side = llama_side()
    derived = derive(checkpoint, side, reference=read_reference(folder / "reference.safetensors"))
    found = loaded(derived, checkpoint)
    qkv = checkpoint.tensor("model.layers.1.self_attn.qkv_proj.weight")
    q, k, v = Split((64, 32, 32)).apply([qkv])
    names = [f"decoder.layers.1.self_attn.{name}_proj.weight" for name in "qkv"]
    assert all(torch.equal(found[name], part) for name, part in zip(names, (q, k, v), strict=True))


def test_one_key_value_head_leaves_no_turns_to_choose_from(tiny_checkpoint: Tiny) -> None:
    folder = tiny_checkpoint("phi3", rms_norm_eps=1e-6, sliding_window=None, num_key_value_heads=1)
    plain, side = InMemory(tensors_of(folder)), llama_side(num_kv_heads=1)
    strange = renamed(
        plain.tensors, lambda name: name.replace("qkv_proj", "fused_qkv").replace("gate_up", "fused_gate_up")
    )
    derived = derive(strange, side, reference=read_reference(folder / "reference.safetensors"))
    assert same(loaded(derived, strange), loaded(derive(plain, side), plain))


def test_a_fused_layout_that_no_code_base_is_known_for_is_open(llama: dict[str, Tensor]) -> None:
    fused = {name: tensor for name, tensor in llama.items() if "_proj" not in name or "self_attn" not in name}
    prefix = "model.layers.{}.self_attn"
    for layer in range(3):
        parts = [llama[f"{prefix}.{name}_proj.weight".format(layer)] for name in "qkv"]
        fused[f"{prefix}.fused_qkv.weight".format(layer)] = torch.cat(parts)
        fused[f"{prefix}.o_proj.weight".format(layer)] = llama[f"{prefix}.o_proj.weight".format(layer)]
    derived = derive(InMemory(fused), llama_side())
    assert not derived.complete
    assert any("fused_qkv" in question.about for question in derived.questions)


class TestMeaninglessNames:
    """Every word replaced by a random one: shapes settle little, values and parity the rest."""

    def test_without_evidence_it_is_open(self, llama: dict[str, Tensor]) -> None:
        derived = derive(scrambled(llama), llama_side())
        assert not derived.complete
        asked = " ".join(question.about for question in derived.questions)
        for name in ("q_proj", "gate_proj", "self_attn_layer_norm", "embed", "rows of queries and keys"):
            assert name in asked
        # What shapes do settle is right: a single matrix is (64, 96), a single vector stands outside the layers.
        assert {str(target) for item in derived.rules for target in item.rule.targets} == {
            "decoder.layers.{layer}.ffn.output_proj.weight",
            "decoder.layer_norm.weight",
        }

    @pytest.mark.parametrize("seed", range(3))
    def test_parity_settles_it(self, llama: dict[str, Tensor], reference: Reference, seed: int) -> None:
        checkpoint = scrambled(llama, seed)
        derived = derive(checkpoint, llama_side(), reference=reference)
        assert same(loaded(derived, checkpoint), by_hand(llama))

    def test_parity_settles_rotary_pairs_too(self, llama: dict[str, Tensor], reference: Reference) -> None:
        checkpoint = scrambled(as_meta(llama).tensors)
        derived = derive(checkpoint, llama_side(), reference=reference)
        assert same(loaded(derived, checkpoint), by_hand(llama))

    def test_parity_settles_fused_tensors_too(self, tiny_checkpoint: Tiny) -> None:
        folder = tiny_checkpoint("phi3", rms_norm_eps=1e-6, sliding_window=None)
        plain, side = InMemory(tensors_of(folder)), llama_side()
        checkpoint = scrambled(plain.tensors)
        derived = derive(checkpoint, side, reference=read_reference(folder / "reference.safetensors"))
        assert same(loaded(derived, checkpoint), loaded(derive(plain, side), plain))

    def test_all_square_projections(self, tiny_checkpoint: Tiny) -> None:
        folder = tiny_checkpoint("llama", num_key_value_heads=4, attention_bias=False)
        tensors = tensors_of(folder)
        checkpoint = scrambled(tensors)
        side = llama_side(num_kv_heads=4)
        derived = derive(checkpoint, side, reference=read_reference(folder / "reference.safetensors"))
        assert same(loaded(derived, checkpoint), by_hand(tensors, num_kv_heads=4))

    def test_a_weight_may_be_called_anything_too(self, llama: dict[str, Tensor], reference: Reference) -> None:
        checkpoint = scrambled(llama, keep=())
        derived = derive(checkpoint, llama_side(), reference=reference)
        assert same(loaded(derived, checkpoint), by_hand(llama))

    def test_every_matrix_of_one_shape(self, tiny_checkpoint: Tiny) -> None:
        folder = tiny_checkpoint("llama", num_key_value_heads=4, intermediate_size=64)
        tensors = tensors_of(folder)
        checkpoint, sizes = scrambled(tensors), {"num_kv_heads": 4, "ffn_inner_dim": 64}
        derived = derive(checkpoint, llama_side(**sizes), reference=read_reference(folder / "reference.safetensors"))
        assert same(loaded(derived, checkpoint), by_hand(tensors, **sizes))

    def test_more_equal_tensors_than_can_be_tried_stay_open(self) -> None:
        names = [f"layers.{layer}.m{chr(97 + number)}.weight" for layer in range(2) for number in range(14)]
        source = random_tensors(dict.fromkeys(names, (4, 4)))
        native = NativeSide(
            InMemory({f"x{name}": tensor for name, tensor in scrambled(source).tensors.items()}).manifest
        )
        derived = derive(scrambled(source, seed=1), native)
        assert not derived.complete
        assert not derived.questions[0].complete

    def test_values_settle_it(self, llama: dict[str, Tensor]) -> None:
        native = by_hand(llama)
        for checkpoint in (scrambled(llama), scrambled(as_meta(llama).tensors)):
            derived = derive(checkpoint, llama_side(), values=native.__getitem__)
            assert same(loaded(derived, checkpoint), native)

    def test_names_that_mislead_are_outweighed_by_values(self, llama: dict[str, Tensor]) -> None:
        swapped = {"gate_proj": "up_proj", "up_proj": "gate_proj", "q_proj": "o_proj", "o_proj": "q_proj"}
        lying = renamed(llama, lambda name: ".".join(swapped.get(part, part) for part in name.split(".")))
        native = by_hand(llama)
        derived = derive(lying, llama_side(), values=native.__getitem__)
        assert same(loaded(derived, lying), native)
        assert all("the values of both sides agree" in item.evidence for item in derived.rules)

    def test_values_of_other_weights_settle_nothing(self, llama: dict[str, Tensor]) -> None:
        native = {name: tensor + 1 for name, tensor in by_hand(llama).items()}
        derived = derive(scrambled(llama), llama_side(), values=native.__getitem__)
        assert not derived.complete

    def test_a_reference_of_other_weights_settles_nothing(self, llama: dict[str, Tensor], reference: Reference) -> None:
        wrong = Reference(reference.token_ids, reference.logits.flip(-1), "wrong")
        derived = derive(scrambled(llama), llama_side(), reference=wrong)
        assert not derived.complete
        assert "none of" in derived.tried
        assert not derive(InMemory(llama), llama_side(), reference=wrong).complete

    def test_names_that_mislead_are_outweighed_by_a_reference(
        self, llama: dict[str, Tensor], reference: Reference
    ) -> None:
        swapped = {"gate_proj": "up_proj", "up_proj": "gate_proj", "q_proj": "o_proj", "o_proj": "q_proj"}
        lying = renamed(llama, lambda name: ".".join(swapped.get(part, part) for part in name.split(".")))
        assert not same(loaded(derive(lying, llama_side()), lying), by_hand(llama))
        assert same(loaded(derive(lying, llama_side(), reference=reference), lying), by_hand(llama))


def test_square_matrices_are_transposed_with_those_whose_shapes_show_it() -> None:
    shapes = {"attn.c_fc": (5, 5), "mlp.c_fc": (5, 20), "mlp.c_proj": (20, 5)}
    source = random_tensors({f"h.{layer}.{name}.weight": s for layer in range(2) for name, s in shapes.items()})
    target = {
        f"layers.{layer}.{name}.weight": tensor
        for layer in range(2)
        for name, tensor in (
            ("attn.c_fc", source[f"h.{layer}.attn.c_fc.weight"].T),
            ("mlp.c_fc", source[f"h.{layer}.mlp.c_fc.weight"].T),
            ("mlp.c_proj", source[f"h.{layer}.mlp.c_proj.weight"].T),
        )
    }
    checkpoint, native = InMemory(source), NativeSide(InMemory(target).manifest)
    assert same(loaded(derive(checkpoint, native), checkpoint), target)


def test_whether_square_matrices_are_transposed_is_open_where_nothing_shows_it() -> None:
    source = random_tensors({f"h.{layer}.mlp.c_fc.weight": (5, 5) for layer in range(2)})
    native = NativeSide(InMemory({name.replace("h.", "layers."): t for name, t in source.items()}).manifest)
    derived = derive(InMemory(source), native)
    assert [question.about for question in derived.questions] == ["whether square matrices are transposed"]


class TestLeftovers:
    """Tensors that become no parameter are explained by name or by value, or the certificate does not hold."""

    def test_recomputed_ones_are_dropped(self, llama: dict[str, Tensor]) -> None:
        more = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(3)}
        derived = derive(InMemory({**llama, **more}), llama_side())
        assert derived.complete
        assert derived.rules[-1].rule.text.startswith('drop("model.layers.{layer}.self_attn.rotary_emb.inv_freq"')

    def test_copies_are_tied_only_if_they_are_copies(self, tiny_checkpoint: Tiny) -> None:
        tensors = tensors_of(tiny_checkpoint("llama", tie_word_embeddings=True))
        embed = tensors["model.embed_tokens.weight"]
        side = llama_side(tied_embeddings=True)
        derived = derive(InMemory({**tensors, "lm_head.weight": embed.clone()}), side)
        assert derived.complete
        assert derived.rules[-1].rule.text == 'tie("lm_head.weight", to="model.embed_tokens.weight")'
        derived = derive(InMemory({**tensors, "lm_head.weight": embed + 1}), side)
        assert not derived.complete
        assert [group.text for group in derived.unexplained] == ["lm_head.weight"]

    def test_padded_vocabularies(self, llama: dict[str, Tensor]) -> None:
        padded = {
            name: torch.cat([tensor, torch.zeros(4, 64)]) if "embed" in name or "lm_head" in name else tensor
            for name, tensor in llama.items()
        }
        checkpoint = InMemory(padded)
        derived = derive(checkpoint, llama_side())
        assert same(loaded(derived, checkpoint), by_hand(llama))
        padded["model.embed_tokens.weight"] = padded["model.embed_tokens.weight"] + 1
        assert not derive(InMemory(padded), llama_side()).complete

    def test_what_nothing_explains_is_named(self, llama: dict[str, Tensor]) -> None:
        derived = derive(InMemory({**llama, "surprise.weight": torch.ones(3)}), llama_side())
        assert not derived.complete
        assert [group.text for group in derived.unexplained] == ["surprise.weight"]


def test_a_derived_map_is_one_that_can_be_written_down(llama: dict[str, Tensor]) -> None:
    import kinfold.keymap

    for checkpoint in (InMemory(llama), as_meta(llama), renamed(llama, lambda name: f"base.{name}")):
        derived = derive(checkpoint, llama_side())
        rules = [eval(item.rule.text, dict(vars(kinfold.keymap))) for item in derived.rules]
        assert KeyMap(*rules).rules == derived.key_map.rules
