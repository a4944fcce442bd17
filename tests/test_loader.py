"""Loading: by card or path, checked before anything is allocated, mapped where nothing has to change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kinfold import KeyMap, load_model, retrieve_asset_card
from kinfold.assets import AssetCard
from kinfold.checkpoint import TensorInfo
from kinfold.errors import CardError, CertificateError, CheckpointError, RegistryError
from kinfold.filling import fill
from kinfold.keymap import drop
from kinfold.loader import common_dtype
from kinfold.parallel.gangs import alone
from kinfold.scaffold.project import Project, init_project


@pytest.fixture(scope="session")
def made(tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama in one file, and a project that has the family `x` made from it."""
    source, made = tiny_checkpoint("llama"), tmp_path_factory.mktemp("made")
    folder, root = made / "checkpoint", made / "mylab"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    tensors = {name: t for shard in source.glob("model-*") for name, t in load_file(shard).items()}
    save_file(tensors, folder / "model.safetensors")
    init_project(root).commit()
    scaffold = Path(sys.executable).with_name("scaffold")
    subprocess.run([scaffold, "new-family", "x", "--from", folder], cwd=root, check=True, capture_output=True)
    return made


@pytest.fixture
def checkpoint(project: Project, made: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama; the project has its family."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for path in project.root.rglob("*.yaml"):
        path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    project.activate()
    return tmp_path / "checkpoint"


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


def test_what_is_changed_in_one_model_is_not_in_another(checkpoint: Path) -> None:
    first, second = load_model("x"), load_model("x")
    with torch.no_grad():
        first.get_parameter("final_proj.weight").zero_()
    assert second.get_parameter("final_proj.weight").abs().sum() > 0


def test_without_mapping_every_weight_is_copied(checkpoint: Path) -> None:
    model = load_model("x", mmap=False)
    assert len(storages(model)) == len(list(model.parameters()))


def test_a_weight_that_needs_a_change_is_copied_and_the_others_are_mapped(checkpoint: Path) -> None:
    before = load_model("x").state_dict()
    rewrite(checkpoint, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"].double()}))
    model = load_model("x", dtype=torch.float32)
    assert len(storages(model)) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_nothing_stays_on_meta_or_without_a_value(checkpoint: Path) -> None:
    model = load_model("x")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_dtype_is_the_narrowest_that_holds_all(checkpoint: Path) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].to(torch.float32 if "norm" in name else torch.bfloat16)

    rewrite(checkpoint, narrow)
    assert {parameter.dtype for parameter in load_model("x").parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in load_model("x", dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("bfloat16",), torch.bfloat16),
        (("float16", "bfloat16"), torch.float32),
        (("float16", "float32", "float64"), torch.float64),
        (("int64", "float16"), torch.float16),
        (("float8_e4m3fn",), torch.float8_e4m3fn),
    ],
)
def test_common_dtype(dtypes: tuple[str, ...], expected: torch.dtype) -> None:
    assert common_dtype({dtype: TensorInfo((1,), dtype, dtype) for dtype in dtypes}) == expected


@pytest.mark.parametrize("dtypes", [("int8",), (), ("float8_e4m3fn", "bfloat16"), ("float8_e4m3fn", "float8_e5m2")])
def test_no_common_dtype(dtypes: tuple[str, ...]) -> None:
    with pytest.raises(CheckpointError):
        common_dtype({dtype: TensorInfo((1,), dtype, dtype) for dtype in dtypes})


def test_what_is_dropped_does_not_widen_the_dtype(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()
        tensors["model.rotary_emb.inv_freq"] = torch.zeros(8)

    rewrite(checkpoint, narrow)
    converter = load_model.get("x").checkpoint_converter
    hf = KeyMap(*converter.key_maps["hf"], drop("model.rotary_emb.inv_freq", reason="recomputed"))
    monkeypatch.setattr(converter, "key_maps", {"hf": hf})
    assert {parameter.dtype for parameter in load_model("x").parameters()} == {torch.bfloat16}


def test_progress_ends_with_the_whole(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = load_model("x", progress=lambda done, total: seen.append((done, total)))
    size = sum(parameter.nbytes for parameter in model.parameters())
    assert seen[-1] == (size, size)
    assert len(seen) == len(list(model.parameters()))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {total for _, total in seen} == {size}


def test_progress_counts_what_is_loaded_not_what_is_stored(checkpoint: Path) -> None:
    seen: list[tuple[int, int]] = []
    model = load_model("x", dtype=torch.float64, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (sum(parameter.nbytes for parameter in model.parameters()),) * 2


class Counter(nn.Module):
    """A weight, a buffer of whole numbers, and one that is not saved."""

    def __init__(self, device: str = "meta", *, unsaved: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, device=device), requires_grad=False)
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64, device=device))
        if unsaved:
            self.register_buffer("mask", torch.zeros(2, device=device), persistent=False)


COUNTED = {"weight": torch.arange(3.0), "steps": torch.tensor([7, 8])}
CPU = torch.device("cpu")


def test_whole_numbers_keep_their_dtype_and_count() -> None:
    seen: list[tuple[int, int]] = []
    model = Counter()
    fill(model, COUNTED.items(), device=CPU, dtype=torch.float16, progress=lambda *both: seen.append(both))
    assert (model.weight.dtype, model.weight.requires_grad) == (torch.float16, False)
    assert torch.equal(model.get_buffer("steps"), COUNTED["steps"])
    assert seen == [(6, 22), (22, 22)]


def test_what_nothing_fills_is_named() -> None:
    with pytest.raises(CertificateError) as error:
        fill(Counter(unsaved=True), [("weight", torch.zeros(3))], device=CPU, dtype=torch.float32)
    assert error.value.faults == ("steps", "mask")
    with pytest.raises(CertificateError, match=r"weight has the shape \(3,\), not \(4,\)"):
        fill(Counter(), [("weight", torch.zeros(4))], device=CPU, dtype=torch.float32)


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
    card.write_text(text + "model_config: {max_seq_length: 17, norm_eps: small, num_layers: true, num_heads: 4.5}\n")
    with pytest.raises(CardError) as error:
        load_model("x")
    assert len(error.value.faults) == 4
    assert "Did you mean 'max_seq_len'" in error.value.faults[0]
    for fault, field in zip(error.value.faults[1:], ("norm_eps", "num_layers", "num_heads"), strict=True):
        assert fault.startswith(f"`model_config.{field}`: Expected")


def test_a_card_does_not_change_the_arch_of_others(checkpoint: Path, project: Project) -> None:
    card = project.root / "mylab" / "cards" / "x.yaml"
    card.write_text(card.read_text() + "model_config: {max_seq_len: 17}\n")
    loader = load_model.get("x")
    assert loader.config_loader(retrieve_asset_card("x")).max_seq_len == 17
    assert loader.config_loader.archs.get().max_seq_len == 128


def test_a_card_whose_sizes_are_not_those_of_its_checkpoint(checkpoint: Path, project: Project) -> None:
    card = project.root / "mylab" / "cards" / "x.yaml"
    card.write_text(card.read_text() + "model_config: {num_layers: 2, ffn_inner_dim: 95}\n")
    with pytest.raises(CertificateError) as error:
        load_model("x")
    assert "the model has no decoder.layers.2." in str(error.value)
    assert "(95, 64)" in str(error.value)


def test_a_card_of_another_family_or_an_unknown_arch(checkpoint: Path) -> None:
    card = AssetCard(name="mine", model_family="llama", source=Path("here"), checkpoint=checkpoint)
    with pytest.raises(CardError, match="here is of the family 'llama', not 'x'"):
        load_model(card, family="x")
    with pytest.raises(RegistryError, match="There is no arch 'tinny'"):
        load_model(AssetCard("mine", "x", Path("here"), model_arch="tinny", checkpoint=checkpoint))
    with pytest.raises(RegistryError, match="There is no family 'xx'"):
        load_model(checkpoint, family="xx")


def test_names_that_are_not_known(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CardError, match="neither the name of a card nor a path"):
        load_model("y")
    with pytest.raises(CardError, match="Did you mean 'llama'"):
        load_model("lama")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(CardError, match="no card names it"):
        load_model(other)


def test_two_cards_for_one_checkpoint(checkpoint: Path, project: Project) -> None:
    card = project.root / "mylab" / "cards" / "x.yaml"
    card.with_stem("y").write_text(card.read_text().replace("name: x", "name: y"))
    with pytest.raises(CardError, match=r"2 cards name it: x, y\.\nSay which: `family=...`"):
        load_model(checkpoint)
    assert load_model("y")
    assert load_model(checkpoint, family="x")


def test_the_loader_of_a_family_takes_names_and_paths_too(checkpoint: Path) -> None:
    loader = load_model.get("x")
    assert torch.equal(
        loader("x").get_parameter("final_proj.weight"), loader(checkpoint).get_parameter("final_proj.weight")
    )


def test_a_card_without_a_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(CardError, match="names no checkpoint"):
        load_model("llama")


def test_the_sharder_is_called_before_there_are_weights(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    loader = load_model.get("x")

    def note(model: nn.Module, *arguments: Any) -> None:
        calls.append((model, {parameter.device.type for parameter in model.parameters()}, *arguments))

    monkeypatch.setattr(loader, "sharder", note)
    expected = load_model("x").state_dict()
    assert calls == []
    gangs = alone()
    model = load_model("x", gangs=gangs, before_loading=note)
    config = calls[0][2]
    assert type(config).__name__ == "XConfig"
    assert calls == [(model, {"meta"}, config, gangs), (model, {"meta"})]
    assert len(storages(model)) == 1
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_what_is_removed_before_loading_is_not_loaded(checkpoint: Path) -> None:
    def remove(model: Any) -> None:
        del model.decoder.layers[1:]
        model.final_proj = nn.Identity()

    expected = load_model("x").state_dict()
    state = load_model("x", before_loading=remove).state_dict()
    assert state.keys() == {name for name in expected if "layers.1" not in name and "layers.2" not in name} - {
        "final_proj.weight"
    }
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
