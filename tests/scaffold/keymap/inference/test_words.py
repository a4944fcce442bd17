"""What names say, by the table that comes along and by one of one's own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.documents import decode_document
from kinfold.errors import KeyMapError
from kinfold.scaffold.keymap.inference.infer import infer
from kinfold.scaffold.keymap.inference.words import (
    Table,
    Vocabulary,
    extended_vocabulary,
    standard_vocabulary,
    words_of,
)

NOTHING: dict[str, Any] = {
    "where": {}, "what": {}, "within": {}, "implies": {}, "norm_order": [], "empty": [], "weights": ["weight"],
    "biases": ["bias"], "fused": {}, "exclusive": [], "towers": [], "not_of_norms": [], "telling": [], "recomputed": {},
}  # fmt: skip
"""A table that knows no word but weight and bias."""


def only(**fields: Any) -> Vocabulary:
    """The vocabulary of these fields alone."""
    return Vocabulary(Table(**{**NOTHING, **fields}))


def features(name: str, **fields: Any) -> set[str]:
    """What a name says by a table of these fields alone."""
    return {*only(**fields).meaning(name).features}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("encoder.layer.{}.LayerNorm.weight", ("encoder", "layer", "layer", "norm", "weight")),
        ("blk.{}.attn_q.bias", ("blk", "attn", "q", "bias")),
        ("transformer/h0/mlpFc1", ("transformer", "h", "0", "mlp", "fc", "1")),
        ("HTTPHead", ("http", "head")),
        ("pvt_v2.norm1", ("pvt", "v2", "norm", "1")),
        ("dense_4h_to_h", ("dense", "4", "h", "to", "h")),
    ],
)
def test_names_are_cut_into_words(name: str, words: tuple[str, ...]) -> None:
    assert words_of(name) == words


def test_words_in_no_list_count_as_themselves_unless_they_are_empty_or_numbers() -> None:
    assert features("blk.3.gizmo.weight", empty=["blk"]) == {"'gizmo'"}


def test_of_phrases_that_overlap_the_longest_counts() -> None:
    what = {"k": ["key"], "norm": ["key norm"], "scores": ["norm of keys"]}
    assert features("key.weight", what=what) == {"k"}
    assert features("key_norm.weight", what=what) == {"norm"}
    assert features("key_norm_of_keys.weight", what=what) == {"k", "scores"}


def test_where_and_what_are_read_apart() -> None:
    assert features("self_attn_out.weight", where={"attn": ["self attn"]}, what={"o": ["attn out"]}) == {"attn", "o"}


def test_a_phrase_may_stand_for_several_concepts_and_a_concept_bring_others() -> None:
    where = {"attn": ["xattn"], "cross": ["xattn"]}
    assert features("xattn.weight", where=where, implies={"cross": ["decoder"]}) == {"attn", "cross", "decoder"}


def test_a_phrase_may_be_held_to_an_end_of_the_name() -> None:
    what = {"first": ["^ in"], "last": ["out $"], "all": ["^ output $"]}
    assert features("in.out.weight", what=what) == {"first", "last"}
    assert features("out.in.weight", what=what) == {"'in'", "'out'"}
    assert features("output.weight", what=what) == {"all"}
    assert features("output.proj.weight", what=what) == {"'output'", "'proj'"}


def test_what_means_something_only_in_its_place_has_to_follow_it_to_the_end() -> None:
    fields = {"where": {"attn": ["attn"]}, "within": {"attn": {"o": ["proj"]}}}
    assert features("attn.proj.weight", **fields) == features("attn.0.proj.weight", **fields) == {"attn", "o"}
    assert features("proj.weight", **fields) == {"'proj'"}
    assert features("attn.big.proj.weight", **fields) == {"attn", "'big'", "'proj'"}
    assert features("attn.proj.big.weight", **fields) == {"attn", "'big'", "'proj'"}


@pytest.mark.parametrize(
    ("a", "b", "excluded"),
    [
        ({"q"}, {"k"}, True),
        ({"q"}, {"q"}, False),
        ({"q"}, set(), False),
        ({"q"}, {"up"}, False),
        ({"q", "k"}, {"k"}, False),  # a name may speak of both
        ({"q", "up"}, {"q", "down"}, True),
    ],
)
def test_names_exclude_each_other_that_say_two_things_of_one_list_and_none_in_common(
    a: set[str], b: set[str], excluded: bool
) -> None:
    assert only(exclusive=[["q", "k"], ["up", "down"]]).conflict(frozenset(a), frozenset(b)) is excluded


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model.layers.{}.self_attn.q_proj.weight", {"attn", "q"}),
        ("layers.{}.attention.wq.weight", {"attn", "q"}),
        ("transformer.h.{}.attn.c_attn.weight", {"attn", "qkv"}),
        ("model.layers.{}.mlp.gate_proj.weight", {"ffn", "gate"}),
        ("layers.{}.feed_forward.w2.weight", {"ffn", "down"}),
        ("model.decoder.layers.{}.encoder_attn.v_proj.weight", {"decoder", "cross", "v"}),
        ("model.embed_tokens.weight", {"embed", "token"}),
        ("lm_head.weight", {"head"}),
    ],
)
def test_concepts_of_known_dialects(name: str, said: set[str]) -> None:
    assert said <= standard_vocabulary().meaning(name).features


@pytest.mark.parametrize(
    ("leaf", "kind"),
    [("weight", "weight"), ("gamma", "weight"), ("g", "weight"), ("in_proj_weight", "weight"),
     ("bias", "bias"), ("beta", "bias"), ("in_proj_bias", "bias"), ("scale_inv", "")],
)  # fmt: skip
def test_weights_and_biases_are_told_apart(leaf: str, kind: str) -> None:
    assert standard_vocabulary().meaning(f"norm.{leaf}").leaf == kind


@pytest.mark.parametrize(
    "names",
    [
        ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ("ln_1", "ln_2"),
        ("attention_norm", "ffn_norm"),
        ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
        ("attention.output.LayerNorm", "output.LayerNorm"),
    ],
)
def test_norms_of_a_layer_are_in_order(names: tuple[str, ...]) -> None:
    found = [standard_vocabulary().meaning(f"model.layers.{{}}.{name}.weight").order for name in names]
    orders = [order for order in found if order is not None]
    assert len(orders) == len(names)
    assert orders == sorted(set(orders))


def test_a_norms_place_is_said_by_whole_segments() -> None:
    meaning = only(norm_order=[["attn norm"], ["cross attn norm"]]).meaning
    assert meaning("layers.{}.attn_norm.weight").order == 0
    assert meaning("layers.{}.cross_attn_norm.weight").order == 1
    assert meaning("layers.{}.odd_attn_norm.weight").order is None


def test_what_follows_from_the_config_has_a_reason() -> None:
    why = standard_vocabulary().why_recomputed
    assert why("model.layers.{}.self_attn.rotary_emb.inv_freq") == "recomputed from the base of the rotary frequencies"
    assert why("embeddings.position_ids") == "counts up"
    assert why("model.layers.{}.self_attn.q_proj.weight") is None
    assert why("conversion.weight") is None  # `version` is a word, not a part of one


def dialect(pattern: str, *names: str) -> Manifest:
    """Square matrices of these names in each of two layers."""
    info = TensorInfo((4, 4), "float32", "float32")
    return {pattern.format(layer=layer, name=name): info for layer in range(2) for name in names}


def test_a_table_of_ones_own_decides_what_was_open() -> None:
    source = dialect("l.{layer}.{name}.weight", "frage", "schluessel")
    target = dialect("layers.{layer}.{name}_proj.weight", "q", "k")
    assert not any(decision.sure for decision in infer(source, target).decisions)
    table = standard_vocabulary().table
    what = {**table.what, "q": [*table.what["q"], "frage"], "k": [*table.what["k"], "schluessel"]}
    taught = Vocabulary(msgspec.structs.replace(table, what=what))
    found = {d.sources[0].text: d.targets[0].text for d in infer(source, target, vocabulary=taught).decisions if d.sure}
    assert found == {
        "l.{}.frage.weight": "layers.{}.q_proj.weight",
        "l.{}.schluessel.weight": "layers.{}.k_proj.weight",
    }


def test_a_file_adds_to_the_table(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.yaml"
    file.write_text("what: {q: [frage]}\nwithin: {attn: {o: [ergebnis]}}\nrecomputed: {maske: a constant mask}\n")
    vocabulary = extended_vocabulary(file)
    assert {"q", "attn"} <= vocabulary.meaning("l.{}.frage.weight").features
    assert {"q", "attn"} <= vocabulary.meaning("l.{}.wq.weight").features
    assert "o" in vocabulary.meaning("l.{}.attn.ergebnis.weight").features
    assert vocabulary.why_recomputed("l.{}.maske") == "a constant mask"
    assert "q" not in standard_vocabulary().meaning("l.{}.frage.weight").features


def test_unknown_keys_are_refused(tmp_path: Path) -> None:
    table = {**msgspec.to_builtins(standard_vocabulary().table), "colours": {}}
    with pytest.raises(KeyMapError, match="colours"):
        decode_document(msgspec.json.encode(table).decode(), Table, KeyMapError, place="mine.yaml")
    file = tmp_path / "vocabulary.yaml"
    file.write_text("wat: {q: [frage]}\n")
    with pytest.raises(KeyMapError, match="wat"):
        extended_vocabulary(file)


def test_every_concept_that_there_is_not_is_named(tmp_path: Path) -> None:
    file = tmp_path / "vocabulary.yaml"
    file.write_text("what: {queery: [frage]}\nwithin: {nowhere: {o: [x]}, attn: {uot: [y]}}\n")
    with pytest.raises(KeyMapError) as error:
        extended_vocabulary(file)
    assert [fault.split("'")[1] for fault in error.value.faults] == ["queery", "uot", "nowhere"]


def test_no_phrase_stands_twice_in_one_list() -> None:
    table = standard_vocabulary().table
    by_name = [table.where, table.what, *table.within.values(), table.implies, table.fused]
    named = [phrases for lists in by_name for phrases in lists.values()]
    norms = [phrase for phrases in table.norm_order for phrase in phrases]  # a norm has one place
    plain = [norms, *table.exclusive, table.empty, table.weights, table.biases, table.towers]
    lists = [*named, *plain, table.not_of_norms, table.telling]
    assert [phrase for phrases in lists for phrase, times in Counter(phrases).items() if times > 1] == []


def test_the_table_speaks_of_no_concept_that_no_phrase_stands_for() -> None:
    table = standard_vocabulary().table
    concepts = {*table.where, *table.what, *(name for names in table.within.values() for name in names)}
    spoken = [*table.within, *table.implies, *table.fused, *table.towers, *table.not_of_norms, *table.telling]
    spoken += [name for names in (*table.implies.values(), *table.fused.values(), *table.exclusive) for name in names]
    assert {*spoken} - concepts == set()
