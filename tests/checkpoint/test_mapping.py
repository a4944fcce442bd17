"""Files mapped into memory."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from kinfold.checkpoint.mapping import map_privately


def test_what_is_written_to_a_mapping_does_not_reach_the_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(range(10)))
    mapping = map_privately(tmp_path / "x")
    assert mapping.dtype == torch.uint8
    assert mapping.tolist() == list(range(10))
    mapping[3:5] = 77
    assert mapping.tolist() == [0, 1, 2, 77, 77, 5, 6, 7, 8, 9]
    assert (tmp_path / "x").read_bytes() == bytes(range(10))


def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with (tmp_path / "x").open("wb") as file:  # holes take no place on the disk
        file.truncate(4 * memory)
        file.seek(3 * memory)
        file.write(b"here")
    mapping = map_privately(tmp_path / "x")
    assert len(mapping) == 4 * memory
    assert bytes(mapping[3 * memory : 3 * memory + 5].tolist()) == b"here\0"
