"""The optimizer, and how its learning rate goes up to the highest and down again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import cos, pi

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

SHAPES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + cos(pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "constant": lambda done: 1.0,
}
"""How a learning rate falls from 1 to 0 while the share of steps that are done rises from 0 to 1."""


def make_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> AdamW:
    """AdamW, by which matrices decay, and norms and biases do not."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    # Fused: one pass over the memory instead of one for each operation.
    return AdamW([group for group in groups if group["params"]], lr=lr, fused=True)


def lr_schedule(
    optimizer: Optimizer, shape: str, *, warmup_steps: int, num_steps: int, final_ratio: float = 0.0
) -> LambdaLR:
    """A schedule for `num_steps` steps.

    Args:
        optimizer: Its learning rate is the highest.
        shape: One of `SHAPES`.
        warmup_steps: It rises in as many equal steps; the first one is not zero.
        num_steps: After as many steps it would be at its lowest.
        final_ratio: The lowest, as a share of the highest.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min((step - warmup_steps) / max(num_steps - warmup_steps, 1), 1.0)
        return final_ratio + (1 - final_ratio) * SHAPES[shape](done)

    return LambdaLR(optimizer, factor)
