"""Whether the parts that ranks have of a family make up the whole: at its own sizes, and at larger ones.

    python tests/zoo/sharding.py FOLDER PACKAGE.FAMILY

is for the default arch of a family in a project's folder, and prints by the number of ranks what cannot be divided, or
what is wrong, as JSON. The ranks are pretended (`kinfold.parallel.joined_shards`).
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from kinfold.errors import ParallelError
from kinfold.parallel import joined_shards

RANKS = (2, 4, 8)
HEADS = ("num_heads", "num_encoder_heads", "num_decoder_heads")
DIVIDED = (*HEADS, "num_kv_heads", "model_dim", "ffn_inner_dim")
"""The fields of configs that say how many heads there are, and how wide what is divided is."""

INDIVISIBLE = re.compile(r": (\d+) [a-z ]+ cannot be divided among (\d+) ranks; [\d, .]+ would do$")


@dataclasses.dataclass(slots=True)
class Sharding:
    """What came of spreading a model over ranks.

    Attributes:
        indivisible: By the number of ranks, the faults that say what cannot be divided among them; none where what
            they have makes up the whole.
        wrong: What is neither: weights that are lost or changed, heads that are cut, errors that name no such number,
            and all errors at sizes that can be divided.
    """

    indivisible: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)


def shard_family(
    create: Callable[[Any], nn.Module], config: Any, sharder: Callable[..., None], numbers: Sequence[int] = RANKS
) -> Sharding:
    """Spread a model over ranks, and another one that is so many times as wide that it can be divided among them.

    Args:
        create: Makes a model of a config.
        config: The config.
        sharder: Spreads it: `sharder(model, config, gangs)`.
        numbers: How many ranks there are; each divides the last.
    """
    found = Sharding()
    wide = dataclasses.replace(config, **{name: numbers[-1] * size for name, size in _fields(config, DIVIDED)})
    for sizes, kind in ((config, "own sizes"), (wide, "wider")):
        torch.manual_seed(0)
        model = create(sizes)
        for ranks in numbers:
            indivisible, wrong = _spread(model, sizes, sharder, ranks)
            if sizes is config:
                found.indivisible[str(ranks)] = indivisible
            else:
                wrong += indivisible
            found.wrong += [f"tp={ranks}, {kind}: {fault}" for fault in wrong]
    return found


def _fields(config: Any, names: Iterable[str]) -> list[tuple[str, int]]:
    """Those of a config's fields that have one of these names, with their values."""
    return [(name, getattr(config, name)) for name in names if hasattr(config, name)]


def _spread(model: nn.Module, config: Any, sharder: Callable[..., None], ranks: int) -> tuple[list[str], list[str]]:
    """What cannot be divided among so many ranks, and what is wrong."""
    try:
        joined = joined_shards(model, lambda model, gangs: sharder(model, config, gangs), tp=ranks)
    except ParallelError as error:
        faults = list(error.faults)
        if faults and all(_names_a_number(fault, ranks) for fault in faults):
            return faults, []
        return [], [error.summary, *faults]
    cut = [f"{name} = {number}, and no error" for name, number in _fields(config, HEADS) if number % ranks]
    return [], [*cut, *_differences(dict(model.named_parameters()), joined)]


def _names_a_number(fault: str, ranks: int) -> bool:
    """Whether a fault is that of a number that these ranks do not divide."""
    found = INDIVISIBLE.search(fault)
    return bool(found) and int(found[2]) == ranks and int(found[1]) % ranks != 0


def _differences(whole: dict[str, nn.Parameter], joined: dict[str, torch.Tensor]) -> Iterator[str]:
    for name in sorted(whole.keys() | joined.keys()):
        if name not in whole or name not in joined:
            yield f"{name} is {'lost' if name in whole else 'new'}"
        elif not torch.equal(whole[name], joined[name]):
            yield f"{name} is another"


def main(folder: str, module: str) -> None:
    """Print what comes of a family in a folder."""
    sys.path.insert(0, folder)
    torch.set_num_threads(1)
    family, name = import_module(module), module.rpartition(".")[2]
    create, sharder, archs = (getattr(family, pattern.format(name)) for pattern in _NAMES)
    print(json.dumps(dataclasses.asdict(shard_family(create, archs.get(), sharder))))


_NAMES = ("create_{}_model", "shard_{}_model", "{}_archs")

if __name__ == "__main__":
    main(*sys.argv[1:])
