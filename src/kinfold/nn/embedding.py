"""The ends of a model: from tokens to vectors, and back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear


class DecoderFrontend(nn.Module):
    """Gives each token its vector.

    Args:
        embed: The vectors of the vocabulary.
    """

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, token_ids: Tensor) -> Tensor:
        """int64 (B, S) to (B, S, D)."""
        return self.embed(token_ids)


class TiedProjection(nn.Module):
    """Turns vectors into logits by the embedding that turned tokens into vectors (Press and Wolf 2017).

    It has no parameter of its own, nor a name in the state dict: there is one weight, under one name.

    Args:
        embed: The embedding, which belongs to another module.
    """

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self._embed = [embed]  # in a list, so that torch does not count it as part of this module

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V)."""
        return linear(x, self._embed[0].weight)
