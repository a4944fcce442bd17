"""`scaffold verify` proves what holds, and says where what does not hold begins."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from kinfold import load_model, retrieve_asset_card
from kinfold.errors import ProofError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project
from kinfold.scaffold.prove.parity import check_parity
from kinfold.scaffold.prove.reference import Reference, read_reference
from kinfold.scaffold.prove.roundtrip import check_round_trip, same_bits


@pytest.fixture
def checkpoint(project: Project, tmp_path: Path) -> Path:
    """A tiny Qwen3 of this test's own, and the family `x` made from it."""
    from tiny import write_checkpoint

    folder = write_checkpoint(tmp_path / "checkpoint", "qwen3")
    assert run("new-family", "x", "--from", str(folder)).exit_code == 0
    project.activate()
    return folder


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(scaffold, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def change(folder: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Change one tensor of a checkpoint, or take it out of its shard."""
    for shard in folder.glob("model-*"):
        tensors = load_file(shard)
        if name in tensors:
            changed = edit(tensors.pop(name).clone())
            save_file({**tensors, **({name: changed} if changed is not None else {})}, shard)


def test_transformers_agrees_and_the_proof_is_kept(checkpoint: Path, project: Project) -> None:
    result = run("verify", "x", "--against", "transformers")
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.output.splitlines()] == [
        "ok    certificate",
        "ok    round trip",
        "ok    finite",
        "ok    parity with transformers",
    ]
    proof = json.loads((project.root / ".kinfold" / "x" / "proof.json").read_text())
    assert proof["holds"] is True
    assert str(checkpoint.parent) not in json.dumps(proof)


def test_a_reference_that_differs_fails(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "reference.safetensors")
    tensors["logits"][0, 3] += 0.01 * tensors["logits"].abs().max()
    save_file(tensors, checkpoint / "wrong.safetensors")
    result = run("verify", "x", "--reference", str(checkpoint / "wrong.safetensors"), "--json")
    assert result.exit_code == 1
    checks = {check["name"]: check["holds"] for check in json.loads(result.output)["checks"]}
    assert checks == {"certificate": True, "round trip": True, "finite": True, "parity with wrong.safetensors": False}
    wide = run("verify", "x", "--reference", str(checkpoint / "wrong.safetensors"), "--tolerance", "0.1")
    assert wide.exit_code == 0


def test_the_first_module_that_differs_is_named(checkpoint: Path) -> None:
    model = load_model("x", dtype=torch.float64)
    outputs: dict[str, torch.Tensor] = {}
    names = ["decoder_frontend", "decoder.layers.0", "decoder.layers.1", "decoder.layers.2", "decoder.layer_norm"]

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: outputs.__setitem__(name, output.detach())

    for name in names:
        model.get_submodule(name).register_forward_hook(keep(name))
    token_ids = torch.arange(12).view(1, 12)
    with torch.no_grad():
        logits = model(token_ids)
    reference = Reference(token_ids, logits, "itself", {name: outputs[name].clone() for name in names})
    assert check_parity(model, reference, tolerance=1e-9).holds
    with torch.no_grad():
        model.get_parameter("decoder.layers.1.ffn.gate_proj.weight").mul_(1.1)
    check = check_parity(model, reference, tolerance=1e-6)
    assert not check.holds
    assert check.faults[0].startswith("decoder.layers.1 is the first module whose output differs")
    with torch.no_grad():
        model.get_parameter("decoder.layers.1.ffn.gate_proj.weight").div_(1.1)
        model.get_parameter("final_proj.weight").mul_(2)
    assert "output projection" in check_parity(model, reference, tolerance=1e-6).faults[0]


def test_other_shapes_and_nan_are_no_parity(checkpoint: Path) -> None:
    model = load_model("x")
    token_ids = torch.zeros(1, 2, dtype=torch.int64)
    assert "shape" in check_parity(model, Reference(token_ids, torch.zeros(1, 2, 5), "it"), tolerance=1.0).detail
    nan = torch.full((1, 2, 256), float("nan"))
    assert not check_parity(model, Reference(token_ids, nan, "it"), tolerance=1.0).holds


def test_a_weight_that_changes_on_the_way_fails_the_round_trip(checkpoint: Path) -> None:
    loader = load_model.get("x")
    model = loader("x")
    with torch.no_grad():
        model.get_parameter("decoder.layers.2.self_attn.k_norm.weight")[3] += 1e-6
    round_trip, finite = check_round_trip(loader.prepare(retrieve_asset_card("x")), model)
    assert round_trip.faults == ("model.layers.2.self_attn.k_norm.weight (16,) torch.float32",)
    assert finite.holds


def test_values_that_are_not_finite_are_named(checkpoint: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(checkpoint, name, lambda tensor: tensor.index_fill(0, torch.tensor([2]), float("nan")))
    result = run("verify", "x")
    assert result.exit_code == 1
    assert "ok    round trip" in result.output
    assert "FAIL  finite" in result.output
    assert name in result.output


def test_a_checkpoint_that_lost_a_tensor_has_no_certificate(checkpoint: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change(checkpoint, name, lambda tensor: None)
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    del index["weight_map"][name]
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    result = run("verify", "x", "--json")
    assert result.exit_code == 1
    (check,) = json.loads(result.output)["checks"]
    assert check["faults"] == ["decoder.layers.0.ffn.inner_proj.weight (96, 64) is filled by no tensor"]


def test_what_transformers_cannot_run_is_no_proof(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "nonsense"}))
    with pytest.raises(ProofError, match="transformers could not run") as error:
        run("verify", "x", "--against", "transformers")
    assert any("nonsense" in fault for fault in error.value.faults)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"x": torch.zeros(1)}, ["there is no tensor 'token_ids'", "there is no tensor 'logits'"]),
        (
            {"token_ids": torch.zeros(1, 3), "logits": torch.zeros(1, 4, 9)},
            ["token_ids (1, 3) and logits (1, 4, 9) do not go together"],
        ),
    ],
)
def test_malformed_references_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], said: list[str]) -> None:
    save_file(tensors, tmp_path / "reference.safetensors")
    with pytest.raises(ProofError) as error:
        read_reference(tmp_path / "reference.safetensors")
    assert list(error.value.faults) == said


def test_same_bits() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert same_bits(nan, nan.clone())
    assert not same_bits(nan, torch.tensor([float("nan"), -0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.int32))
    assert not same_bits(torch.zeros(2), torch.zeros(1, 2))
    assert same_bits(torch.zeros(()), torch.zeros(()))
