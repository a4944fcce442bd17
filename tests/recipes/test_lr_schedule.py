"""Learning rates, against those of transformers."""

from __future__ import annotations

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from kinfold.recipes.optimizer import lr_schedule, make_optimizer


def sgd() -> Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(schedule: LRScheduler, count: int) -> list[float]:
    found = []
    for _ in range(count):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("shape", "peer"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_after_the_warm_up_it_falls_as_that_of_transformers(shape: str, peer: type) -> None:
    theirs = rates(peer(sgd(), num_warmup_steps=4, num_training_steps=20), 20)
    ours = rates(lr_schedule(sgd(), shape, warmup_steps=4, num_steps=20), 20)
    assert ours[4:] == pytest.approx(theirs[4:])
    assert ours[:4] == pytest.approx(theirs[1:5])  # theirs begins with a step that changes nothing


def test_it_stays_above_what_it_is_to_fall_to() -> None:
    ours = rates(lr_schedule(sgd(), "cosine", warmup_steps=0, num_steps=10, final_ratio=0.2), 12)
    assert ours[0] == 0.5
    assert ours[10:] == pytest.approx([0.1, 0.1])
    assert rates(lr_schedule(sgd(), "constant", warmup_steps=2, num_steps=9), 9) == [0.25, *[0.5] * 8]


def test_norms_and_biases_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    groups = make_optimizer(model, lr=1.0, weight_decay=0.1).param_groups
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert [decays[id(parameter)] for parameter in model.parameters()] == [0.1, 0.0, 0.0, 0.0]
