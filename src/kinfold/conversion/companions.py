"""What belongs to a checkpoint besides its tensors: its config, and the files of its tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from kinfold.checkpoint import Checkpoint, Manifest
from kinfold.checkpoint.gguf import GgufCheckpoint
from kinfold.checkpoint.names import GENERATION_CONFIG, TOKENIZER_FILES
from kinfold.conversion.hf_config import make_hf_config
from kinfold.errors import TokenizerError
from kinfold.loader import PreparedModel, load_model

CONFIG = "config.json"
_HF = "hf"
_HF_CONFIG = "hf_config"

_FILES = (*TOKENIZER_FILES, GENERATION_CONFIG)
"""Files that are copied along from beside the checkpoint."""

_GGUF_TOKENS: Mapping[str, str] = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def companions(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The contents of the files that go with a checkpoint, by name.

    They are those that lie beside it, and where no tokenizer does, the one that a GGUF file has in it.
    """
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    beside = {name: path.read_bytes() for name in _FILES if (path := folder / name).is_file()}
    if isinstance(checkpoint, GgufCheckpoint) and "tokenizer.json" not in beside:
        return {**beside, **_gguf_tokenizer(checkpoint)}
    return beside


def config_file(prepared: PreparedModel, manifest: Manifest, *, to: str, cast: str | None) -> bytes:
    """The config.json of a converted checkpoint.

    In Hugging Face's layout it is the source's own, or else is made from the family's config. In any other it says
    what a card would say (family, arch and values of the config), so that transformers refuses it rather than load
    it wrongly, and keeps Hugging Face's config if there was one, for the way back.

    Args:
        prepared: The source.
        manifest: The tensors of the destination.
        to: Its layout.
        cast: The dtype that its tensors were cast to; None if they were not.

    Raises:
        ConfigError: Hugging Face's config cannot be made.
    """
    theirs = _hf_config(prepared.checkpoint)
    dtype = cast or _main_dtype(manifest)
    if theirs is not None and cast:
        theirs = {**theirs, "torch_dtype" if "torch_dtype" in theirs else "dtype": dtype}
    if to == _HF:
        if theirs is None:
            create = load_model.get(prepared.card.model_family).factory
            tokens = _tokens(prepared.checkpoint)
            theirs = make_hf_config(prepared.config, prepared.model, create=create, dtype=dtype, tokens=tokens)
        return _json(theirs)
    card = prepared.card
    ours = {
        "model_family": card.model_family,
        "model_arch": card.model_arch,
        "model_config": msgspec.to_builtins(card.model_config),
        "layout": to,
        "dtype": dtype,
        **_tokens(prepared.checkpoint),
    }
    return _json({**ours, _HF_CONFIG: theirs} if theirs is not None else ours)


def _main_dtype(manifest: Manifest) -> str:
    """The dtype that most bytes are of."""
    sizes: Counter[str] = Counter()
    for info in manifest.values():
        sizes[info.dtype] += info.nbytes
    return sizes.most_common(1)[0][0]


def _hf_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Hugging Face's config, which the source is, or was, beside."""
    kept = checkpoint.config.get(_HF_CONFIG)
    found = kept if isinstance(kept, dict) else checkpoint.config
    return dict(found) if "model_type" in found else None


def _tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """The ids of special tokens, as a GGUF file or a config that was written here says."""
    if isinstance(checkpoint, GgufCheckpoint):
        metadata = checkpoint.tokenizer_metadata
        return {name: metadata[key] for name, key in _GGUF_TOKENS.items() if key in metadata}
    return {name: checkpoint.config[name] for name in _GGUF_TOKENS if name in checkpoint.config}


def _gguf_tokenizer(checkpoint: GgufCheckpoint) -> dict[str, bytes]:
    """The tokenizer in a GGUF file as the files that transformers reads; none where it is not known."""
    from kinfold.tokenizer.gguf import tokenizer_from_metadata

    try:
        tokenizer = tokenizer_from_metadata(checkpoint.tokenizer_metadata, place=str(checkpoint.path))
    except TokenizerError:
        return {}
    tokens = _tokens(checkpoint)
    texts = {
        name.removesuffix("_id"): tokenizer.backend.id_to_token(number)
        for name, number in tokens.items()
        if tokenizer.backend.id_to_token(number) is not None
    }
    template = {"chat_template": tokenizer.chat_template} if tokenizer.chat_template else {}
    return {
        "tokenizer.json": tokenizer.backend.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json({"tokenizer_class": "PreTrainedTokenizerFast", **texts, **template}),
    }


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
