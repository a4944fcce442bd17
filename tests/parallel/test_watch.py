"""A rank that does not go on is an error on every other rank, in time, which names it."""

from __future__ import annotations

import pytest
import ranks_watch
from launching import launch

SAID = {
    "killed": "rank 1 has died or is stopped; the last that was heard of it was at step 3",
    "stopped": "rank 1 has died or is stopped; the last that was heard of it was at step 3",
    "hanging": "rank 1 hangs at step 3, in ranks_watch.py:",
    "failing": "rank 1 has failed: ValueError: sample 7 is no text",
}
TIMEOUT = 12.0
MANY_TIMES = 10
"""An error that comes in time comes in seconds, and otherwise in half an hour: a busy machine is no reason to fail."""


@pytest.mark.parametrize("how", SAID)
def test_the_others_name_the_rank(how: str) -> None:
    results = launch(ranks_watch.go_wrong, 3, how, TIMEOUT, fails=True, lost=[1])
    for rank in (0, 2):
        seconds, error = results[rank]
        assert error.startswith(f"Rank {rank} cannot go on at step 3: another rank of 3 does not answer.")
        assert SAID[how] in error
        assert "rank 0" not in error
        assert "rank 2" not in error
        assert seconds < MANY_TIMES * TIMEOUT


def test_who_fails_raises_its_own_error() -> None:
    own = launch(ranks_watch.go_wrong, 2, "failing", TIMEOUT, fails=True)[1]
    assert isinstance(own, ValueError)
    assert str(own) == "sample 7 is no text"
