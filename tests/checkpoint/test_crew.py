"""Ranks that write together; here they are threads, and what they share is in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from kinfold.checkpoint import Extent, Manifest, TensorInfo
from kinfold.checkpoint import shards as planning
from kinfold.checkpoint.crew import Crew, crew_of
from kinfold.checkpoint.shards import plan_shards
from kinfold.checkpoint.write import write_safetensors
from kinfold.errors import CheckpointError, RankError


class Numbers:
    """Tensors `t0`, `t1`, ... of float32, of some lengths; notes which are fetched."""

    def __init__(self, lengths: list[int]) -> None:
        self.fetched: list[str] = []
        self.manifest: Manifest = {
            f"t{number}": TensorInfo((length,), "float32", "float32") for number, length in enumerate(lengths)
        }

    def tensor(self, name: str) -> torch.Tensor:
        self.fetched.append(name)
        return torch.arange(self.manifest[name].shape[0]) + float(name[1:]) * 1000

    def extent(self, name: str) -> Extent | None:
        return None


def together(size: int, work: Callable[[Crew], Any]) -> list[Any]:
    """What the ranks of a crew give or raise, each in a thread."""
    store = HashStore()
    results: list[Any] = [None] * size

    def be_a_rank(rank: int) -> None:
        try:
            results[rank] = work(Crew(store, rank, size))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=be_a_rank, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 9), max_size=20),
    limit=st.integers(1, 120),
    part=st.integers(1, 60),
    size=st.integers(2, 5),
    kept=st.integers(0, 3),
)
def test_however_many_write_the_files_are_the_same_and_each_tensor_is_written_once(
    lengths: list[int], limit: int, part: int, size: int, kept: int
) -> None:
    source = Numbers(lengths)
    shards = plan_shards(source.manifest, limit)
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        alone, by_all = Path(name, "alone"), Path(name, "by all")
        write_safetensors(alone, shards, Numbers(lengths))
        patch.setattr(planning, "PART", part)
        by_all.mkdir()
        for shard in shards[:kept]:  # complete by an earlier run
            (by_all / shard.file).write_bytes((alone / shard.file).read_bytes())
        (by_all / f"{shards[-1].file}.partial").write_bytes(b"left by an earlier run" * 100)
        written: list[int] = []
        results = together(
            size, lambda crew: write_safetensors(by_all, shards, source, wrote=written.append, crew=crew)
        )
        assert results == [None] * size
        assert content(by_all) == content(alone)
    assert Counter(source.fetched) == Counter(name for shard in shards[kept:] for name in shard.manifest)
    assert sum(written) == sum(info.nbytes for info in source.manifest.values())


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 9), max_size=20), part=st.integers(1, 60), family=st.integers(1, 4))
def test_parts_are_one_after_the_other_and_neighbours_of_one_origin_stay_together(
    lengths: list[int], part: int, family: int
) -> None:
    (shard,) = plan_shards(Numbers(lengths).manifest, "1GB")

    def origins(name: str) -> list[str]:
        return [str(int(name[1:]) // family)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "PART", part)
        parts = shard.parts(origins)
    assert [name for each in parts for name in each.manifest] == list(shard.manifest)
    assert b"".join(each.header for each in parts) == shard.header
    ends = [each.start + len(each.header) + each.nbytes for each in parts]
    assert [each.start for each in parts] == [0, *ends[:-1]]
    assert ends[-1] == len(shard.header) + shard.nbytes
    of_origin = Counter(origin for each in parts for origin in {origins(name)[0] for name in each.manifest})
    assert set(of_origin.values()) <= {1}
    for each in parts:
        filled = 0
        for before, name in pairwise(each.manifest):
            filled += each.manifest[before].nbytes
            if filled and filled + each.manifest[name].nbytes > part:
                assert origins(name) == origins(before)


def test_what_rank_0_says_is_heard_by_all_and_counts_are_shared() -> None:
    made: list[int] = []

    def work(crew: Crew) -> tuple[Any, int, int]:
        said = crew.told("news", lambda: made.append(crew.rank) or {"a": [1, None]})
        first = crew.add("count", 2)
        crew.meet("here")
        return said, first, crew.add("count", 0)

    results = together(3, work)
    assert made == [0]
    assert [said for said, _, _ in results] == [{"a": [1, None]}] * 3
    assert sorted(first for _, first, _ in results) == [2, 4, 6]
    assert [last for _, _, last in results] == [6] * 3


def test_rank_0_sees_what_all_have_written() -> None:
    seen: list[tuple[int, int]] = []

    def work(crew: Crew) -> None:
        crew.expect(300, lambda done, total: seen.append((done, total)))
        crew.wrote(100)
        crew.meet("written")

    assert together(3, work) == [None] * 3
    assert seen == sorted(seen)
    assert seen[-1] == (300, 300)


@pytest.mark.parametrize("rank", [0, 2])
def test_what_fails_on_one_rank_fails_on_all_wherever_they_are(rank: int) -> None:
    def work(crew: Crew) -> None:
        if crew.rank == rank:
            crew.fail("no", ("a", "b"), "Say yes.", cause=ValueError("cause"))
        if crew.rank == 1:
            crew.told("news", lambda: None) if rank == 0 else crew.meet("here")
        while True:
            crew.add("count", 1)

    results = together(3, work)
    assert {str(error) for error in results} == {f"Rank {rank} has failed: no\n  - a\n  - b\nSay yes."}
    assert all(isinstance(error, RankError) for error in results)
    assert isinstance(results[rank].__cause__, ValueError)


def test_an_error_while_one_rank_writes_gives_no_file_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "PART", 8)
    source = Numbers([2] * 50)
    begun, at_work = threading.Barrier(2), set()

    def work(crew: Crew) -> None:
        def wrote(nbytes: int) -> None:
            if crew.rank not in at_work:  # so that each has something to write
                at_work.add(crew.rank)
                begun.wait()
            if crew.rank == 1:
                crew.fail("the disk is full", cause=OSError())

        write_safetensors(tmp_path, plan_shards(source.manifest, "1GB"), source, wrote=wrote, crew=crew)

    results = together(2, work)
    assert [str(error) for error in results] == ["Rank 1 has failed: the disk is full"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors.partial"]


def test_a_file_that_is_lost_meanwhile(tmp_path: Path) -> None:
    source = Numbers([3, 3])
    shards = plan_shards(source.manifest, 12)

    def lose(nbytes: int) -> None:
        (tmp_path / shards[0].file).unlink(missing_ok=True)

    write_safetensors(tmp_path, shards, source)
    (tmp_path / shards[1].file).unlink()
    with pytest.raises(CheckpointError, match="were complete, and are so no more") as error:
        write_safetensors(tmp_path, shards, source, wrote=lose)
    assert error.value.faults == (shards[0].file,)


def test_one_process_is_a_crew_of_one_whose_errors_are_its_own() -> None:
    def work() -> None:
        with crew_of(None) as crew:
            assert (crew.rank, crew.size) == (0, 1)
            crew.meet("here")
            raise CheckpointError("mine")

    with pytest.raises(CheckpointError, match=r"^mine$"):
        work()
