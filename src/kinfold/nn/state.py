"""What the layers of a model share in one pass, and what a decoder keeps from one pass to the next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinfold.errors import GenerationError


class PassState(ABC):
    """The positions and masks of one pass, computed once for all layers.

    Attributes:
        length: How many tokens each sequence has, those of this pass included.
        start: How many of them are from earlier passes.
    """

    def __init__(self) -> None:
        self.length = 0
        self.start = 0
        self._device = torch.device("cpu")
        self._padding: Tensor | None = None
        self._of_this_pass: dict[Hashable, Any] = {}

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

    @abstractmethod
    def attention_mask(self, window: int | None = None) -> tuple[Tensor | None, bool]:
        """Which tokens of this pass see which, as `scaled_dot_product_attention` takes it.

        Args:
            window: How many tokens, itself included, a query sees; None sees all that there are to see.

        Returns:
            A bool mask, (S, T) or (B, 1, S, T), True where a query sees a key, and `is_causal`.
        """

    def keep(self, owner: nn.Module, name: str, tensor: Tensor) -> Tensor:
        """The keys or values of all tokens so far, given those of this pass; here the same."""
        return tensor

    def _positions(self, start: int) -> Tensor:
        if self._padding is None:
            return torch.arange(start, self.length, device=self._device)
        return (self._padding.cumsum(dim=1) - 1).clamp(min=0)[:, start:]


class EncodeState(PassState):
    """One pass over whole sequences, in which every token sees every other one.

    Args:
        token_ids: int64, (B, S).
        padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.

    Raises:
        GenerationError: The mask does not fit the tokens.
    """

    def __init__(self, token_ids: Tensor, padding_mask: Tensor | None = None) -> None:
        super().__init__()
        if fault := _mask_fault(token_ids, padding_mask):
            raise GenerationError(f"These tokens cannot be encoded: {fault}.")
        self.length = token_ids.shape[1]
        self._device = token_ids.device
        self._padding = padding_mask

    def attention_mask(self, window: int | None = None) -> tuple[Tensor | None, bool]:
        """The mask of attention to both sides; a window reaches as far to the one as to the other."""
        if window is not None and window >= self.length:
            window = None
        if window is None and self._padding is None:
            return None, False
        return self.once(("mask", window), lambda: self._mask(window)), False

    def _mask(self, window: int | None) -> Tensor:
        places = torch.arange(self.length, device=self._device)
        distances = (places - places[:, None]).abs()
        mask = distances < (self.length if window is None else window)
        return mask if self._padding is None else _without_padding(mask, self._padding, distances == 0)


class DecodeState(PassState):
    """Positions and masks of one pass and, with a capacity, the keys and values of all passes so far.

    The model calls `extend` at the start of each pass; its attentions call the rest.

    Args:
        capacity: How many tokens a sequence may come to have; None keeps nothing, for a single pass.
    """

    def __init__(self, capacity: int | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self._batch_size = 0
        self._cache: dict[tuple[nn.Module, str], Tensor] = {}
        self._of_all_passes: dict[Hashable, Any] = {}

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
        if fault := _mask_fault(token_ids, padding_mask):
            faults.append(fault)
        if faults:
            raise GenerationError("These tokens cannot be decoded:", faults=faults)
        if padding_mask is not None or self._padding is not None:
            before = self._padding if self._padding is not None else token_ids.new_ones(batch_size, self.length).bool()
            now = padding_mask if padding_mask is not None else torch.ones_like(token_ids, dtype=torch.bool)
            self._padding = torch.cat([before, now], dim=1)
        self._batch_size, self._device = batch_size, token_ids.device
        self.start, self.length = self.length, self.length + seq_len
        self._of_this_pass.clear()

    def once_for_all(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` gives in the first pass, kept for all later ones if there is a capacity."""
        if self.capacity is None:
            return compute()
        if key not in self._of_all_passes:
            self._of_all_passes[key] = compute()
        return self._of_all_passes[key]

    def attention_mask(self, window: int | None = None) -> tuple[Tensor | None, bool]:
        """The mask of causal attention."""
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

    def _mask(self, window: int | None) -> Tensor:
        keys = torch.arange(self.length, device=self._device)
        queries = keys[self.start :, None]
        mask = keys <= queries
        if window is not None:
            mask = mask & (keys > queries - window)
        return mask if self._padding is None else _without_padding(mask, self._padding, keys == queries)


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """What a decoder looks at besides its own tokens.

    Attributes:
        vectors: (B, S, D), one for each token of the source.
        padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.
    """

    vectors: Tensor
    padding_mask: Tensor | None = None

    @property
    def attention_mask(self) -> Tensor | None:
        """What a query of the decoder sees, bool, (B, 1, 1, S); None for everything."""
        return None if self.padding_mask is None else self.padding_mask[:, None, None, :]


def _without_padding(mask: Tensor, padding: Tensor, is_itself: Tensor) -> Tensor:
    """A mask, (S, T), that also leaves out what stands in for a token: (B, 1, S, T).

    What stands in sees itself, so that its row is not empty, which would give NaN.
    """
    return (mask & padding[:, None, None, :]) | is_itself


def _mask_fault(token_ids: Tensor, padding_mask: Tensor | None) -> str:
    if padding_mask is None or (padding_mask.shape == token_ids.shape and padding_mask.dtype == torch.bool):
        return ""
    shape = f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
    return f"the padding mask is {shape}, and must be torch.bool {tuple(token_ids.shape)}"
