"""What the makers of Hugging Face's configs look at in a model, and how they refuse one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kinfold.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

ACTIVATIONS: Mapping[str, str] = {
    "SiLU()": "silu", "GELU(approximate='none')": "gelu", "GELU(approximate='tanh')": "gelu_pytorch_tanh",
    "ReLU()": "relu",
}  # fmt: skip
"""Modules, as torch prints them, to what Hugging Face calls them."""

_TOKENS: Mapping[str, str] = {"bos_idx": "bos_token_id", "eos_idx": "eos_token_id", "pad_idx": "pad_token_id"}

TOKEN_FIELDS = frozenset({*_TOKENS, "unk_idx"})
"""Fields of a family's config that are special tokens, which the checkpoint's own tokenizer knows better."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def parameter_patterns(model: nn.Module) -> set[str]:
    """The names of the parameters, with N in place of the number of a layer."""
    return {_NUMBER.sub("N", name) for name, _ in model.named_parameters()}


def special_tokens(config: Any, tokens: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens: as the checkpoint says, else as the family's config does; null where neither knows."""
    return {key: tokens.get(key, getattr(config, field, None)) for field, key in _TOKENS.items()}


def activation(model: nn.Module) -> str:
    """What Hugging Face calls the activation of a model that has one."""
    return next(_activations(model))


def activation_faults(model: nn.Module) -> Iterator[str]:
    """What is wrong where there is not just one kind of activation."""
    if len(found := set(_activations(model))) != 1:
        yield f"activations: {', '.join(sorted(found)) or 'none'}"


def refuse(faults: Sequence[str]) -> None:
    """Raise a `ConfigError` with everything that keeps a config from being made, if anything does."""
    if faults:
        raise ConfigError(
            "A config.json of Hugging Face is not known for this model, because of:",
            faults=faults,
            hint="Write the tensors alone (`config=False`, `--no-config`) and the config.json by hand.",
        )


def _activations(model: nn.Module) -> Iterator[str]:
    leaves = (module for module in model.modules() if next(module.children(), None) is None)
    return (ACTIVATIONS[text] for module in leaves if (text := repr(module)) in ACTIVATIONS)
