"""Building a tokenizer from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kinfold.errors import TokenizerError
from kinfold.tokenizer.pretokenizers import DIGITS, PRE_TOKENIZERS
from kinfold.tokenizer.tokenizer import Tokenizer, require_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in SentencePiece's tokens."""

Metadata = Mapping[str, Any]


def tokenizer_from_metadata(metadata: Metadata, *, place: str) -> Tokenizer:
    """The tokenizer that `tokenizer.*` metadata describe; `place` stands in the messages.

    Raises:
        TokenizerError: They are incomplete, or of a kind that cannot be built.
    """
    kind = str(metadata.get(f"{_PREFIX}model"))
    if kind not in _KINDS:
        raise TokenizerError(f"{place} has a tokenizer of the kind {kind!r}; known: {', '.join(_KINDS)}.")
    needed, build = _KINDS[kind]
    missing = [f"{_PREFIX}{name}" for name in needed if f"{_PREFIX}{name}" not in metadata]
    if missing:
        raise TokenizerError(f"{place} has an incomplete tokenizer:", faults=[f"{name} is missing" for name in missing])
    values = {name.removeprefix(_PREFIX): value for name, value in metadata.items()}
    backend = build(values, place)
    _add_special_tokens(backend, values)
    _add_template(backend, values)
    stops = (values.get(f"{name}_token_id") for name in ("eos", "eot", "eom"))
    return Tokenizer(
        backend,
        values.get("bos_token_id"),
        tuple(dict.fromkeys(stop for stop in stops if stop is not None)),
        metadata.get("tokenizer.chat_template"),
    )


def _byte_level(values: Metadata, place: str) -> Backend:
    """Byte-level BPE (Radford et al. 2019, section 2.2), `tokenizer.ggml.model = gpt2`."""
    tokenizers = require_tokenizers()
    from tokenizers import decoders, models, pre_tokenizers

    pre = values.get("pre", "default")
    if pre not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"{place} cuts text as {pre!r} ({_PREFIX}pre) does; known: {', '.join(sorted(PRE_TOKENIZERS))}."
        )
    merges = [tuple(merge.split(" ", 1)) for merge in values["merges"]]
    vocabulary = {token: number for number, token in enumerate(values["tokens"])}
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre in _WHOLE_TOKENS_FIRST)
    backend = tokenizers.Tokenizer(model)
    steps = [
        pre_tokenizers.Digits(individual_digits=True)
        if step is DIGITS
        else pre_tokenizers.Split(tokenizers.Regex(step), "isolated")
        for step in PRE_TOKENIZERS[pre]
    ]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(values.get("add_space_prefix", False)), use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


_WHOLE_TOKENS_FIRST = ("llama-bpe", "llama3")
"""Where a piece that is a token as it stands is taken without merging, as in tiktoken."""


def _sentence_piece(values: Metadata, place: str) -> Backend:
    """SentencePiece's BPE with byte fallback (Kudo and Richardson 2018), `tokenizer.ggml.model = llama`."""
    tokenizers = require_tokenizers()
    from tokenizers import decoders, models, normalizers

    tokens: list[str] = values["tokens"]
    unknown = values.get("unknown_token_id", 0)
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=list(_merges(tokens, values["scores"])),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = bool(values.get("add_space_prefix", True))
    spaces = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces]) if prefixed else spaces
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if prefixed else [])])
    return backend


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """The merges that scores stand for: every pair of tokens that makes a token, the highest score first."""
    known = set(tokens)
    for _, token in sorted(zip(scores, tokens, strict=True), key=lambda item: -item[0]):
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield token[:cut], token[cut:]


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[Metadata, str], Backend]]] = {
    "gpt2": (("tokens", "merges"), _byte_level),
    "llama": (("tokens", "scores"), _sentence_piece),
}
"""The kinds of tokenizer: the metadata each needs, and what builds it."""


def _add_special_tokens(backend: Backend, values: Metadata) -> None:
    from tokenizers import AddedToken

    kinds = values.get("token_type") or []
    for token, kind in zip(values["tokens"], kinds, strict=False):
        if kind == _CONTROL:
            backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])


def _add_template(backend: Backend, values: Metadata) -> None:
    """Have the tokenizer put the tokens around a text that the file asks for."""
    from tokenizers import processors

    ends = {}
    for name, wanted in (("bos", values.get("add_bos_token")), ("eos", values.get("add_eos_token"))):
        number = values.get(f"{name}_token_id")
        if wanted and number is not None:
            ends[name] = (values["tokens"][number], number)
    if ends:
        single = [ends[name][0] if name in ends else "" for name in ("bos", "eos")]
        template = " ".join(part for part in (single[0], "$A", single[1]) if part)
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(ends.values()))
