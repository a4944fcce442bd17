"""The runner, on checkpoints that transformers writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from zoo import run
from zoo.families import data
from zoo.make import build
from zoo.make import main as make
from zoo.page import page
from zoo.trial import Trial

PASSING = Trial(
    "llama",
    True,
    spec="qk_norm",
    certificate="30",
    parity=2e-7,
    round_trip="30 back",
    indivisible={
        "2": [],
        "4": [],
        "8": ["a.b: 4 query heads cannot be divided among 8 ranks; 4 would do", "c"],
    },
    open=["a = 1"],
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By name, what came of checkpoints that are sound, compute something else, and are not understood."""
    folder = tmp_path_factory.mktemp("zoo")
    for name in ("llama", "qwen3", "llama+tied"):
        assert build(name, folder)
    unseen = folder / "qwen3" / "unseen" / "reference.safetensors"
    reference = load_file(unseen)
    reference["logits"][1, 20, 7] += 0.01 * reference["logits"].abs().max()
    save_file(reference, unseen)
    config = json.loads((folder / "llama+tied" / "config.json").read_text())
    config |= {"zzyzx_factor": 0.5, "zzyzx_window": 7}
    (folder / "llama+tied" / "config.json").write_text(json.dumps(config))
    command = [sys.executable, run.__file__, str(folder), "--nonsense", "--json", str(folder / "out.json")]
    subprocess.run(command, check=False, capture_output=True)
    return {trial["name"]: trial for trial in json.loads((folder / "out.json").read_text())}


def test_a_sound_checkpoint_passes_under_any_name(results: dict[str, Any]) -> None:
    trial = results["llama"]
    assert trial["holds"], trial["reason"]
    assert trial["parity"] < 1e-6
    assert trial["round_trip"].endswith("tensors come back bit for bit")
    assert trial["same_under_another_name"] is True
    assert [len(faults) for faults in trial["indivisible"].values()] == [0, 0, 1]


def test_one_logit_of_unseen_tokens_that_differs_by_a_hundredth_fails(results: dict[str, Any]) -> None:
    trial = results["qwen3"]
    assert not trial["holds"]
    assert 0.009 < trial["parity"] < 0.011
    assert trial["reason"].startswith("parity with reference.safetensors: logits differ by 1.0e-02")


def test_what_is_not_understood_is_listed_in_full(results: dict[str, Any]) -> None:
    trial = results["llama+tied"]
    assert not trial["holds"]
    assert trial["reason"].startswith("llama+tied")
    assert {fault.split(" = ")[0].split()[-1] for fault in trial["faults"]} >= {"zzyzx_factor", "zzyzx_window"}


def test_checkpoints_are_chosen_by_patterns_and_are_those_of_dense_decoders_without(tmp_path: Path) -> None:
    for name in ("llama", "llama+tied", "mixtral", "qwen2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "reference.safetensors").touch()
    (tmp_path / "phi").mkdir()
    names = {patterns: [path.name for path in run.find_checkpoints(tmp_path, patterns)] for patterns in [(), ("*l*",)]}
    assert names == {(): ["llama", "llama+tied", "qwen2"], ("*l*",): ["llama", "llama+tied", "mixtral"]}


@pytest.mark.parametrize(("trial", "status"), [(PASSING, 0), (Trial("llama"), 1), (Trial("llama+relu"), 0)])
def test_the_exit_status_is_1_if_a_family_fails_that_is_said_to_pass(
    trial: Trial, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run", lambda *_, **__: [trial])
    monkeypatch.setattr(run, "find_checkpoints", lambda *_: [tmp_path])
    assert run.main([str(tmp_path)]) == status
    assert [said["name"] for said in json.loads((tmp_path / "results.json").read_text())] == [trial.name]


def test_the_page_has_what_passes_what_does_not_and_what_is_not_tried() -> None:
    failing = Trial("llama+relu", reason="llama+relu does not fit:", faults=["a | b", "c", "d", "e", "f"])
    lines = page([PASSING, failing]).splitlines()
    assert "| llama | qk_norm | 30 | 2e-07 | 30 back | 2, 4; not 8: 4 query heads | 0 | 0 of 1 pass | a = 1 |" in lines
    assert "| llama+relu |  | llama+relu does not fit: a \\| b; c; d; and 2 more |" in lines
    assert any("mixtral" in line and "experts" in line for line in lines)
    assert any(line.startswith("1 of 1 pass") for line in lines)


@pytest.mark.slow
def test_every_family_that_is_said_to_pass_does(tmp_path: Path) -> None:
    dense, passing = data()["groups"]["dense"]["families"], data()["passing"]
    make([str(tmp_path), *dict.fromkeys([*dense, *passing])])
    built = json.loads((tmp_path / "report.json").read_text())
    assert {name: said for name, said in built.items() if not said.startswith("ok")} == {}
    assert {name: built[name] for name in passing} == dict.fromkeys(passing, "ok")
    found = {trial.name: trial for trial in run.run(run.find_checkpoints(tmp_path), tmp_path / "work", nonsense=True)}
    assert {name: found[name].reason for name in passing if not found[name].holds} == {}
