"""Writing what ranks have: the bytes that one process writes, complete or not at all, and no rank has all of it."""

from __future__ import annotations

from pathlib import Path

import fused
import pytest
import ranks_export as ranks
import torch
from launching import launch
from ranks_loading import Case, loader_of
from small import FUSED

from kinfold import convert_checkpoint, load_model
from kinfold.errors import CheckpointError, ParallelError, TrainingError
from kinfold.parallel import pretended_gangs
from kinfold.parallel.stages import keep_stage

LAYOUTS = {"llama": "hf", "tied": "reference", "fused": "fused", "nllb": "hf"}
"""What each model is written in; `reference` repeats tied embeddings, `fused` has one tensor of all layers."""


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["llama", "tied", "nllb"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_one_process_writes_what_a_conversion_does(
    cases: dict[str, Case], tmp_path: Path, name: str, dtype: torch.dtype | None
) -> None:
    case, seen = cases[name], []
    model = loader_of(case)(case[0])
    for layout in ("native", LAYOUTS[name]):
        convert_checkpoint(
            case[0], tmp_path / f"converted-{layout}", to=layout, dtype=dtype, max_shard_size=ranks.MAX_SHARD_SIZE
        )
        ranks.save(
            case, tmp_path / layout, None, model, layout=layout, dtype=dtype, progress=lambda *both: seen.append(both)
        )
        assert content(tmp_path / layout) == content(tmp_path / f"converted-{layout}")
        assert seen[-1][0] == seen[-1][1]


@pytest.fixture
def llama_in_layout_of_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    converter = load_model.get("llama").checkpoint_converter
    monkeypatch.setattr(converter, "key_maps", converter.key_maps)  # put back afterwards
    ranks.use_key_map_of(FUSED)


def test_ranks_write_what_one_process_does(
    cases: dict[str, Case], tmp_path: Path, llama_in_layout_of_fused: None
) -> None:
    sizes = [{"tp": 4}, {"tp": 2, "dp": 2}, {"tp": 2, "pp": 2}]
    written = launch(ranks.saved, 4, cases, LAYOUTS, sizes, tmp_path)
    for name, case in cases.items():
        ranks.save(case, tmp_path / name, None, loader_of(case)(case[0]), layout=LAYOUTS[name])
        expected = content(tmp_path / name)
        assert len(expected) > 4
        for folder in tmp_path.glob(f"{name}-*"):
            assert content(folder) == expected
    assert len(list(tmp_path.glob("*-[0-9]"))) == 11
    for by_rank in zip(*written, strict=True):
        assert all(by_rank)
        assert sum(map(len, by_rank)) == len(set.union(*by_rank))  # a file is written by one


def test_what_fails_on_one_rank_leaves_nothing(cases: dict[str, Case], tmp_path: Path) -> None:
    first, second = launch(ranks.outcomes_of_errors, 2, cases["llama"], tmp_path)
    assert {kind: (first[kind][0], second[kind][0]) for kind in first} == {
        "full": ("RankError", "CheckpointError"),
        "there": ("CheckpointError", "RankError"),
        "elsewhere": ("RankError", "CheckpointError"),
        "layout": ("KeyMapError", "KeyMapError"),
        "nan": ("TrainingError", "RankError"),
    }
    assert "rank 1: OSError: [Errno 28] No space left on device" in first["full"][1]
    assert "All ranks have to see the same folder" in second["elsewhere"][1]
    assert "Did you mean 'hf'?" in first["layout"][1]
    assert "lm_head.weight has values that are no numbers" in first["nan"][1]
    assert {path.name for path in tmp_path.iterdir()} == {"there", "here"}
    assert not list((tmp_path / "there").iterdir())
    assert not list((tmp_path / "here").iterdir())


def test_what_cannot_be_written(cases: dict[str, Case], tmp_path: Path) -> None:
    case = cases["llama"]
    model = loader_of(case)(case[0])
    with torch.no_grad():
        model.get_parameter("final_proj.weight")[0, 0] = 1e6
    with pytest.raises(TrainingError, match=r"or that torch\.float16 does not hold"):
        ranks.save(case, tmp_path / "model", None, model, dtype=torch.float16)
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match="model exists"):
        ranks.save(case, tmp_path / "model", None, model)
    with pretended_gangs(pp=2) as gangs:
        keep_stage(model, gangs["pp"])
        with pytest.raises(ParallelError, match="of real ranks"):
            ranks.save(case, tmp_path / "other", gangs, model)
    model.register_parameter("adapter", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ParallelError) as error:
        ranks.save(case, tmp_path / "other", None, model)
    assert "final_proj.weight is on no rank" in error.value.faults
    assert "adapter is none of the model's" in error.value.faults
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_a_rank_takes_the_memory_of_one_step(cases: dict[str, Case], tmp_path: Path) -> None:
    config = fused.config_of(
        model_dim=1024, num_layers=8, num_heads=16, num_kv_heads=4, head_dim=64, ffn_inner_dim=1408, vocab_size=8192
    )
    case: Case = fused.write_checkpoint(tmp_path / "checkpoint", config, dtype=torch.bfloat16), config, ()
    prepared = fused.loader(config).prepare(case[0])
    whole = sum(4 * tensor.numel() for tensor in prepared.model.state_dict().values())
    largest = max(4 * info.numel for info in prepared.checkpoint.manifest.values())
    for grown in launch(ranks.private_memory, 4, case, cases["fused"], tmp_path):
        # What a step takes, what it gives, and what ranks send for it.
        assert grown <= 2.5 * largest < 0.6 * whole
