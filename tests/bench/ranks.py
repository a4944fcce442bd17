"""Loads a model over ranks, and prints how long the slowest of them took.

torchrun --standalone --nproc-per-node N tests/bench/ranks.py FAMILY [--copied], in a project.

python tests/bench/ranks.py FAMILY RANKS prints how many bytes of the checkpoint each of so many ranks reads.
"""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist
from measure import MARK

from kinfold import load_model
from kinfold.loader import find_card
from kinfold.parallel import pretended_gangs, setup_gangs
from kinfold.parallel.loading import bytes_to_read
from kinfold.scaffold.project import require_project


def time_of(family: str, *, mmap: bool) -> float:
    """Seconds of the slowest rank; imports, and what torch does once, are left out. Ranks share the cores."""
    ranks = int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    with setup_gangs(tp=ranks, device="cpu") as gangs:
        loader = load_model.get(family)
        assert loader.sharder is not None
        loader.sharder(loader.factory(loader.config_loader.archs.get(), device="meta"), None, gangs)
        gangs["world"].barrier()
        start = time.perf_counter()
        model = load_model(family, gangs=gangs, mmap=mmap)
        seconds = torch.tensor(time.perf_counter() - start)
        assert not next(model.parameters()).is_meta
        dist.all_reduce(seconds, dist.ReduceOp.MAX)
        return seconds.item()


def bytes_of(family: str, ranks: int) -> int:
    """The bytes that the first of so many ranks reads."""
    loader = load_model.get(family)
    assert loader.sharder is not None
    with (prepared := loader.prepare(find_card(family))).checkpoint as checkpoint, pretended_gangs(tp=ranks) as gangs:
        loader.sharder(prepared.model, prepared.config, gangs)
        return bytes_to_read(prepared.model, prepared.conversion.certificate.plan, checkpoint.manifest)


if __name__ == "__main__":
    require_project().activate()
    if "RANK" in os.environ:
        seconds = time_of(sys.argv[1], mmap="--copied" not in sys.argv)
        if os.environ["RANK"] == "0":
            print(MARK, seconds)
    else:
        print(bytes_of(sys.argv[1], int(sys.argv[2])))
