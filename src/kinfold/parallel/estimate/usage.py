"""What each part of a model keeps and needs while it computes, measured without values.

Formulas of what a layer keeps (Korthikanti et al. 2022, section 4) hold for the layer that they were made for. Here the
layers themselves compute, on torch's fake tensors, and what is live is counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.hooks import RemovableHandle

from kinfold.errors import ParallelError
from kinfold.generation import EncoderDecoder
from kinfold.nn import DecodeState
from kinfold.parallel.estimate.kernels import AsOnGpus, as_on_gpus
from kinfold.parallel.estimate.layout import Workload
from kinfold.parallel.estimate.live import Live
from kinfold.parallel.layers import checkpoint_activations
from kinfold.parallel.local import local
from kinfold.parallel.loss import cross_entropy

Stacks = Sequence[Sequence[nn.Module]]
"""The layers of a model, stack by stack, in the order that they compute in."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a model.

    Attributes:
        usages: Of each part, in order: what comes before a stack, and its layers, for each stack; then what comes last.
        output: The bytes of what the model gives, its logits.
        cast: The parameters that autocast has cast.
    """

    usages: Sequence[Usage]
    output: int
    cast: Sequence[nn.Parameter]


@dataclass(frozen=True, slots=True)
class Usage:
    """The bytes of a part of a model: of a layer, or of what comes before or after the layers.

    Attributes:
        kept: What is still there when the part has computed: for the backward pass, or for later tokens.
        forward: The most that it has at a time, forward, beyond what parts before it have kept.
        backward: Likewise, backward.
        given: The vectors that it is given.
    """

    kept: int
    forward: int
    backward: int
    given: int


def measure(model: nn.Module, stacks: Stacks, work: Workload, *, sequences: int, gathered: bool) -> Measured:
    """What the parts of a model use.

    Args:
        model: The model, on the meta device; it may be spread over ranks. It is fake afterwards.
        stacks: Its layers.
        work: What it computes.
        sequences: Of how many sequences at once.
        gathered: Whether weights are cast as FSDP gathers them, and with them what layers are given.

    Raises:
        ParallelError: Its layers do not compute one after the other, or what it does depends on values.
    """
    layers = [layer for stack in stacks for layer in stack]
    with ExitStack() as modes:
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        model.to_empty(device="cpu")
        model.train(work.trains)
        for parameter in model.parameters():  # gradients are counted with the weights
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        if work.kernels == "gpu":
            modes.enter_context(AsOnGpus())
            for layer in layers:  # the mode is off in the backward pass
                layer.forward = as_on_gpus(layer.forward)
        if work.activation_checkpointing and work.trains:
            checkpoint_activations(model)
        if work.autocasts and gathered:
            for layer in layers:
                layer.register_forward_pre_hook(partial(_cast_inputs, work.dtype), with_kwargs=True)
        _Run(model, stacks, work, sequences)()  # DTensor works shapes out on whole tensors, which it remembers
        return _Run(model, stacks, work, sequences)()


class _Run:
    """One pass, forward and backward."""

    def __init__(self, model: nn.Module, stacks: Stacks, work: Workload, sequences: int) -> None:
        self._model = model
        self._stacks = stacks
        self._work = work
        self._token_ids = torch.zeros(sequences, work.seq_len, dtype=torch.int64)
        weights = list(model.parameters())
        self._live = Live([*weights, *model.buffers(), self._token_ids], casts_of=weights if work.autocasts else ())
        self._starts = [0]
        self._forward_most: list[int] = []
        self._backward_most: list[int] = []
        self._given = [0]
        self._output = 0

    def __call__(self) -> Measured:
        hooks = [hook for stack in self._stacks for hook in self._hooks(stack)]
        try:
            with self._live, torch.set_grad_enabled(self._work.trains):
                with torch.autocast("cpu", self._work.dtype, enabled=self._work.autocasts):
                    end = self._forward()
                self._live.catch_up()
                self._close()
                self._backward_most = [0] * len(self._forward_most)
                if self._work.trains:
                    end.backward()
                    self._close_backward(0)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise ParallelError(
                f"What a {type(self._model).__name__} keeps cannot be estimated: it depends on values ({error.func})."
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if len(self._forward_most) != sum(len(stack) + 1 for stack in self._stacks) + 1:
            raise ParallelError(
                f"What a {type(self._model).__name__} keeps cannot be estimated: its layers are not called each once."
            )
        kept = [after - before for before, after in zip(self._starts, self._starts[1:], strict=False)]
        parts = zip(kept, self._forward_most, self._backward_most, self._given, strict=True)
        usages = [Usage(*values) for values in parts]
        cast = [parameter for parameter in self._model.parameters() if self._live.was_cast(parameter)]
        return Measured(usages, self._output, cast)

    def _forward(self) -> Tensor:
        """The loss, or the logits of decoding."""
        model, token_ids = self._model, self._token_ids
        if self._work.trains:
            inputs = (token_ids, token_ids) if isinstance(model, EncoderDecoder) else (token_ids,)
            return cross_entropy(self._noted(model(*inputs)), token_ids)
        state = DecodeState(self._work.seq_len)
        if isinstance(model, EncoderDecoder):
            return self._noted(model.decode(model.encode(token_ids), token_ids, None, state))
        takes_state = "state" in inspect.signature(model.forward).parameters
        return self._noted(model(token_ids, state=state) if takes_state else model(token_ids))

    def _noted(self, given: Any) -> Tensor:
        output = _first_tensor(given)
        self._output = local(output).untyped_storage().nbytes()
        return output

    def _hooks(self, stack: Sequence[nn.Module]) -> list[RemovableHandle]:
        """What tells parts from one another: where each layer of a stack begins, and where its last one ends."""
        before = [layer.register_forward_pre_hook(lambda _, given: self._begin(given)) for layer in stack]
        return [*before, stack[-1].register_forward_hook(lambda _, __, given: self._end_stack(given))]

    def _begin(self, given: Any) -> None:
        """A part begins with what it is given."""
        self._close()
        self._note(_first_tensor(given))

    def _end_stack(self, given: Any) -> None:
        """The last layer of a stack has given something; what it was given goes where nobody needs it any more."""
        vectors = _first_tensor(given)
        self._live.before_next = self._close
        self._note(vectors, after=1)

    def _note(self, vectors: Tensor, *, after: int = 0) -> None:
        """What the next part is given."""
        self._given.append(vectors.untyped_storage().nbytes())
        if vectors.requires_grad:
            part = len(self._forward_most) + after
            vectors.register_hook(lambda _: self._close_backward(part))

    def _close(self) -> None:
        """At the end of a part."""
        self._forward_most.append(self._live.lap() - self._starts[-1])
        self._starts.append(self._live.now)

    def _close_backward(self, part: int) -> None:
        """Where the gradients have passed a part; those before it have kept what they had."""
        most = self._live.lap() - self._starts[part]
        self._backward_most[part] = max(self._backward_most[part], most)


def _first_tensor(given: Any) -> Tensor:
    """What flows from layer to layer, among all that one is given or gives."""
    return next(leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))


def _cast_inputs(dtype: torch.dtype, _: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return tree_map_only(
        Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, (args, kwargs)
    )


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
