"""Loading: by card or path, checked before anything is allocated, mapped where nothing has to change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import nn

from kinfold import load_model, retrieve_asset_card
from kinfold.assets import AssetCard
from kinfold.errors import CardError, CertificateError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project


@pytest.fixture
def checkpoint(project: Project, tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> Path:
    """A tiny Llama in one file, and the family `x` made from it."""
    source = tiny_checkpoint("llama")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    tensors = {name: t for shard in source.glob("model-*") for name, t in load_file(shard).items()}
    save_file(tensors, folder / "model.safetensors")
    result = CliRunner().invoke(scaffold, ["new-family", "x", "--from", str(folder)])
    assert result.exit_code == 0, result.output
    project.activate()
    return folder


def rewrite(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a checkpoint."""
    path = checkpoint / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def storages(model: nn.Module) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}


def test_by_card_by_path_and_by_family(checkpoint: Path) -> None:
    card = AssetCard(name="mine", model_family="x", source=Path("here"), checkpoint=checkpoint)
    models = [
        load_model("x"),
        load_model(checkpoint),
        load_model(str(checkpoint)),
        load_model(checkpoint / "model.safetensors", family="x"),
        load_model(card),
    ]
    expected = models[0].state_dict()
    for model in models:
        assert not model.training
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_the_arch_of_a_bare_checkpoint_is_the_one_that_fits(checkpoint: Path) -> None:
    archs = load_model.get("x").config_loader.archs
    archs.register("deeper", lambda: _with(archs.get(), num_layers=5))
    archs.register("wider", lambda: _with(archs.get(), vocab_size=999))
    assert len(load_model(checkpoint, family="x").get_submodule("decoder.layers").state_dict()) == 27
    rewrite(checkpoint, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(2, 2)}))
    with pytest.raises(CertificateError, match=r"gives \(2, 2\), the model has \(256, 64\)"):
        load_model(checkpoint, family="x")


def _with(config: Any, **values: Any) -> Any:
    for name, value in values.items():
        setattr(config, name, value)
    return config


def test_weights_are_mapped_and_training_never_writes_to_the_file(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    before = hashlib.sha256(path.read_bytes()).digest()
    model = load_model("x")
    assert len(storages(model)) == 1
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.arange(8)[None]).square().sum().backward()
    optimizer.step()
    assert hashlib.sha256(path.read_bytes()).digest() == before
    fresh = load_model("x").state_dict()
    assert not torch.equal(fresh["final_proj.weight"], model.state_dict()["final_proj.weight"])


def test_without_mapping_every_weight_is_copied(checkpoint: Path) -> None:
    model = load_model("x", mmap=False)
    assert len(storages(model)) == len(list(model.parameters()))


def test_the_dtype_is_the_narrowest_that_holds_all(checkpoint: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(torch.float32 if "norm" in name else torch.bfloat16)

    rewrite(checkpoint, narrow)
    assert {parameter.dtype for parameter in load_model("x").parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in load_model("x", dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_progress_ends_with_the_whole(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = load_model("x", progress=lambda done, total: seen.append((done, total)))
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert seen[-1] == (size, size)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_all_that_is_wrong_with_a_checkpoint_comes_at_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["surprise"] = torch.zeros(3)
        tensors["model.norm.weight"] = torch.zeros(7)
        tensors["lm_head.weight"] = torch.zeros(256, 64, dtype=torch.int32)

    rewrite(checkpoint, spoil)
    monkeypatch.setattr("kinfold.loader.fill", lambda *_, **__: pytest.fail("something was filled"))
    with pytest.raises(CertificateError) as error:
        load_model("x")
    text = str(error.value)
    for part in ("surprise (3,)", "layers.1.ffn.inner_proj.weight", "gives (7,), the model has (64,)", "int32 there"):
        assert part in text


def test_a_checkpoint_in_the_native_layout_needs_no_map(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model("x")
    native = tmp_path / "native.safetensors"
    save_file(model.state_dict(), native)
    loaded = load_model(native, family="x")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_card_overrides_its_arch(checkpoint: Path, project: Project) -> None:
    card = project.root / "mylab" / "cards" / "x.yaml"
    text = card.read_text()
    card.write_text(text + "model_config: {max_seq_len: 17, norm_eps: 1e-3}\n")
    config = load_model.get("x").config_loader(retrieve_asset_card("x"))
    assert (config.max_seq_len, config.norm_eps, config.model_dim) == (17, 1e-3, 64)
    card.write_text(text + "model_config: {max_seq_length: 17, norm_eps: small}\n")
    with pytest.raises(CardError) as error:
        load_model("x")
    assert len(error.value.faults) == 2
    assert "Did you mean 'max_seq_len'" in error.value.faults[0]


def test_names_that_are_not_known(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="neither the name of a card nor a path"):
        load_model("y")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(CardError, match="no card names it"):
        load_model(other)


def test_a_card_without_a_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(CardError, match="names no checkpoint"):
        load_model("llama")


def test_the_sharder_is_called_where_there_are_gangs(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    loader = load_model.get("x")
    monkeypatch.setattr(loader, "sharder", lambda *arguments: calls.append(arguments))
    load_model("x")
    assert calls == []
    model = load_model("x", gangs="gangs")
    assert [(call[0] is model, type(call[1]).__name__, call[2]) for call in calls] == [(True, "XConfig", "gangs")]
