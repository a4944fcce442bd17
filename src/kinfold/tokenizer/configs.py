"""What the files beside a tokenizer.json say of its special tokens and its chat template."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from kinfold.checkpoint.strict_json import read_json
from kinfold.errors import CheckpointError, TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

CHAT_TEMPLATE = "chat_template.jinja"


class _Token(msgspec.Struct):
    content: str


class _ChatTemplate(msgspec.Struct):
    name: str
    template: str


class Config(msgspec.Struct):
    """What tokenizer_config.json, generation_config.json and config.json may say; other keys are passed over."""

    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | list[int] | None = None
    unk_token_id: int | list[int] | None = None
    decoder_start_token_id: int | list[int] | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    pad_token: str | _Token | None = None
    unk_token: str | _Token | None = None
    decoder_start_token: str | _Token | None = None
    chat_template: str | list[_ChatTemplate] | None = None


class Configs(msgspec.Struct):
    """The three files; one that is missing says nothing."""

    tokenizer_config: Config
    generation_config: Config
    config: Config

    def token_id(self, kind: str, backend: Backend) -> int | None:
        """The token that starts a text ("bos"), fills it up ("pad") and so on, which is the tokenizer's own affair."""
        found = _ids(backend, kind, (self.tokenizer_config, self.generation_config, self.config))
        return found[0] if found else None

    def decoder_start_token_id(self, backend: Backend) -> int | None:
        """What a target begins with, which transformers takes from these in this order."""
        found = _ids(backend, "decoder_start", (self.generation_config, self.config))
        return found[0] if found else None

    def eos_token_ids(self, backend: Backend) -> tuple[int, ...]:
        """What generation stops at, which transformers takes from these in this order."""
        return _ids(backend, "eos", (self.generation_config, self.config, self.tokenizer_config))


def read_configs(folder: Path) -> Configs:
    """Read the files that are there.

    Raises:
        TokenizerError: Some cannot be read, or hold something of another type; every fault is listed.
    """
    configs, faults = {}, []
    for name in Configs.__struct_fields__:
        file = folder / f"{name}.json"
        try:
            configs[name] = msgspec.convert(read_json(file) if file.exists() else {}, Config)
        except CheckpointError as error:
            faults.append(str(error))
        except msgspec.ValidationError as error:
            faults.append(f"{file}: {error}")
    if faults:
        raise TokenizerError(f"The tokenizer in {folder} is described wrongly:", faults=faults)
    return Configs(**configs)


def chat_template(folder: Path, config: Config) -> str | None:
    """The template in a file of its own, else in tokenizer_config.json; of several there the one called "default".

    Raises:
        TokenizerError: The file cannot be read.
    """
    file = folder / CHAT_TEMPLATE
    if file.exists():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"{file} cannot be read: {error}") from error
    if isinstance(config.chat_template, list):
        return {one.name: one.template for one in config.chat_template}.get("default")
    return config.chat_template


def _ids(backend: Backend, kind: str, configs: Iterable[Config]) -> tuple[int, ...]:
    """The ids of a special token in the first config that knows them, by number or else by text."""
    for config in configs:
        number, token = getattr(config, f"{kind}_token_id"), getattr(config, f"{kind}_token")
        if number is None and token is not None:
            number = backend.token_to_id(token.content if isinstance(token, _Token) else token)
        if number is not None:
            return tuple(number) if isinstance(number, list) else (number,)
    return ()
