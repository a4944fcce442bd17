"""Published sizes of Mistral."""

from __future__ import annotations

from kinfold import ConfigRegistry

from kinfold_zoo.mistral.factory import MistralConfig

mistral_archs = ConfigRegistry[MistralConfig]()
mistral_arch = mistral_archs.decorator


@mistral_arch("7b")
def _7b() -> MistralConfig:
    """Mistral 7B v0.1."""
    return MistralConfig()
