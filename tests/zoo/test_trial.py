"""What a trial makes of what the commands say: here they are a script that does what the test tells it to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zoo import trial as trials
from zoo.trial import Trial, init_project, spec_in_words, try_checkpoint

FACTS = [
    {"name": "num_heads", "value": "4", "evidence": "num_attention_heads = 4"},
    {"name": "norm_offset", "value": "0", "evidence": "assumed: as stored"},
]
NEW_FAMILY = f"""
folder = Path(".kinfold", sys.argv[2])
folder.mkdir(parents=True)
(folder / "spec.yaml").write_text("position: alibi")
Path("card.yaml").write_text("checkpoint: " + Path(sys.argv[4]).as_uri())
print(json.dumps({{"facts": {FACTS!r}, "certificates": {{"hf": "30 used once"}}}}))
"""
CHECKS = {
    "certificate": "holds",
    "round trip": "30 tensors come back bit for bit",
    "finite": "all",
    "parity with reference.safetensors": "logits differ by 3.0e-08 of the largest",
}


def verify(*failing: str, left_out: str = "") -> str:
    """The source text of a `scaffold verify` that says that checks fail, each with one fault."""
    checks = [
        {
            "name": name,
            "holds": name not in failing,
            "detail": detail,
            "faults": [f"fault of {name}"] * (name in failing),
        }
        for name, detail in CHECKS.items()
        if name != left_out
    ]
    return f"print({json.dumps({'checks': checks})!r}); sys.exit({bool(failing):d})"


SHARDS = {"indivisible": {"2": [], "4": ["a: 2 query heads"]}, "wrong": []}


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trial]:
    """Tries a checkpoint, with these source texts for the two commands, and this said of its shards."""

    def attempt(
        new_family: str = NEW_FAMILY, verified: str = verify(), shards: dict[str, Any] = SHARDS, **options: Any
    ) -> Trial:
        commands = {"init": "Path(sys.argv[2]).mkdir(); print('made')", "new-family": new_family, "verify": verified}
        commands["shard"] = f"assert sys.argv[3] == 'zoolab.zoo_bloom_tied'; print({json.dumps(shards)!r})"
        script = tmp_path / "scaffold"
        begin = f"#!{sys.executable}\nimport json, sys, time\nfrom pathlib import Path\n"
        script.write_text(f"{begin}exec({commands!r}[sys.argv[1]])\n")
        script.chmod(0o755)
        monkeypatch.setattr(trials, "SCAFFOLD", str(script))
        monkeypatch.setattr(trials, "SHARDING", (str(script), "shard"))
        checkpoint = tmp_path / "bloom+tied"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text('{"model_type": "bloom", "architectures": ["Bloom"], "n_head": 4}')
        return try_checkpoint(checkpoint, project=init_project(tmp_path), work=tmp_path / "work", **options)

    return attempt


def test_what_the_commands_say_is_kept(attempt: Callable[..., Trial]) -> None:
    trial = attempt(nonsense=True)
    assert trial.seconds.keys() == {"new-family", "renamed", "verify"}
    trial.seconds.clear()
    assert trial == Trial(
        name="bloom+tied",
        holds=True,
        spec="position alibi",
        certificate="30 used once",
        parity=3e-8,
        round_trip="30 tensors come back bit for bit",
        indivisible={"2": [], "4": ["a: 2 query heads"]},
        open=["norm_offset = 0"],
        same_under_another_name=True,
    )


def test_every_fault_of_an_error_is_kept_without_folders_of_this_machine(attempt: Callable[..., Trial]) -> None:
    error = "'Error: ' + sys.argv[4] + ' is not understood:\\n  - a = 1\\n  - b = 2\\nA hint for /some/where/file.'"
    trial = attempt(new_family=f"sys.exit({error})")
    assert (trial.holds, trial.reason) == (False, "bloom+tied is not understood:")
    assert trial.faults == ["a = 1", "b = 2", "A hint for .../file."]


def test_a_traceback_is_a_crash(attempt: Callable[..., Trial]) -> None:
    trial = attempt(new_family="raise ValueError('no such thing')")
    assert (trial.holds, trial.reason) == (False, "crashed: ValueError: no such thing")


def test_a_command_that_does_not_end_is_ended(attempt: Callable[..., Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SECONDS", 1)
    trial = attempt(new_family="time.sleep(600)")
    assert (trial.holds, trial.reason) == (False, "`scaffold new-family` does not end within 1 s")


def test_checks_that_fail_are_the_reason(attempt: Callable[..., Trial]) -> None:
    trial = attempt(verified=verify("round trip", "parity with reference.safetensors"))
    assert not trial.holds
    assert trial.reason == (
        "round trip: 30 tensors come back bit for bit; "
        "parity with reference.safetensors: logits differ by 3.0e-08 of the largest"
    )
    assert trial.faults == ["fault of round trip", "fault of parity with reference.safetensors"]


def test_shards_that_do_not_make_up_the_whole_are_the_reason(attempt: Callable[..., Trial]) -> None:
    trial = attempt(shards={**SHARDS, "wrong": ["tp=2: final_proj.weight is lost"]})
    assert (trial.holds, trial.reason) == (False, "what its ranks have does not make up the whole:")
    assert trial.faults == ["tp=2: final_proj.weight is lost"]


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_that_was_not_made_is_no_proof(check: str, attempt: Callable[..., Trial]) -> None:
    trial = attempt(verified=verify(left_out=check))
    assert (trial.holds, trial.reason) == (False, f"`scaffold verify` did not check {check.split(' with ')[0]}")


def test_a_reference_is_kept_from_new_family_alone(attempt: Callable[..., Trial]) -> None:
    told = 'sys.exit(f"Error: {sys.argv[5:]}")'
    assert attempt(new_family=told, alone=True).reason == "['--against', 'nothing', '--json']"


def test_a_family_that_depends_on_what_the_config_calls_it_fails(attempt: Callable[..., Trial]) -> None:
    peeking = 'Path("model.py").write_text(json.loads(Path(sys.argv[4], "config.json").read_text())["model_type"])'
    trial = attempt(new_family=NEW_FAMILY + peeking, nonsense=True)
    assert (trial.holds, trial.same_under_another_name, trial.faults) == (False, False, ["model.py"])


def test_a_spec_in_words_leaves_out_sizes_and_what_is_off() -> None:
    spec = {
        "archs": {"1b": {"model_dim": 64, "num_layers": 3, "tied_embeddings": True, "logit_cap": None}},
        "attention": {"qk_norm": True, "bias": False},
        "ffn": {"activation": "gelu"},
    }
    assert spec_in_words(spec) == "attention.qk_norm, ffn.activation gelu, tied_embeddings"
