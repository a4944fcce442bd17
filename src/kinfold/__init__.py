"""Kinfold: the runtime that generated model families call.

Every public name is resolved when it is first used, so that `import kinfold` costs no torch and no family.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinfold.assets import AssetCard, retrieve_asset_card
    from kinfold.checkpoint import open_checkpoint
    from kinfold.conversion import convert_checkpoint
    from kinfold.converter import CheckpointConverter
    from kinfold.errors import KinfoldError
    from kinfold.generation import generate, stream
    from kinfold.keymap import KeyMap, convert_model_state_dict
    from kinfold.loader import StandardModelConfigLoader, StandardModelLoader, load_model
    from kinfold.registry import ConfigRegistry, create_model, model_factories
    from kinfold.tokenizer import load_tokenizer
    from kinfold.vocabulary import VocabularyInfo

__version__ = "0.1.0"

__all__ = [
    "AssetCard",
    "CheckpointConverter",
    "ConfigRegistry",
    "KeyMap",
    "KinfoldError",
    "StandardModelConfigLoader",
    "StandardModelLoader",
    "VocabularyInfo",
    "convert_checkpoint",
    "convert_model_state_dict",
    "create_model",
    "generate",
    "load_model",
    "load_tokenizer",
    "model_factories",
    "open_checkpoint",
    "retrieve_asset_card",
    "stream",
]

_HOMES = {
    "AssetCard": "assets",
    "CheckpointConverter": "converter",
    "ConfigRegistry": "registry",
    "KeyMap": "keymap",
    "KinfoldError": "errors",
    "StandardModelConfigLoader": "loader",
    "StandardModelLoader": "loader",
    "VocabularyInfo": "vocabulary",
    "convert_checkpoint": "conversion",
    "convert_model_state_dict": "keymap",
    "create_model": "registry",
    "generate": "generation",
    "load_model": "loader",
    "load_tokenizer": "tokenizer",
    "model_factories": "registry",
    "open_checkpoint": "checkpoint",
    "retrieve_asset_card": "assets",
    "stream": "generation",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kinfold' has no attribute {name!r}")
    value = getattr(import_module(f"kinfold.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
