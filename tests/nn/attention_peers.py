"""Attentions of transformers in float64, and passes through them and through ours."""

from __future__ import annotations

import importlib
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from kinfold.nn import DecodeState

Module = TypeVar("Module", bound=nn.Module)

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_hidden_layers": 2,
    "attention_bias": True,
}

BATCH, LENGTH = 2, 9
PADDING = torch.ones(BATCH, LENGTH, dtype=torch.bool)
PADDING[1, :3] = False
"""Three tokens less in the second sequence, on the left."""


class Peer:
    """An attention of transformers with random weights, and what it is called with.

    Args:
        model_type: As transformers calls it.
        prefix: What its classes begin with.
        layer: The number of the layer.
        positions: Whether it is given cosines and sines.
        values: Of its config, besides `SIZES`.
    """

    def __init__(self, model_type: str, prefix: str, *, layer: int = 0, positions: bool = True, **values: Any) -> None:
        modeling = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
        config = AutoConfig.for_model(model_type, **{**SIZES, **values})
        config._attn_implementation = "eager"
        self.config: Any = config
        self.attention: Any = randomised(getattr(modeling, f"{prefix}Attention")(config, layer_idx=layer))
        self._rotary = getattr(modeling, f"{prefix}RotaryEmbedding")(config) if positions else None
        self._layer_type = getattr(config, "layer_types", None) and config.layer_types[layer]

    @property
    def projections(self) -> dict[str, Any]:
        """What ours takes of it."""
        names = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "output_proj": "o_proj"}
        return {ours: getattr(self.attention, theirs) for ours, theirs in names.items()} | {"head_dim": 8}

    def __call__(self, x: Tensor, padding: Tensor | None, window: int | None = None) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        mask = torch.zeros(BATCH, 1, LENGTH, LENGTH, dtype=x.dtype).masked_fill(~seen(padding, window), -torch.inf)
        tables = self._tables(x, padding)
        return self.attention(
            hidden_states=x, position_embeddings=tables, attention_mask=mask, position_ids=places(padding)
        )[0]

    def _tables(self, x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor] | None:
        if self._rotary is None:
            return None
        kinds = {"layer_type": self._layer_type} if hasattr(self._rotary, "layer_types") else {}
        return self._rotary(x, places(padding), **kinds)


def randomised(module: Module) -> Module:
    """In float64, with weights that are large enough for scores to be far apart."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    return module.eval()


def inputs() -> Tensor:
    """(B, S, D), float64."""
    return torch.randn(BATCH, LENGTH, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def places(padding: Tensor | None) -> Tensor:
    """The positions of the tokens, (B, S); padding does not count."""
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.int64) if padding is None else padding.long()
    return (tokens.cumsum(1) - 1).clamp(min=0)


def seen(padding: Tensor | None, window: int | None = None) -> Tensor:
    """Which tokens see which, (B, 1, S, S); each sees itself."""
    distances = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    sees = (distances >= 0) & (distances < (window or LENGTH))
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.bool) if padding is None else padding
    return (sees & tokens[:, None, None]) | (distances == 0)


def in_passes(module: nn.Module, x: Tensor, padding: Tensor | None = None, lengths: tuple[int, ...] = ()) -> Tensor:
    """What an attention of ours gives in passes of these lengths, or in one, without a cache."""
    state = DecodeState(capacity=LENGTH if lengths else None)
    outputs = []
    for start, length in zip(torch.tensor([0, *lengths]).cumsum(0).tolist(), lengths or (LENGTH,), strict=False):
        part = slice(start, start + length)
        token_ids = torch.zeros(BATCH, length, dtype=torch.int64)
        state.extend(token_ids, None if padding is None else padding[:, part])
        outputs.append(module(x[:, part], state))
    return torch.cat(outputs, dim=1)


def assert_same(ours: Tensor, theirs: Tensor, padding: Tensor | None = None, tolerance: float = 1e-10) -> None:
    """Equal for all tokens to `tolerance`, relative to the largest value."""
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.bool) if padding is None else padding
    assert ours.shape == theirs.shape
    assert (ours - theirs)[tokens].abs().max() <= tolerance * theirs[tokens].abs().max()
