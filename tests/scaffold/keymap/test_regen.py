"""Bringing key maps up to date: real drifts, replayed in both directions, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from scaffold.keymap.sides import InMemory, as_meta, llama_side, random_tensors, renamed, scrambled, tensors_of
from torch import Tensor

from kinfold.keymap import KeyMap, certify, drop, rename, split, stack
from kinfold.scaffold.keymap.derive import derive
from kinfold.scaffold.keymap.diff import find_drift
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.keymap.regen import Regenerated, regenerate, rule_states
from kinfold.scaffold.prove.reference import read_reference
from kinfold_zoo.llama.loader import reference_key_map

Tiny = Callable[..., Path]
LAYER = "encoder.layer.{}"


def bert() -> dict[str, Tensor]:
    """The tensors of a small BERT, as transformers has called them since version 2."""
    norms = ("attention.output.LayerNorm", "output.LayerNorm")
    matrices = {
        "attention.self.query": (8, 8), "attention.self.key": (8, 8), "attention.self.value": (8, 8),
        "attention.output.dense": (8, 8), "intermediate.dense": (12, 8), "output.dense": (8, 12),
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]]
    shapes = {"embeddings.word_embeddings.weight": (30, 8), "embeddings.position_embeddings.weight": (16, 8)}
    for layer in range(2):
        for name, shape in matrices.items():
            shapes[f"{LAYER.format(layer)}.{name}.weight"] = shape
            shapes[f"{LAYER.format(layer)}.{name}.bias"] = shape[:1]
        for name in norms:
            shapes[f"{LAYER.format(layer)}.{name}.weight"] = shapes[f"{LAYER.format(layer)}.{name}.bias"] = (8,)
    return random_tensors(shapes)


def experts(*, apart: bool) -> dict[str, Tensor]:
    """The tensors of a small mixture of experts: each expert's own, or stacked."""
    found = random_tensors({f"layers.{layer}.mlp.gate.weight": (4, 8) for layer in range(2)})
    for layer in range(2):
        for name, shape in (("gate_proj", (6, 8)), ("up_proj", (6, 8)), ("down_proj", (8, 6))):
            stacked = random_tensors({name: (4, *shape)})[name] + layer + len(name)
            prefix = f"layers.{layer}.mlp.experts"
            if apart:
                found |= {f"{prefix}.{expert}.{name}.weight": stacked[expert].clone() for expert in range(4)}
            else:
                found[f"{prefix}.{name}"] = stacked
    return found


def native_of(tensors: Mapping[str, Tensor], change: Callable[[str], str]) -> tuple[NativeSide, dict[str, Tensor]]:
    """A model whose parameters are these tensors under other names."""
    found = {change(name): tensor for name, tensor in tensors.items()}
    return NativeSide(InMemory(found).manifest), found


def legacy(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def loads(outcome: Regenerated, checkpoint: InMemory, native: Mapping[str, Tensor]) -> bool:
    assert outcome.complete, (outcome.derived.questions, outcome.certificate.faults)
    found = dict(outcome.certificate.plan.load(checkpoint.tensor))
    return found.keys() == native.keys() and all(torch.equal(found[name], native[name]) for name in native)


def settled(outcome: Regenerated) -> KeyMap:
    return KeyMap(*(row.rule for row in outcome.rows))


BERT_DRIFTS: dict[str, Callable[[str], str]] = {
    "the prefix came": lambda name: f"bert.{name}",
    "gamma and beta": legacy,
    "both": lambda name: f"bert.{legacy(name)}",
    "plural names": lambda name: name.replace("encoder.layer.", "encoder.layers.").replace("embeddings.", "embedding."),
}


@pytest.mark.parametrize("drift", BERT_DRIFTS)
@pytest.mark.parametrize("back", [False, True])
def test_names_of_bert(drift: str, back: bool) -> None:
    native, truth = native_of(
        bert(), lambda name: name.replace("encoder.layer.", "blocks.").replace("LayerNorm", "layer_norm")
    )
    sides = [InMemory(bert()), renamed(bert(), BERT_DRIFTS[drift])]
    before, after = reversed(sides) if back else sides
    old = derive(before, native).key_map
    outcome = regenerate(old, after, native)
    assert loads(outcome, after, truth)
    again = regenerate(settled(outcome), after, native)
    assert [row.position for row in again.rows] == list(range(len(again.rows)))
    assert settled(again).rules == settled(outcome).rules
    assert again.drift.sentences == []


@pytest.mark.parametrize("before_apart", [True, False])
@pytest.mark.parametrize("native_apart", [True, False])
def test_experts_come_apart_and_are_stacked(before_apart: bool, native_apart: bool) -> None:
    native, truth = native_of(experts(apart=native_apart), lambda name: f"decoder.{name}")
    before, after = InMemory(experts(apart=before_apart)), InMemory(experts(apart=not before_apart))
    old = derive(before, native).key_map
    outcome = regenerate(old, after, native)
    assert loads(outcome, after, truth)
    kinds = {row.rule.kind for row in outcome.rows}
    assert kinds == (
        {"rename"} if before_apart is not native_apart else {"rename", "unstack" if native_apart else "stack"}
    )
    said = " ".join(outcome.drift.sentences)
    if before_apart:
        assert "4 tensors `layers.{layer}.mlp.experts.{expert}.up_proj.weight` were stacked: one tensor" in said
    else:
        assert (
            "`layers.{layer}.mlp.experts.up_proj` came apart: "
            "4 tensors `layers.{layer}.mlp.experts.{expert}.up_proj.weight` where one stacked tensor was" in said
        )


class TestLlama:
    """Meta's layout, transformers' and GGUF's: names differ, and the order of the rows of queries and keys."""

    @pytest.fixture
    def tensors(self, tiny_checkpoint: Tiny) -> dict[str, Tensor]:
        return tensors_of(tiny_checkpoint("llama"))

    def test_from_transformers_to_meta_and_back(self, tensors: dict[str, Tensor]) -> None:
        native, hf, meta = llama_side(), InMemory(tensors), as_meta(tensors)
        old = derive(hf, native).key_map
        truth = dict(certify(old.bind(native.config), hf.manifest, native.manifest).plan.load(hf.tensor))
        there = regenerate(old, meta, native)
        assert loads(there, meta, truth)
        assert {row.rule.kind for row in there.rows} == {"rename", "permute_rotary"}
        back = regenerate(settled(there), hf, native)
        assert loads(back, hf, truth)
        assert settled(back).rules == old.rules

    def test_the_order_of_rows_is_kept_where_only_names_change(self, tensors: dict[str, Tensor]) -> None:
        native, meta = llama_side(), as_meta(tensors)
        old = derive(meta, native).key_map
        truth = dict(certify(old.bind(native.config), meta.manifest, native.manifest).plan.load(meta.tensor))
        moved = renamed(meta.tensors, lambda name: name.replace("attention.", "attn."))
        assert derive(moved, native).questions  # the names alone do not say it
        assert loads(regenerate(old, moved, native), moved, truth)

    def test_a_reference_outweighs_a_map_that_is_wrong(self, tensors: dict[str, Tensor], tiny_checkpoint: Tiny) -> None:
        native, hf = llama_side(), InMemory(tensors)
        right = derive(hf, native).key_map
        swapped = {"gate_proj": "inner_proj", "inner_proj": "gate_proj"}
        wrong = KeyMap(
            *(
                rename(rule.sources[0].text, rule.targets[0].text.replace(name, swapped[name]))
                if (name := rule.targets[0].text.split(".")[-2]) in swapped
                else rule
                for rule in right
            )
        )
        doubted = regenerate(wrong, hf, native)
        assert settled(doubted).rules == wrong.rules
        assert len(doubted.doubts) == 2
        reference = read_reference(tiny_checkpoint("llama") / "reference.safetensors")
        mended = regenerate(wrong, hf, native, reference=reference)
        assert set(settled(mended)) == set(right)

    def test_meaningless_names_need_a_reference(self, tensors: dict[str, Tensor], tiny_checkpoint: Tiny) -> None:
        native, hf = llama_side(), InMemory(tensors)
        old, after = derive(hf, native).key_map, scrambled(tensors)
        assert not regenerate(old, after, native).complete
        reference = read_reference(tiny_checkpoint("llama") / "reference.safetensors")
        truth = dict(certify(old.bind(native.config), hf.manifest, native.manifest).plan.load(hf.tensor))
        assert loads(regenerate(old, after, native, reference=reference), after, truth)


def test_what_each_rule_is_worth() -> None:
    shapes = {"a": (2,), "b": (3,), "c": (4,), "extra": (5,), "e": (6, 2)}
    source, target = InMemory(random_tensors(shapes)), random_tensors({"x": (2,), "y": (4,), "z": (4,), "p": (3, 2)})
    key_map = KeyMap(
        rename("a", "x"),  # holds
        rename("b", "y"),  # another shape
        rename("nothing", "z"),  # no source
        rename("c", "no.such"),  # no target
        drop("extra", reason="why not"),
        rename("lm_head", "final_proj"),  # neither
        rename("a", "x"),  # again
        split("e", into=("p", "q"), sizes=(3, 3)),  # not all targets
    )
    states = rule_states(key_map.bind(), source.manifest, InMemory(target).manifest)
    assert states == ["holds", "broken", "broken", "broken", "holds", "idle", "broken", "broken"]


def test_rules_for_other_archs_stay_and_dead_ones_go() -> None:
    tensors = random_tensors({"embed.weight": (4, 2), "norm.weight": (2,)})
    native, truth = native_of(tensors, lambda name: f"model.{name}")
    key_map = KeyMap(
        rename("old_embed.weight", "model.embed.weight"),
        rename("norm.weight", "model.norm.weight"),
        rename("head.weight", "model.head.weight"),
        rename("gone.weight", "model.gone.weight"),
        drop("rotary.inv_freq", reason="recomputed"),
    )
    checkpoint = InMemory(tensors)
    outcome = regenerate(key_map, checkpoint, native, elsewhere={"model.head.weight"})
    assert loads(outcome, checkpoint, truth)
    assert [(row.position, row.rule.text) for row in outcome.rows] == [
        (0, 'rename("embed.weight", "model.embed.weight")'),
        (1, 'rename("norm.weight", "model.norm.weight")'),
        (2, 'rename("head.weight", "model.head.weight")'),
        (4, 'drop("rotary.inv_freq", reason="recomputed")'),
    ]


@pytest.mark.parametrize("tied", [False, True])
def test_rules_that_a_switch_turns_off_stay_as_they_are(tied: bool, tiny_checkpoint: Tiny) -> None:
    checkpoint = as_meta(tensors_of(tiny_checkpoint("llama", tie_word_embeddings=tied)))
    if tied:
        checkpoint.tensors["output.weight"] = checkpoint.tensors["tok_embeddings.weight"]
    checkpoint = renamed(checkpoint.tensors, lambda name: name.replace("wq", "w_query"))
    native = llama_side(tied_embeddings=tied)
    outcome = regenerate(reference_key_map, checkpoint, native, elsewhere={"final_proj.weight"})
    assert outcome.certificate.holds, outcome.certificate
    assert outcome.doubts == ()
    changed = [row.rule.text for row, old in zip(outcome.rows, reference_key_map, strict=True) if row.rule != old]
    assert changed == [
        'permute_rotary("layers.{layer}.attention.w_query.weight", '
        '"decoder.layers.{layer}.self_attn.q_proj.weight", heads="num_heads")'
    ]


def test_nothing_is_claimed_to_hold_that_does_not() -> None:
    tensors = random_tensors({"embed.weight": (4, 2)})
    native, _ = native_of(tensors, lambda name: f"model.{name}")
    more = InMemory({**tensors, "surprise.weight": torch.ones(3)})
    outcome = regenerate(KeyMap(rename("embed.weight", "model.embed.weight")), more, native)
    assert not outcome.complete
    assert outcome.drift.sentences == ["`surprise.weight` (3,) is new"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name: f"bert.{name}", "`bert` was added in 34 names, such as `bert.embeddings.word_embeddings.weight`"),
        (
            legacy,
            "`weight` is called `gamma` now, in 4 names, "
            "such as `encoder.layer.{layer}.attention.output.LayerNorm.gamma`",
        ),
        (
            lambda name: name.replace("attention.self.query", "attention.self.queries"),
            "`query` is called `queries` now, in 4 names, "
            "such as `encoder.layer.{layer}.attention.self.queries.weight`",
        ),
    ],
)  # fmt: skip
def test_drift_is_told_in_the_words_of_a_person(change: Callable[[str], str], said: str) -> None:
    native, _ = native_of(bert(), lambda name: name)
    key_map = KeyMap(*(rename(name, name) for name in native.manifest))
    drift = find_drift(key_map.bind(), renamed(bert(), change).manifest, native.manifest)
    assert said in drift.sentences


def test_a_stacked_tensor_that_came_apart_is_told_with_its_number() -> None:
    apart = InMemory(experts(apart=True))
    native, _ = native_of(experts(apart=False), lambda name: name)
    key_map = KeyMap(*(rename(name, name) for name in native.manifest))
    drift = find_drift(key_map.bind(), apart.manifest, native.manifest)
    assert len(drift.sentences) == 3
    assert all("came apart: 4 tensors" in sentence for sentence in drift.sentences)
    assert not find_drift(
        KeyMap(
            rename("layers.{layer}.mlp.gate.weight", "layers.{layer}.mlp.gate.weight"),
            *(
                stack(
                    f"layers.{{layer}}.mlp.experts.{{expert}}.{name}.weight",
                    f"layers.{{layer}}.mlp.experts.{name}",
                    over="expert",
                )
                for name in ("gate_proj", "up_proj", "down_proj")
            ),
        ).bind(),
        apart.manifest,
        native.manifest,
    ).sentences
