"""One command from a checkpoint that transformers wrote to a family that computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from kinfold import generate, load_model
from kinfold.errors import UnsupportedError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project

KINDS = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {},
}
VARIANTS = {
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "one kv head, one layer": ("llama", {"num_key_value_heads": 1, "num_hidden_layers": 1}),
    "odd sizes": ("qwen3", {"vocab_size": 251, "head_dim": 24, "num_hidden_layers": 5, "intermediate_size": 51}),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "yarn rope": (
        "qwen2",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e6,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "dynamic rope": (
        "llama",
        {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        },
    ),
}


def run(*arguments: str | Path) -> Result:
    """Run `scaffold` in the current folder; an exception goes through."""
    result = CliRunner().invoke(scaffold, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def prove(project: Project, checkpoint: Path) -> None:
    """Make the family `x` from a checkpoint, and hold it against the reference beside the checkpoint."""
    made = run("new-family", "x", "--from", checkpoint)
    assert made.exit_code == 0, made.output
    verified = run("verify", "x", "--reference", checkpoint / "reference.safetensors", "--json")
    checks = {check["name"]: check["holds"] for check in json.loads(verified.output)["checks"]}
    assert checks == {
        "certificate": True,
        "round trip": True,
        "finite": True,
        "parity with reference.safetensors": True,
    }
    assert verified.exit_code == 0
    reference = load_file(checkpoint / "reference.safetensors")
    model = load_model(checkpoint)  # by its path: the card names it
    with torch.inference_mode():
        logits = model(reference["token_ids"])
    assert (logits - reference["logits"]).abs().max() <= 1e-4 * reference["logits"].abs().max()
    assert_cached_equals_uncached(load_model("x", dtype=torch.float64), reference["token_ids"])


def assert_cached_equals_uncached(model: torch.nn.Module, token_ids: torch.Tensor) -> None:
    generated = generate(model, token_ids, max_new_tokens=8)
    with torch.inference_mode():
        for _ in range(8):
            token_ids = torch.cat([token_ids, model(token_ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(generated, token_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_family(project: Project, tiny_checkpoint: Callable[..., Path], kind: str) -> None:
    prove(project, tiny_checkpoint(kind))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variant(project: Project, tmp_path: Path, variant: str) -> None:
    from tiny import write_checkpoint

    kind, values = VARIANTS[variant]
    prove(project, write_checkpoint(tmp_path / "checkpoint", kind, seed=1, **values))


def test_model_type_is_not_looked_at(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "qwen3")
    config = json.loads((checkpoint / "config.json").read_text())
    config.update(model_type="nonsense", architectures=["Nonsense"])
    (checkpoint / "config.json").write_text(json.dumps(config))
    prove(project, checkpoint)


def test_facts_have_their_evidence(project: Project, tiny_checkpoint: Callable[..., Path]) -> None:
    output = run("new-family", "x", "--from", tiny_checkpoint("llama"), "--dry-run", "--json").output
    facts = {fact["name"]: fact for fact in json.loads(output)["facts"]}
    assert facts["num_kv_heads"]["value"] == "2"
    assert facts["num_kv_heads"]["evidence"] == "model.layers.0.self_attn.k_proj.weight (32, 64), head_dim 16"
    assert facts["rope_theta"]["evidence"] == "rope_parameters.rope_theta = 10000.0"
    assert facts["norm.weight"]["evidence"].startswith("parity with reference.safetensors")
    assert not (project.root / "mylab" / "x").exists()


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "lfm2", "bert"])
def test_what_is_not_understood_is_refused(project: Project, tiny_checkpoint: Callable[..., Path], kind: str) -> None:
    before = sorted(project.root.rglob("*"))
    with pytest.raises(UnsupportedError, match="not understood"):
        run("new-family", "x", "--from", tiny_checkpoint(kind))
    assert sorted(project.root.rglob("*")) == before


def test_all_faults_come_at_once(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "llama")
    config = json.loads((checkpoint / "config.json").read_text())
    config.update(vocab_size=300, num_hidden_layers=7, attention_bias=True, warp_factor=0.5, hidden_act="mish")
    (checkpoint / "config.json").write_text(json.dumps(config))
    save_file({"surprise.weight": torch.zeros(2)}, checkpoint / "model-00004-of-00003.safetensors")
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    index["weight_map"]["surprise.weight"] = "model-00004-of-00003.safetensors"
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedError) as error:
        run("new-family", "x", "--from", checkpoint)
    text = str(error.value)
    for part in ("surprise.weight (2,)", "warp_factor = 0.5", "hidden_act = 'mish'", "vocab_size = 300"):
        assert part in text
    assert "num_layers: 3 according to layers 0 to 2" in text
    assert "attention_bias = True" in text


def test_values_of_the_wrong_kind_are_faults(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "llama")
    config = json.loads((checkpoint / "config.json").read_text())
    wrong = {
        "hidden_size": "64",
        "num_attention_heads": [4],
        "head_dim": None,
        "num_key_value_heads": 0,
        "rms_norm_eps": -1,
        "tie_word_embeddings": "no",
        "hidden_act": ["silu"],
        "layer_types": 3,
        "rope_parameters": [],
        "sliding_window": True,
        "attention_bias": 1,
    }
    (checkpoint / "config.json").write_text(json.dumps({**config, **wrong}))
    with pytest.raises(UnsupportedError) as error:
        run("new-family", "x", "--from", checkpoint)
    for key, value in wrong.items():
        if value not in (None, True, []):
            assert f"{key} = {value!r}" in str(error.value), key


@pytest.mark.parametrize("inside", [True, False])
def test_checkpoints_at_odd_places_are_found_again(project: Project, tmp_path: Path, inside: bool) -> None:
    from tiny import write_checkpoint

    place = (project.root if inside else tmp_path) / "a folder: 100% #1"
    run("new-family", "x", "--from", write_checkpoint(place, "llama"))
    card = (project.root / "mylab" / "cards" / "x.yaml").read_text()
    assert ("file:///" in card) is not inside
    project.activate()
    assert load_model("x")


def test_a_family_made_twice_is_the_same(tiny_checkpoint: Callable[..., Path], project: Project) -> None:
    checkpoint = tiny_checkpoint("qwen2")
    first = json.loads(run("new-family", "x", "--from", checkpoint, "--dry-run", "--json").output)
    second = json.loads(run("new-family", "x", "--from", checkpoint, "--dry-run", "--json").output)
    assert first == second
    assert "+++ b/mylab/x/model.py" in first["diff"]
