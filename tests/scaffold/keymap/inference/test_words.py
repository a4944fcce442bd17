"""What names say, by the table that comes along and by one of one's own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from scaffold.keymap.sides import InMemory, random_tensors

from kinfold.documents import decode_document
from kinfold.errors import KeyMapError
from kinfold.scaffold.keymap.inference.infer import infer
from kinfold.scaffold.keymap.inference.words import Table, Vocabulary, standard_vocabulary, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("encoder.layer.{}.LayerNorm.weight", ("encoder", "layer", "layer", "norm", "weight")),
        ("blk.{}.attn_q.bias", ("blk", "attn", "q", "bias")),
        ("transformer/h0/mlpFc1", ("transformer", "h", "0", "mlp", "fc", "1")),
        ("HTTPHead", ("http", "head")),
    ],
)
def test_names_are_cut_into_words(name: str, words: tuple[str, ...]) -> None:
    assert words_of(name) == words


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


def test_weights_and_biases_are_told_apart() -> None:
    meaning = standard_vocabulary().meaning
    assert [meaning(f"norm.{leaf}").leaf for leaf in ("weight", "gamma", "bias", "beta", "scale_inv")] == [
        "weight",
        "weight",
        "bias",
        "bias",
        "",
    ]


def test_norms_of_a_layer_are_in_order() -> None:
    names = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    orders = [standard_vocabulary().meaning(f"model.layers.{{}}.{name}.weight").order for name in names]
    assert None not in orders
    assert orders == sorted(order for order in orders if order is not None)


def test_what_follows_from_the_config_has_a_reason() -> None:
    vocabulary = standard_vocabulary()
    assert vocabulary.why_recomputed("model.layers.{}.self_attn.rotary_emb.inv_freq")
    assert vocabulary.why_recomputed("embeddings.position_ids")
    assert vocabulary.why_recomputed("model.layers.{}.self_attn.q_proj.weight") is None


def test_a_table_of_ones_own_teaches_a_dialect() -> None:
    sources = {f"l.{layer}.{name}.weight": (4, 4) for layer in range(2) for name in ("frage", "schluessel")}
    targets = {f"layers.{layer}.{name}_proj.weight": (4, 4) for layer in range(2) for name in "qk"}
    source, target = (InMemory(random_tensors(shapes)).manifest for shapes in (sources, targets))
    assert not any(decision.sure for decision in infer(source, target).decisions)
    table = standard_vocabulary().table
    what = {**table.what, "q": [*table.what["q"], "frage"], "k": [*table.what["k"], "schluessel"]}
    taught = Vocabulary(msgspec.structs.replace(table, what=what))
    found = {d.sources[0].text: d.targets[0].text for d in infer(source, target, vocabulary=taught).decisions if d.sure}
    assert found == {
        "l.{}.frage.weight": "layers.{}.q_proj.weight",
        "l.{}.schluessel.weight": "layers.{}.k_proj.weight",
    }


def test_a_table_with_unknown_keys_is_refused() -> None:
    with pytest.raises(KeyMapError, match="colours"):
        decode_document("colours: {}", Table, KeyMapError, place="mine.yaml")


def test_no_phrase_stands_twice_in_one_list() -> None:
    table = standard_vocabulary().table
    lists = [*table.where.values(), *table.what.values(), *(p for t in table.within.values() for p in t.values())]
    assert [phrase for phrases in lists for phrase, times in Counter(phrases).items() if times > 1] == []


def test_a_meaning_does_not_change_with_what_is_asked_before() -> None:
    vocabulary = Vocabulary(standard_vocabulary().table)
    first = vocabulary.meaning("model.norm.weight")
    vocabulary.meaning("model.layers.{}.input_layernorm.weight")
    assert vocabulary.meaning("model.norm.weight") == replace(first)
