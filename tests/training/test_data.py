"""Reading batches: the order, and the place in it."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch

from kinfold.errors import TrainingError
from kinfold.parallel import Gang
from kinfold.training import BatchReader
from kinfold.training.data import Uncounted


class Numbers:
    """A dataset that remembers what was read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return index


def reader(size: int = 10, batch_size: int = 3, **options: Any) -> BatchReader[list[int]]:
    dataset: Any = Numbers(size)
    return BatchReader(dataset, batch_size, list, **options)


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own() -> None:
    numbers = reader()
    first, second = list(numbers), list(numbers)
    assert [len(batch) for batch in first] == [3, 3, 3, 1]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second != list(reader(shuffle=False))
    assert len(numbers) == 4


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(reader(seed=7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert list(reader(seed=7)) == first != list(reader(seed=8))


def test_the_epochs_of_one_seed_are_not_those_of_the_next() -> None:
    one, other = reader(seed=1), reader(seed=2)
    assert not [epoch for epoch in (list(one) for _ in range(5)) if epoch in [list(other) for _ in range(5)]]


def test_without_shuffling_the_order_is_that_of_the_dataset() -> None:
    assert list(reader(shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    dropping = reader(shuffle=False, drop_last=True)
    assert list(dropping) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert len(dropping) == 3


@pytest.mark.parametrize("taken", range(10))
def test_reading_goes_on_at_any_place_without_reading_again_what_was_read(taken: int) -> None:
    numbers = reader()
    straight = [batch for _ in range(4) for batch in numbers]
    broken_off = reader()
    first: list[list[int]] = []
    while len(first) < taken:
        for batch in broken_off:
            first.append(batch)
            if len(first) == taken:
                break
    resumed = reader()
    resumed.load_state_dict(broken_off.state_dict())
    rest = list(resumed)
    assert first + rest == straight[: len(first) + len(rest)]
    dataset: Any = resumed._dataset
    assert dataset.read == list(chain(*rest))
    assert list(resumed) == straight[len(first) + len(rest) :][:4]


def test_workers_give_the_same_batches() -> None:
    assert list(reader(num_workers=1)) == list(reader())


def test_a_place_in_another_order_is_refused() -> None:
    with pytest.raises(TrainingError) as caught:
        reader(size=11, seed=3).load_state_dict(reader().state_dict())
    assert caught.value.faults == ("samples was 10, and is 11", "seed was 2, and is 3")


def test_every_fault_of_the_arguments_is_named() -> None:
    with pytest.raises(TrainingError) as caught:
        reader(size=0, batch_size=0)
    assert len(caught.value.faults) == 2
    with pytest.raises(TrainingError, match="drop_last leaves nothing: 2 samples are less than one batch of 3"):
        reader(size=2, drop_last=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_each_batch_and_their_place_is_that_of_one(num_workers: int) -> None:
    whole = reader(batch_size=4)
    shared = [reader(batch_size=4, gang=Gang("dp", rank, 3), num_workers=num_workers) for rank in range(3)]
    for _ in range(2):
        batches = list(whole)
        shares = [list(numbers) for numbers in shared]
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert [len(own) for own in shares] == [3, 3, 3]
        *ends, uncounted = [own[-1] for own in shares]
        assert ends == [[number] for number in batches[-1]]
        assert uncounted == Uncounted(batches[-1][:1])
        for batch, *parts in zip(batches[:-1], *shares, strict=False):
            assert sorted(chain(*parts)) == sorted(batch)
        assert {str(numbers.state_dict()) for numbers in shared} == {str(whole.state_dict())}
    resumed = reader(batch_size=4, gang=Gang("dp", 1, 2))
    resumed.load_state_dict(shared[2].state_dict())
    assert [len(own) for own in resumed] == [2, 2, 1]
