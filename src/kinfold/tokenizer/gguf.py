"""Building a tokenizer from the metadata of a GGUF file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kinfold.tokenizer.metadata import GgufTokenizer, read_metadata
from kinfold.tokenizer.pretokenizers import PRE_TOKENIZERS
from kinfold.tokenizer.tokenizer import Tokenizer, require_tokenizers

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What stands for a space in SentencePiece's tokens."""


def tokenizer_from_metadata(metadata: Mapping[str, Any], *, place: str) -> Tokenizer:
    """The tokenizer that `tokenizer.*` metadata describe; `place` stands in the messages.

    GGUF knows no normal form of Unicode, so none is applied, whatever the model's own tokenizer does.

    Raises:
        TokenizerError: They are incomplete, contradictory, or of a kind that cannot be built.
    """
    require_tokenizers()
    stated = read_metadata(metadata, place=place)
    backend = _BUILDERS[stated.model](stated)
    _add_special_tokens(backend, stated)
    _put_tokens_around(backend, stated)
    stops = (stated.eos_token_id, stated.eot_token_id, stated.eom_token_id)
    unknown = getattr(backend.model, "unk_token", None)  # the file's own number has a default, even where there is none
    return Tokenizer(
        backend,
        stated.bos_token_id,
        tuple(dict.fromkeys(stop for stop in stops if stop is not None)),
        stated.chat_template,
        stated.padding_token_id,
        backend.token_to_id(unknown) if unknown else None,
    )


def _byte_level(stated: GgufTokenizer) -> Backend:
    """Byte-level BPE (Radford et al. 2019, section 2.2)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = PRE_TOKENIZERS[stated.pre]
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in stated.merges)]
    backend = Tokenizer(models.BPE(vocab=_vocabulary(stated), merges=merges, ignore_merges=pre.whole_tokens))
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in pre.splits]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(stated: GgufTokenizer) -> Backend:
    """SentencePiece's BPE with byte fallback (Kudo and Richardson 2018)."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    model = models.BPE(
        vocab=_vocabulary(stated),
        merges=list(_merges(stated)),
        unk_token=stated.tokens[stated.unknown_token_id],
        fuse_unk=True,
        byte_fallback=True,
    )
    normalize: list[Any] = [normalizers.Replace(" ", _SPACE)]
    decode: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if stated.add_space_prefix:
        normalize.insert(0, normalizers.Prepend(_SPACE))
        decode.append(decoders.Strip(" ", 1, 0))
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence(normalize)
    backend.decoder = decoders.Sequence(decode)
    return backend


_BUILDERS: Mapping[str, Callable[[GgufTokenizer], Backend]] = {"gpt2": _byte_level, "llama": _sentence_piece}


def _vocabulary(stated: GgufTokenizer) -> dict[str, int]:
    return {token: number for number, token in enumerate(stated.tokens)}


def _merges(stated: GgufTokenizer) -> Iterator[tuple[str, str]]:
    """The merges that scores stand for: every pair of tokens that makes a token, the highest score first.

    Unknown, control, unused and byte tokens are no text, so nothing merges to them.
    """
    pieces = zip(stated.tokens, stated.scores, stated.token_type, strict=True)
    scores = {token: score for token, score, kind in pieces if kind in (_NORMAL, _USER_DEFINED)}
    for token in sorted(scores, key=scores.__getitem__, reverse=True):
        for cut in range(1, len(token)):
            if token[:cut] in scores and token[cut:] in scores:
                yield token[:cut], token[cut:]


def _add_special_tokens(backend: Backend, stated: GgufTokenizer) -> None:
    """Have special tokens found in a text before it is cut."""
    from tokenizers import AddedToken

    def of(*kinds: int, special: bool) -> list[AddedToken]:
        typed = zip(stated.tokens, stated.token_type, strict=True)
        return [AddedToken(token, normalized=False, special=special) for token, kind in typed if kind in kinds]

    backend.add_special_tokens(of(_UNKNOWN, _CONTROL, special=True))
    backend.add_tokens(of(_USER_DEFINED, special=False))


def _put_tokens_around(backend: Backend, stated: GgufTokenizer) -> None:
    """Have a text start with the bos token and end with the eos token, where the file asks for that."""
    from tokenizers import processors

    # Not by their own texts, in which a template would take a space or a colon for its own.
    named = (("bos", stated.bos_token_id), ("eos", stated.eos_token_id))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{'bos ' if stated.adds_bos else ''}$A{' eos' if stated.add_eos_token else ''}",
        special_tokens=[
            {"id": name, "ids": [number], "tokens": [stated.tokens[number]]}
            for name, number in named
            if number is not None
        ],
    )
