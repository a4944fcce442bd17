"""Parts of parameters, as the ranks of a gang load them: equal to slices of the whole, and nothing else is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_maps import maps_with_tensors
from safetensors.torch import save_file
from torch import Tensor

from kinfold.checkpoint import open_checkpoint
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.errors import KeyMapError
from kinfold.keymap import KeyMap, Plan, certify, chain, concat, pad, permute_rotary, rename, split, stack, transpose
from kinfold.keymap.ops import Index, Shape, TensorSource, whole
from kinfold.keymap.plan import OpenSource, sources_in


@dataclass
class Recorded:
    """Sources that note what is read of them."""

    open_source: OpenSource
    read: list[tuple[str, Index]] = field(default_factory=list)

    def __call__(self, name: str) -> RecordedSource:
        return RecordedSource(name, self)

    @property
    def numel(self) -> int:
        return sum(prod(map(len, index)) for _, index in self.read)


@dataclass
class RecordedSource:
    name: str
    of: Recorded

    @property
    def shape(self) -> Shape:
        return self.of.open_source(self.name).shape

    def read(self, index: Index) -> Tensor:
        self.of.read.append((self.name, index))
        return self.of.open_source(self.name).read(index)


def alike(a: list[tuple[str, Index]], b: list[tuple[str, Index]]) -> bool:
    return [(name, [list(p) for p in index]) for name, index in a] == [(n, [list(p) for p in i]) for n, i in b]


@given(maps_with_tensors(), st.data())
@settings(deadline=None)
def test_a_part_of_a_parameter_is_what_the_whole_has_there(
    case: tuple[KeyMap, dict[str, Tensor]], data: st.DataObject
) -> None:
    key_map, tensors = case
    source, bound = state_dict_manifest(tensors), key_map.bind()
    plan = certify(bound, source, bound.target_manifest(source)).plan
    native = dict(plan.load(tensors.__getitem__))
    target = data.draw(st.sampled_from(sorted(native)))
    shape = tuple(native[target].shape)
    index = tuple(
        data.draw(st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda ends: range(min(ends), max(ends))))
        for size in shape
    )
    recorded = Recorded(lambda name: TensorSource(tensors[name]))
    part = plan.read(target, index, recorded)
    assert torch.equal(part, TensorSource(native[target]).read(index))
    assert {name for name, _ in recorded.read} <= set(plan.sources_of(target))
    assert alike(recorded.read, plan.parts_of(target, index, source))
    if "unpad(" not in repr(key_map.rules):  # which looks at what it takes away
        assert recorded.numel <= part.numel()


CONFIG = SimpleNamespace(
    num_heads=8, num_kv_heads=4, q_dim=32, kv_dim=16, ffn_dim=24, model_dim=12, vocab=30, padded=32
)
RULES = [
    pad("embed", "embed", size="vocab", padded="padded"),
    permute_rotary("{layer}.wq", "l.{layer}.q", heads="num_heads"),
    permute_rotary("{layer}.wk", "l.{layer}.k", heads="num_kv_heads", rotary_dim=2),
    split(
        "{layer}.qkv",
        into=("x.{layer}.q", "x.{layer}.k", "x.{layer}.v"),
        sizes=("q_dim", "kv_dim", "kv_dim"),
        groups="num_kv_heads",
    ),
    rename("{layer}.wo", "l.{layer}.o"),
    transpose("{layer}.conv", "l.{layer}.conv"),
    concat(("{layer}.w1", "{layer}.w3"), into="l.{layer}.gate_up", sizes=("ffn_dim", "ffn_dim")),
    chain(
        transpose("{layer}.e.{e}.up", "t.{layer}.{e}"),
        stack("t.{layer}.{e}", "l.{layer}.experts", over="e"),
    ),
]
SHAPES = {
    **{"wq": (32, 12), "wk": (16, 12), "qkv": (64, 12), "wo": (12, 32), "conv": (12, 32)},
    **{"w1": (24, 12), "w3": (24, 12), **{f"e.{e}.up": (12, 24) for e in range(8)}},
}


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {"embed": torch.randn(30, 12)} | {f"0.{name}": torch.randn(shape) for name, shape in SHAPES.items()}


def planned(tensors: dict[str, Tensor]) -> Plan:
    bound, source = KeyMap(*RULES).bind(CONFIG), state_dict_manifest(tensors)
    certificate = certify(bound, source, bound.target_manifest(source))
    assert certificate.faults == ()
    return certificate.plan


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    ("target", "dim"),
    [
        ("embed", 0),  # of a padded vocabulary
        ("l.0.q", 0),  # by heads, which are permuted within
        ("l.0.k", 0),
        *[(f"x.0.{name}", 0) for name in "qkv"],  # by columns of the product, out of a grouped fused projection
        ("l.0.o", 1),  # by rows of the product
        ("l.0.conv", 0),
        ("l.0.conv", 1),
        ("l.0.experts", 0),  # by experts
        ("l.0.experts", 1),
    ],
)
def test_ranks_read_their_own_slices_of_a_checkpoint_and_nothing_else(
    tensors: dict[str, Tensor], tmp_path: Path, target: str, dim: int, ranks: int
) -> None:
    plan = planned(tensors)
    whole_parameter = dict(plan.load(tensors.__getitem__))[target]
    save_file(tensors, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        parts, read = [], 0
        for rank in range(ranks):
            size = whole_parameter.shape[dim] // ranks
            index = list(whole(tuple(whole_parameter.shape)))
            index[dim] = range(rank * size, (rank + 1) * size)
            recorded = Recorded(sources_in(checkpoint))
            parts.append(plan.read(target, tuple(index), recorded))
            assert recorded.numel <= parts[-1].numel()
            assert alike(recorded.read, plan.parts_of(target, tuple(index), checkpoint.manifest))
            read += recorded.numel
        assert torch.equal(torch.cat(parts, dim), whole_parameter)
        assert read == whole_parameter.numel() - (24 if target == "embed" else 0)  # two rows are not in the file


def test_a_rank_with_half_of_the_gates_and_half_of_the_ups(tensors: dict[str, Tensor]) -> None:
    plan = planned(tensors)
    rows = torch.cat([torch.arange(12, 24), torch.arange(36, 48)])  # no range: the second half of each
    recorded = Recorded(lambda name: TensorSource(tensors[name]))
    part = plan.read("l.0.gate_up", (rows, range(12)), recorded)
    assert torch.equal(part, torch.cat([tensors["0.w1"][12:], tensors["0.w3"][12:]]))
    assert recorded.read == [("0.w1", (range(12, 24), range(12))), ("0.w3", (range(12, 24), range(12)))]


def test_of_a_stack_only_a_ranks_experts_are_opened(tensors: dict[str, Tensor]) -> None:
    plan = planned(tensors)
    index = (range(6, 8), range(24), range(12))
    parts = plan.parts_of("l.0.experts", index, state_dict_manifest(tensors))
    assert parts == [(f"0.e.{e}.up", (range(12), range(24))) for e in (6, 7)]
    assert plan.sources_of("l.0.experts") == tuple(f"0.e.{e}.up" for e in range(8))


def test_of_a_mapped_file_only_the_pages_of_a_part_are_read(tmp_path: Path) -> None:
    heads, rows, columns, ranks = 32, 4096, 4096, 16
    file = tmp_path / "model.safetensors"
    save_file({"wq": torch.ones(rows, columns)}, file)  # 64 MiB
    with open_checkpoint(file) as checkpoint:
        bound = KeyMap(permute_rotary("wq", "q", heads=heads)).bind()
        plan = certify(bound, checkpoint.manifest, bound.target_manifest(checkpoint.manifest)).plan
        own = range(3 * rows // ranks, 4 * rows // ranks)
        part = plan.read("q", (own, range(columns)), sources_in(checkpoint))
        assert part.shape == (rows // ranks, columns)
        assert 0 < resident(file) <= 4 * part.nbytes  # the system may map two MiB at once
        plan.read("q", (range(rows), range(columns)), sources_in(checkpoint))
        assert resident(file) >= rows * columns * 4


def resident(file: Path) -> int:
    """The bytes of a mapped file that this process has touched."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            ours = line.endswith(str(file))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.parametrize(
    ("target", "index", "said"),
    [
        ("l.0.p", (range(1),), "The plan fills no 'l.0.p'"),
        ("l.0.q", (range(4),), "l.0.q has the shape (32, 12); a part of it needs 2 positions, not 1"),
        ("l.0.q", (range(30, 33), range(12)), "range(30, 33) are no positions from 0 to 31 of dimension 0"),
        ("l.0.q", (range(-1, 3), range(12)), "range(-1, 3) are no positions from 0 to 31 of dimension 0"),
        ("l.0.q", (range(0, 8, 2), range(12)), "range(0, 8, 2) are no positions"),
        ("l.0.q", (range(4), torch.tensor([3, 12])), "tensor([ 3, 12]) are no positions from 0 to 11 of dimension 1"),
        ("l.0.q", (torch.tensor([-1]), range(12)), "tensor([-1]) are no positions from 0 to 31 of dimension 0"),
    ],
)
def test_what_is_no_part_is_refused(tensors: dict[str, Tensor], target: str, index: Index, said: str) -> None:
    with pytest.raises(KeyMapError) as error:
        planned(tensors).read(target, index, lambda name: TensorSource(tensors[name]))
    assert said in str(error.value)


def test_a_rank_may_have_nothing(tensors: dict[str, Tensor]) -> None:
    part = planned(tensors).read("l.0.q", (range(32, 32), range(12)), lambda name: TensorSource(tensors[name]))
    assert part.shape == (0, 12)
