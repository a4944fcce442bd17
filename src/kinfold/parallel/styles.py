"""What the styles of a shard plan do to a module: torch's `ParallelStyle`s, on DTensor.

Between blocks vectors are plain tensors, the same on every rank. A block takes them in once for all that it has inside,
computes with this rank's part of each weight, and sums once what comes out (Shoeybi et al. 2019, section 3); with
sequence parallel vectors between blocks are spread along the sequence (Korthikanti et al. 2022, section 4.2.2). Weights
are DTensors, so that what saves, loads, optimises or shards further knows which part a rank has; while a module
computes it sees its local part of them.
"""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed import get_backend
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle

from kinfold.errors import ParallelError

SEQUENCE = 1
"""The dimension of vectors, (B, S, D), that sequence parallel spreads."""

_HIDDEN = "_kinfold_spread"

LOGITS = "_kinfold_logits"
"""What a module of the vocabulary has, and with it whether the logits that it gives are "whole" or "spread"."""


class SpreadStyle(ParallelStyle):
    """Spreads the weights that a module has itself; while it computes they are this rank's part.

    Args:
        weights: How weights are spread.
        gradients: How those of its local part add up: the same on every rank, or to be summed.
    """

    def __init__(self, weights: Placement, gradients: Placement) -> None:
        self.weights = weights
        self.gradients = gradients

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            spread_parameter(module, name, parameter, device_mesh, self.placement(module, name))
        module.register_forward_pre_hook(lambda module, args: self._enter(module, args, device_mesh), prepend=True)
        module.register_forward_hook(lambda module, _, out: self._leave(module, out, device_mesh), always_call=True)
        return module

    def placement(self, module: nn.Module, name: str) -> Placement:
        """How one weight is spread."""
        return self.weights

    def enter(self, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        """What the module is called with."""
        return args

    def leave(self, out: Any, module: nn.Module, mesh: DeviceMesh) -> Any:
        """What it gives."""
        return out

    def _enter(self, module: nn.Module, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        args = self.enter(args, mesh)
        weights = {name: weight for name, weight in module._parameters.items() if isinstance(weight, DTensor)}
        for name, weight in weights.items():
            module._parameters[name] = self._local(weight)  # pyright: ignore[reportArgumentType]
        setattr(module, _HIDDEN, weights)
        return args

    def _leave(self, module: nn.Module, out: Any, mesh: DeviceMesh) -> Any:
        module._parameters.update(module.__dict__.pop(_HIDDEN, {}))
        return out if out is None else self.leave(out, module, mesh)

    def _local(self, weight: DTensor) -> Tensor:
        whole = weight.placements[0].is_replicate()
        return weight.to_local(grad_placements=[self.gradients if whole else weight.placements[0]])


class Whole(SpreadStyle):
    """Every rank has all weights; their gradients are the same on all, or of its part of what is computed."""

    def __init__(self, *, summed: bool) -> None:
        super().__init__(Replicate(), Partial() if summed else Replicate())


class Block(Whole):
    """Takes vectors in for all that is inside: what comes back to them from the ranks is summed."""

    def __init__(self, *, sequence: bool) -> None:
        super().__init__(summed=True)
        self.given = Shard(SEQUENCE) if sequence else Replicate()

    def enter(self, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        return tuple(self._taken(value, mesh) for value in args)

    def _taken(self, value: Any, mesh: DeviceMesh) -> Any:
        if isinstance(value, Tensor):
            return _gathered(value, self.given, mesh)
        if is_dataclass(value) and isinstance(vectors := getattr(value, "vectors", None), Tensor):
            return replace(value, vectors=_gathered(vectors, self.given, mesh))  # pyright: ignore[reportArgumentType]
        return value


class Column(SpreadStyle):
    """Weights are spread by their first dimension, and the module gives the columns of this rank."""

    def __init__(self) -> None:
        super().__init__(Shard(0), Shard(0))

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if callable(take_part := getattr(module, "take_part", None)):  # it has heads, and no weights
            take_part(device_mesh.get_local_rank(), device_mesh.size())
        return super()._apply(module, device_mesh)


class Picked(Whole):
    """Every rank has all weights, and of the heads that come out the one that its queries share.

    For fewer key and value heads than ranks.

    Args:
        heads: How many there are.
    """

    def __init__(self, heads: int) -> None:
        super().__init__(summed=True)
        self.heads = heads

    def leave(self, out: Tensor, module: nn.Module, mesh: DeviceMesh) -> Tensor:
        return out.chunk(self.heads, dim=-1)[mesh.get_local_rank() * self.heads // mesh.size()]


class Halves(Column):
    """A column of which each rank gets its part of either half."""

    def leave(self, out: Tensor, module: nn.Module, mesh: DeviceMesh) -> Tensor:
        halves = _gathered(out, Shard(-1), mesh).unflatten(-1, (2, -1))
        return halves.chunk(mesh.size(), dim=-1)[mesh.get_local_rank()].flatten(-2)


class Gathered(SpreadStyle):
    """Takes the columns of all ranks, and gives this rank's.

    A projection computes just these; a norm computes all, of which this rank's are kept.
    """

    def __init__(self) -> None:
        super().__init__(Replicate(), Partial())

    def placement(self, module: nn.Module, name: str) -> Placement:
        return Shard(0) if isinstance(module, nn.Linear) else Replicate()

    def enter(self, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        return (_gathered(args[0], Shard(-1), mesh), *args[1:])

    def leave(self, out: Tensor, module: nn.Module, mesh: DeviceMesh) -> Tensor:
        if isinstance(module, nn.Linear):
            return out
        return out.chunk(mesh.size(), dim=-1)[mesh.get_local_rank()]


class Row(SpreadStyle):
    """Weights are spread by columns; what comes out is summed over the ranks, and then the bias is added."""

    def __init__(self, *, sequence: bool) -> None:
        super().__init__(Shard(1), Partial() if sequence else Replicate())
        self.given = Shard(SEQUENCE) if sequence else Replicate()

    def placement(self, module: nn.Module, name: str) -> Placement:
        return Shard(1) if name == "weight" else Replicate()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], mesh: DeviceMesh) -> tuple[Any, ...]:
        args = super()._enter(module, args, mesh)
        module._parameters["bias"] = None
        return args

    def leave(self, out: Tensor, module: nn.Module, mesh: DeviceMesh) -> Tensor:
        summed = DTensor.from_local(out, mesh, [Partial()], run_check=False).redistribute(placements=[self.given])
        bias = module._parameters["bias"]
        return summed.to_local() if bias is None else summed.to_local() + self._local(bias)  # pyright: ignore


class Scatter(ParallelStyle):
    """What a module gives is cut along the sequence."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def leave(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
            length, ranks = out.shape[SEQUENCE], device_mesh.size()
            if length % ranks:
                raise ParallelError(
                    f"A sequence of {length} tokens cannot be divided among {ranks} ranks (sequence parallel).",
                    hint=f"Pad it to {-(-length // ranks) * ranks} tokens.",
                )
            whole = DTensor.from_local(out, device_mesh, [Replicate()], run_check=False)
            return whole.redistribute(placements=[Shard(SEQUENCE)]).to_local()

        module.register_forward_hook(leave)
        return module


class Vocabulary(ParallelStyle):
    """An embedding, or the projection to logits, with its weights spread by tokens, or by dimensions.

    Args:
        sequence: Whether vectors that come in are spread along the sequence.
        by: Whether weights are spread by "tokens" or by "dims".
    """

    def __init__(self, *, sequence: bool, by: Literal["tokens", "dims"] = "tokens") -> None:
        self.given = Shard(SEQUENCE) if sequence else Replicate()
        self.by = by

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            by_dims = self.by == "dims" and parameter.dim() > 1
            spread_parameter(module, name, parameter, device_mesh, Shard(1) if by_dims else Shard(0))

        def enter(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            given = self.given if args[0].is_floating_point() else Replicate()  # tokens are whole on every rank
            taken = DTensor.from_local(args[0], device_mesh, [given], run_check=False)
            return (taken.redistribute(placements=[Replicate()]), *args[1:])

        def leave(module: nn.Module, args: tuple[Any, ...], out: DTensor) -> Tensor:
            if args[0].is_floating_point() and getattr(module, LOGITS) == "spread":
                return out.redistribute(placements=[Shard(out.dim() - 1)])
            return out.redistribute(placements=[Replicate()]).to_local()

        setattr(module, LOGITS, "whole")
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
        return module


class Expert(ParallelStyle):
    """Weights are spread by the experts, their first dimension; which tokens go where is for the module to say."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        for name, parameter in list(module.named_parameters(recurse=False)):
            spread_parameter(module, name, parameter, device_mesh, Shard(0))
        return module


def spread_parameter(
    module: nn.Module, name: str, parameter: nn.Parameter, mesh: DeviceMesh, placement: Placement
) -> None:
    """Make a parameter a DTensor; one with values is as it is on the first rank."""
    if isinstance(parameter, DTensor):
        return
    silent = parameter.is_meta or get_backend(mesh.get_group()) == "fake"  # pretended ranks have it already
    spread = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None if silent else 0)
    module.register_parameter(name, nn.Parameter(spread, requires_grad=parameter.requires_grad))


def reduce_gradients(model: nn.Module) -> None:
    """Have the gradients of all weights come out as the weights lie: what ranks have a share in each is summed.

    Called again where weights have been replaced.
    """
    for parameter in model.parameters():
        if isinstance(parameter, DTensor) and not getattr(parameter, _HIDDEN, False):
            setattr(parameter, _HIDDEN, True)
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, to=parameter.placements: _placed(gradient, to))


def placed_gradient(parameter: nn.Parameter) -> Tensor | None:
    """The gradient of a weight, which lies as the weight does.

    The hooks of `reduce_gradients` see to that, but torch loses them where it swaps weights, as `Module.to` does.
    """
    if isinstance(parameter, DTensor) and parameter.grad is not None:
        parameter.grad = _placed(parameter.grad, parameter.placements)
    return parameter.grad


def _placed(gradient: Tensor, placements: tuple[Placement, ...]) -> Tensor:
    if isinstance(gradient, DTensor) and gradient.placements != placements:
        return gradient.redistribute(placements=placements)
    return gradient


def _gathered(x: Tensor, given: Placement, mesh: DeviceMesh) -> Tensor:
    """All of what ranks have; the gradients that come back from them are summed."""
    spread = DTensor.from_local(x, mesh, [given], run_check=False)
    return spread.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
