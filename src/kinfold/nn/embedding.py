"""The ends of a model: from tokens to vectors, and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from kinfold.nn.absolute_position import LearnedPositions, SinusoidalPositions
from kinfold.nn.state import PassState


class EmbeddingFrontend(nn.Module):
    """Gives each token its vector: that of the vocabulary and, where there is one, that of its position.

    Args:
        embed: The vectors of the vocabulary.
        scale: What they are multiplied by (Vaswani et al. 2017, section 3.4).
        project: From their width to the model's, where the two differ (OPT-350m).
        position: The vectors of the positions, which are added.
        norm: What the sum passes (Bloom).
        norm_first: The vectors of the vocabulary pass it, before positions are added (Blenderbot).
        dropout: What comes last.
    """

    def __init__(
        self,
        embed: nn.Embedding | TiedEmbedding,
        *,
        scale: float = 1.0,
        project: nn.Linear | None = None,
        position: SinusoidalPositions | LearnedPositions | None = None,
        norm: nn.Module | None = None,
        norm_first: bool = False,
        dropout: nn.Dropout | None = None,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.scale = scale
        self.project = project
        self.position = position
        self.norm = norm
        self.norm_first = norm_first
        self.dropout = dropout

    def forward(self, token_ids: Tensor, state: PassState) -> Tensor:
        """int64 (B, S) to (B, S, D)."""
        x = self.embed(token_ids)
        if self.scale != 1.0:
            x = x * self.scale
        if self.project is not None:
            x = self.project(x)
        if self.norm is not None and self.norm_first:
            x = self.norm(x)
        if self.position is not None:
            x = x + self.position(state).to(x.dtype)
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        return x if self.dropout is None else self.dropout(x)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class _Tied(nn.Module):
    """Uses the embedding of another module.

    The weight has no name here in the state dict: there is one, under one name.

    Args:
        embed: The embedding, which belongs to another module.
    """

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self._embed = [embed]  # in a list, so that torch does not count it as part of this module

    @property
    def embed(self) -> nn.Embedding:
        """The embedding."""
        return self._embed[0]


class TiedEmbedding(_Tied):
    """Turns tokens into vectors by the embedding of another module; it has no parameter."""

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 (...) to (..., D)."""
        return embedding(token_ids, self.embed.weight)


class TiedProjection(_Tied):
    """Turns vectors into logits by the embedding that turned tokens into vectors (Press and Wolf 2017).

    Args:
        embed: The embedding, which belongs to another module.
        bias: Whether there is a bias, (V,), which is the only parameter.
    """

    bias: nn.Parameter | None

    def __init__(self, embed: nn.Embedding, *, bias: bool = False) -> None:
        super().__init__(embed)
        self.bias = nn.Parameter(torch.empty(embed.num_embeddings)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the bias to zeros."""
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        return linear(x, self.embed.weight, self.bias)
