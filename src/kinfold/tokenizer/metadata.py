"""What a GGUF file says of its tokenizer, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from kinfold.errors import TokenizerError
from kinfold.tokenizer.pretokenizers import PRE_TOKENIZERS

KINDS: Mapping[str, tuple[str, ...]] = {"gpt2": ("pre", "merges"), "llama": ("scores",)}
"""The kinds of tokenizer that can be built, and what each needs besides tokens and their types."""


def _key(name: str) -> str:
    return f"tokenizer.{name}" if name == "chat_template" else f"tokenizer.ggml.{name}"


class GgufTokenizer(msgspec.Struct, frozen=True, kw_only=True, rename=_key):
    """The `tokenizer.*` metadata that are used.

    Attributes:
        model: One of `KINDS`.
        token_type: For each token 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
        add_space_prefix: Have a text start with a space; of no meaning to byte-level BPE, as in llama.cpp.
    """

    model: str
    tokens: list[str]
    token_type: list[int]
    pre: str = ""
    merges: list[str] = []
    scores: list[float] = []
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    eot_token_id: int | None = None
    eom_token_id: int | None = None
    unknown_token_id: int = 0
    padding_token_id: int | None = None
    add_bos_token: bool | None = None
    add_eos_token: bool = False
    add_space_prefix: bool = True
    chat_template: str | None = None

    @property
    def adds_bos(self) -> bool:
        """Whether a text starts with the bos token; where the file does not say, llama.cpp's answer."""
        if self.add_bos_token is None:
            return self.model == "llama" or PRE_TOKENIZERS[self.pre].adds_bos
        return self.add_bos_token


def read_metadata(metadata: Mapping[str, Any], *, place: str) -> GgufTokenizer:
    """Check `tokenizer.*` metadata; `place` stands in the messages.

    Raises:
        TokenizerError: They are of another kind, incomplete or contradictory; every fault is listed.
    """
    kind = metadata.get(_key("model"))
    if kind is None:
        raise TokenizerError(f"{place} has no tokenizer: {_key('model')} is missing.")
    if kind not in tuple(KINDS):
        raise TokenizerError(
            f"{place} has a tokenizer of the kind {kind!r} ({_key('model')}); known: {', '.join(KINDS)}."
        )
    values: dict[str, Any] = {}
    faults = []
    for field in msgspec.structs.fields(GgufTokenizer):
        if field.encode_name not in metadata:
            if field.required or field.name in KINDS[kind]:
                faults.append(f"{field.encode_name} is missing")
            continue
        try:
            values[field.name] = msgspec.convert(metadata[field.encode_name], field.type)
        except msgspec.ValidationError as error:
            faults.append(f"{field.encode_name}: {error}")
    if not faults:
        tokenizer = GgufTokenizer(**values)
        faults = [*_vocabulary_faults(tokenizer), *_special_token_faults(tokenizer)]
        if not faults:
            return tokenizer
    raise TokenizerError(f"{place} has a tokenizer that cannot be built:", faults=faults)


def _vocabulary_faults(tokenizer: GgufTokenizer) -> Iterator[str]:
    tokens, needed = tokenizer.tokens, KINDS[tokenizer.model]
    parallel = {"token_type": tokenizer.token_type, "scores": tokenizer.scores if "scores" in needed else tokens}
    for name, values in parallel.items():
        if len(values) != len(tokens):
            yield f"{_key(name)} has {len(values)} values for {len(tokens)} tokens"
    last = {token: number for number, token in enumerate(tokens)}
    twice = [token for number, token in enumerate(tokens) if last[token] != number]
    if twice:
        yield f"{_key('tokens')} has {len(twice)} that come again, as {twice[0]!r}"
    pairs = ((merge, *merge.partition(" ")) for merge in tokenizer.merges if "merges" in needed)
    strange = [merge for merge, left, _, right in pairs if not {left, right, left + right} <= last.keys()]
    if strange:
        yield f"{_key('merges')} has {len(strange)} that do not make a token of two others, as {strange[0]!r}"


def _special_token_faults(tokenizer: GgufTokenizer) -> Iterator[str]:
    for name in (
        "bos_token_id",
        "eos_token_id",
        "eot_token_id",
        "eom_token_id",
        "unknown_token_id",
        "padding_token_id",
    ):
        number = getattr(tokenizer, name)
        if number is not None and not 0 <= number < len(tokenizer.tokens):
            yield f"{_key(name)} is {number}, and there are {len(tokenizer.tokens)} tokens"
    if tokenizer.model == "gpt2" and tokenizer.pre not in PRE_TOKENIZERS:
        yield f"{_key('pre')} is {tokenizer.pre!r}; known: {', '.join(sorted(PRE_TOKENIZERS))}"
    elif tokenizer.adds_bos and tokenizer.bos_token_id is None:
        yield f"{_key('bos_token_id')} is missing, and a text is to start with that token"
    if tokenizer.add_eos_token and tokenizer.eos_token_id is None:
        yield f"{_key('eos_token_id')} is missing, and a text is to end with that token"
