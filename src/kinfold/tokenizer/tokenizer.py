"""Text to token ids and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kinfold.errors import TokenizerError
from kinfold.vocabulary import VocabularyInfo

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a text ends with while a character is still missing some of its bytes."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A tokenizer.

    Attributes:
        backend: That of the `tokenizers` package.
        bos_token_id: The token that starts a text, if there is one.
        eos_token_ids: The tokens after which generation stops.
        chat_template: The Jinja template of a conversation, if the checkpoint has one.
        pad_token_id: The token that fills a sequence up, if there is one.
        unk_token_id: The token that stands for what is not in the vocabulary, if there is one.
        decoder_start_token_id: The token that the target of an encoder and decoder begins with, if that is said.
    """

    backend: Backend
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    pad_token_id: int | None = None
    unk_token_id: int | None = None
    decoder_start_token_id: int | None = None

    @property
    def vocab_info(self) -> VocabularyInfo:
        """The size of the vocabulary and its special tokens; where several end a text, the first."""
        eos_idx = self.eos_token_ids[0] if self.eos_token_ids else None
        return VocabularyInfo(self.vocab_size, self.unk_token_id, self.bos_token_id, eos_idx, self.pad_token_id)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self.backend.get_vocab_size()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text, with those that the tokenizer puts around one.

        Special tokens that are spelled out in the text are encoded as such, with `add_special_tokens` or without.

        Raises:
            TokenizerError: The text has no form in UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(f"A text that is no Unicode cannot be encoded: {error}.") from error
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return self.backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def stream_decode(
        self, token_ids: Iterable[int], *, context: Iterable[int] = (), skip_special_tokens: bool = True
    ) -> Iterator[str]:
        """The text of token ids as they come, in pieces that never end within a character.

        Args:
            token_ids: The tokens.
            context: Those before them, whose text is not given again; it decides about a leading space.
            skip_special_tokens: Leave special tokens out.

        A piece is the difference of two decodings, with and without the new tokens, since what a token stands for
        may depend on those before it. Only the tokens of the piece before are decoded again, so the cost does not
        grow with the text.
        """
        before, new = list(context), []
        given = self.decode(before, skip_special_tokens=skip_special_tokens)
        for token_id in token_ids:
            new.append(token_id)
            text = self.decode(before + new, skip_special_tokens=skip_special_tokens)
            if text != given and not text.endswith(_UNFINISHED):
                yield _added(given, text)
                before, new = (new if text.startswith(given) else before + new), []
                given = self.decode(before, skip_special_tokens=skip_special_tokens)
        rest = _added(given, self.decode(before + new, skip_special_tokens=skip_special_tokens))
        if rest:
            yield rest


def _added(given: str, text: str) -> str:
    """What `text` has after `given`."""
    if not text.startswith(given):  # it ended within a character, which is finished now
        given = given.rstrip(_UNFINISHED)
    return text[len(given) :]


def require_tokenizers() -> Any:
    """The `tokenizers` package, an extra."""
    try:
        import tokenizers
    except ImportError as error:
        raise TokenizerError("Reading a tokenizer needs a package.", hint="pip install 'kinfold[gguf]'") from error
    return tokenizers
