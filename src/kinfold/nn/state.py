"""What the layers of a decoder share in one pass, and what they keep from one pass to the next."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

from kinfold.errors import GenerationError


class DecodeState:
    """Positions and masks of one pass and, with a capacity, the keys and values of all passes so far.

    The model calls `extend` at the start of each pass; its attentions call the rest.

    Args:
        capacity: How many tokens a sequence may come to have; None keeps nothing, for a single pass.

    Attributes:
        length: How many tokens each sequence has, those of this pass included.
        start: How many of them are from earlier passes.
    """

    def __init__(self, capacity: int | None = None) -> None:
        self.capacity = capacity
        self.length = 0
        self.start = 0
        self._batch_size = 0
        self._device = torch.device("cpu")
        self._padding: Tensor | None = None
        self._cache: dict[tuple[nn.Module, str], Tensor] = {}
        self._of_this_pass: dict[Hashable, Any] = {}

    def extend(self, token_ids: Tensor, padding_mask: Tensor | None = None) -> None:
        """Take the tokens of a pass in.

        Args:
            token_ids: int64, (B, S).
            padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.

        Raises:
            GenerationError: The tokens do not follow on those before, or there is no room for them.
        """
        batch_size, seq_len = token_ids.shape
        faults = []
        if self.length and self.capacity is None:
            faults.append("a state without a capacity serves one pass: make it with `DecodeState(capacity)`")
        elif self.capacity is not None and self.length + seq_len > self.capacity:
            faults.append(f"{self.length} + {seq_len} tokens exceed the capacity of {self.capacity}")
        if self.length and batch_size != self._batch_size:
            faults.append(f"the batch has {batch_size} sequences, where it had {self._batch_size}")
        if padding_mask is not None and (padding_mask.shape != token_ids.shape or padding_mask.dtype != torch.bool):
            shape = f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
            faults.append(f"the padding mask is {shape}, and must be torch.bool {tuple(token_ids.shape)}")
        if faults:
            raise GenerationError("These tokens cannot be decoded:", faults=faults)
        if padding_mask is not None or self._padding is not None:
            before = self._padding if self._padding is not None else token_ids.new_ones(batch_size, self.length).bool()
            now = padding_mask if padding_mask is not None else torch.ones_like(token_ids, dtype=torch.bool)
            self._padding = torch.cat([before, now], dim=1)
        self._batch_size, self._device = batch_size, token_ids.device
        self.start, self.length = self.length, self.length + seq_len
        self._of_this_pass.clear()

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed once a pass for each `key`: layers share it."""
        if key not in self._of_this_pass:
            self._of_this_pass[key] = compute()
        return self._of_this_pass[key]

    def positions(self, *, of_all: bool = False) -> Tensor:
        """The positions of the tokens of this pass, or of all tokens so far; padding does not count.

        Returns:
            int64, (S,), or (B, S) where there is padding.
        """
        return self.once(("positions", of_all), lambda: self._positions(0 if of_all else self.start))

    def token_counts(self) -> list[int] | None:
        """How many tokens each sequence has, padding not counted; None where there is no padding."""
        if self._padding is None:
            return None
        return self._padding.sum(dim=1).tolist()

    def attention_mask(self, window: int | None = None) -> tuple[Tensor | None, bool]:
        """The mask of causal attention, as `scaled_dot_product_attention` takes it.

        Args:
            window: How many tokens, itself included, a query sees; None sees all before it.

        Returns:
            A bool mask, (S, T) or (B, 1, S, T), True where a query sees a key, and `is_causal`.
        """
        if window is not None and window >= self.length:
            window = None
        if window is None and self._padding is None:
            if self.length - self.start == 1:
                return None, False
            if self.start == 0:
                return None, True
        return self.once(("mask", window), lambda: self._mask(window)), False

    def keep(self, owner: nn.Module, name: str, tensor: Tensor) -> Tensor:
        """Append what an attention computed for the tokens of this pass to what it kept before.

        Args:
            owner: The attention.
            name: What the tensor is ("keys", "values").
            tensor: (B, H, S, ...), of this pass.

        Returns:
            (B, H, T, ...), of all tokens so far.

        Raises:
            GenerationError: The attention did not take part in the passes before.
        """
        if self.capacity is None:
            return tensor
        kept = self._cache.get((owner, name))
        if kept is None:
            if self.start:
                raise GenerationError(
                    f"Nothing of the {self.start} tokens before is kept for this attention.",
                    hint="A state belongs to the model that it began with; copy both in one `deepcopy`.",
                )
            kept = tensor.new_empty(*tensor.shape[:2], self.capacity, *tensor.shape[3:])
            self._cache[owner, name] = kept
        kept[:, :, self.start : self.length] = tensor
        return kept[:, :, : self.length]

    def _positions(self, start: int) -> Tensor:
        if self._padding is None:
            return torch.arange(start, self.length, device=self._device)
        return (self._padding.cumsum(dim=1) - 1).clamp(min=0)[:, start:]

    def _mask(self, window: int | None) -> Tensor:
        keys = torch.arange(self.length, device=self._device)
        queries = keys[self.start :, None]
        mask = keys <= queries
        if window is not None:
            mask = mask & (keys > queries - window)
        if self._padding is None:
            return mask
        # What stands in for a token sees itself, so that its row is not empty, which would give NaN.
        return (mask & self._padding[:, None, None, :]) | (keys == queries)
