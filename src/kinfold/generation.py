"""Writing on from a prompt, one token at a time, with cached keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kinfold.errors import GenerationError
from kinfold.nn.state import DecodeState, EncoderOutput

Decoder = Callable[[Tensor, Tensor | None, DecodeState | None], Tensor]
"""What gives logits, (B, S, V), for `token_ids, padding_mask, state`: a decoder-only model, or `decoder_of` another."""


@runtime_checkable
class EncoderDecoder(Protocol):
    """A model that is given a source and a target."""

    def encode(self, source_ids: Tensor, padding_mask: Tensor | None = None) -> EncoderOutput:
        """What the decoder is to look at, for int64 (B, S)."""
        ...

    def decode(
        self,
        encoder_output: EncoderOutput,
        token_ids: Tensor,
        padding_mask: Tensor | None = None,
        state: DecodeState | None = None,
    ) -> Tensor:
        """The logits of the target, (B, T, V)."""
        ...


def decoder_of(model: EncoderDecoder, source_ids: Tensor, padding_mask: Tensor | None = None) -> Decoder:
    """The decoder of an encoder and decoder, looking at a source, for `generate` and `stream`.

    Args:
        model: The model.
        source_ids: int64, (B, S), one source for each sequence to be generated; shorter ones padded on either side.
        padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.
    """
    with torch.inference_mode():
        return partial(model.decode, model.encode(source_ids, padding_mask))


def generate(
    model: Decoder,
    token_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Sequence[int] = (),
    padding_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts.

    Args:
        model: A decoder-only model, or `decoder_of` an encoder and decoder.
        token_ids: The prompts, or what the targets begin with, int64, (B, S); shorter ones padded on the left.
        max_new_tokens: How many tokens to add at most.
        temperature: What logits are divided by before a token is sampled; 0 takes the likeliest.
        top_k: Sample among that many tokens (Fan et al. 2018).
        top_p: Sample among the fewest tokens whose probabilities add up to that (nucleus, Holtzman et al. 2020).
        stop_tokens: Tokens after which a sequence ends; the rest of its row repeats the one it ended with.
        padding_mask: bool, (B, S), True where there is a token; None if there is one everywhere.
        generator: What tokens are drawn with, for results that can be repeated.

    Returns:
        The prompts with their continuations, int64, (B, S + at most `max_new_tokens`).

    Raises:
        GenerationError: Lists everything that is wrong with the arguments.
    """
    new = stream(
        model,
        token_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=stop_tokens,
        padding_mask=padding_mask,
        generator=generator,
    )
    return torch.cat([token_ids, *(tokens[:, None] for tokens in new)], dim=1)


def stream(
    model: Decoder,
    token_ids: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_tokens: Sequence[int] = (),
    padding_mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Continue prompts, giving the tokens as they come: int64, (B,), one for each sequence.

    Arguments and errors are those of `generate`; the arguments are checked at once, not at the first token.
    """
    _check(token_ids, max_new_tokens, temperature, top_k, top_p, padding_mask)
    choose = _chooser(temperature, top_k, top_p, generator)
    return _stream(model, token_ids, max_new_tokens, choose, tuple(stop_tokens), padding_mask)


def _stream(
    model: Decoder,
    token_ids: Tensor,
    max_new_tokens: int,
    choose: Callable[[Tensor], Tensor],
    stop_tokens: tuple[int, ...],
    padding_mask: Tensor | None,
) -> Iterator[Tensor]:
    state = DecodeState(capacity=token_ids.shape[1] + max_new_tokens)
    stops = torch.tensor(stop_tokens, dtype=torch.int64, device=token_ids.device)
    stopped = torch.zeros_like(token_ids[:, 0], dtype=torch.bool)
    last = token_ids[:, -1]
    for _ in range(max_new_tokens):
        # Entered for each pass: a generator must not leave inference mode on in whoever asks it for tokens.
        with torch.inference_mode():
            logits = model(token_ids, padding_mask, state)[:, -1]
            chosen = torch.where(stopped, last, choose(logits))
        last = chosen.clone()
        yield last
        if stop_tokens:
            stopped = stopped | torch.isin(last, stops)
            if bool(stopped.all()):
                return
        token_ids, padding_mask = last[:, None], None


def _chooser(
    temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator | None
) -> Callable[[Tensor], Tensor]:
    """How a token is chosen from logits, (B, V) to (B,)."""
    if temperature == 0:
        return lambda logits: logits.argmax(-1)

    def sample(logits: Tensor) -> Tensor:
        logits = logits.float() / temperature
        if top_k is not None:
            kth = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if top_p is not None:
            logits = keep_nucleus(logits, top_p)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    return sample


def keep_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest logits, (B, V), whose probabilities first add up to `top_p`; the rest becomes -inf."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of the likelier tokens; the likeliest always stays
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def _check(
    token_ids: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    padding_mask: Tensor | None,
) -> None:
    faults = []
    if token_ids.dim() != 2 or token_ids.dtype != torch.int64 or 0 in token_ids.shape:
        faults.append(f"token_ids is {token_ids.dtype} {tuple(token_ids.shape)}: must be torch.int64 (batch, seq)")
    elif padding_mask is not None:
        if padding_mask.shape != token_ids.shape or padding_mask.dtype != torch.bool:
            shape = f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
            faults.append(f"padding_mask is {shape}: must be torch.bool {tuple(token_ids.shape)}")
        elif not bool(padding_mask[:, -1].all()):
            faults.append("padding_mask has padding on the right, where the continuation begins: pad on the left")
    if max_new_tokens < 0:
        faults.append(f"max_new_tokens = {max_new_tokens}: must be 0 or more")
    if not 0 <= temperature < float("inf"):
        faults.append(f"temperature = {temperature}: must be 0 (the likeliest token) or more")
    if top_k is not None and top_k < 1:
        faults.append(f"top_k = {top_k}: must be 1 or more")
    if top_p is not None and not 0 < top_p <= 1:
        faults.append(f"top_p = {top_p}: must be above 0 and at most 1")
    if temperature == 0 and (top_k is not None or top_p is not None):
        faults.append("top_k and top_p choose among tokens to sample: set a temperature above 0")
    if faults:
        raise GenerationError("The prompt cannot be continued:", faults=faults)
