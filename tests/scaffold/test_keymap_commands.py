"""`scaffold keymap` as a user calls it: derive, diff and regen in a project of families."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from scaffold.keymap.sides import InMemory, as_meta, renamed, scrambled, tensors_of

from kinfold import load_model
from kinfold.errors import CertificateError, KeyMapError, ProjectError, RegistryError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project

LOADER = Path("mylab", "x", "loader.py")


def run(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(scaffold, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def hf(project: Project, tiny_checkpoint: Callable[..., Path]) -> Path:
    """A tiny Llama of transformers, and the family `x` made from it."""
    folder = tiny_checkpoint("llama")
    assert run("new-family", "x", "--from", folder).exit_code == 0
    return folder


def save(checkpoint: InMemory, folder: Path) -> Path:
    folder.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}, folder / "model.safetensors")
    return folder


def forget_modules(project: Project) -> None:
    """Make what is in the project's files count again, as in a new process."""
    for name in [name for name in sys.modules if name.startswith(f"{project.package}.")]:
        del sys.modules[name]
    load_model.registrations.discard("x")
    importlib.import_module("kinfold.registry").model_factories.registrations.discard("x")


def logits_are_those_of(reference: Path, checkpoint: Path, project: Project) -> bool:
    forget_modules(project)
    recorded = load_file(reference / "reference.safetensors")
    model = load_model(checkpoint, family="x", dtype=torch.float64)
    with torch.inference_mode():
        gap = (model(recorded["token_ids"]) - recorded["logits"]).abs().max() / recorded["logits"].abs().max()
    return gap.item() <= 1e-4


def clean(project: Project) -> bool:
    commands = (["check"], ["format", "--check"])
    return all(
        subprocess.run([sys.executable, "-m", "ruff", *command, str(project.root)], check=False).returncode == 0
        for command in commands
    )


def test_derive_settles_meaningless_names_by_a_reference(project: Project, hf: Path, tmp_path: Path) -> None:
    checkpoint = save(scrambled(tensors_of(hf)), tmp_path / "strange")
    before = LOADER.read_bytes()
    opened = run("keymap", "derive", "x", "--checkpoint", checkpoint)
    assert opened.exit_code == 1
    assert "Open: which is which of" in opened.output
    assert LOADER.read_bytes() == before
    with pytest.raises(CertificateError):
        load_model(checkpoint, family="x")

    dry = run(
        "keymap", "derive", "x", "--checkpoint", checkpoint, "--reference", hf / "reference.safetensors", "--dry-run"
    )
    assert dry.exit_code == 0
    assert "+strange_key_map = KeyMap(" in dry.output
    assert LOADER.read_bytes() == before

    made = run("keymap", "derive", "x", "--checkpoint", checkpoint, "--reference", hf / "reference.safetensors")
    assert made.exit_code == 0, made.output
    assert "strange=strange_key_map," in LOADER.read_text()
    assert clean(project)
    assert logits_are_those_of(hf, checkpoint, project)
    assert logits_are_those_of(hf, hf, project)  # the map that was there is still there
    verified = run("verify", checkpoint, "--family", "x", "--reference", hf / "reference.safetensors")
    assert verified.exit_code == 0, verified.output
    again = run("keymap", "derive", "x", "--checkpoint", checkpoint, "--reference", hf / "reference.safetensors")
    assert "by its key map strange; nothing was written" in again.output


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
def test_biases_and_norms_with_meaningless_names(
    project: Project, tiny_checkpoint: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    folder = tiny_checkpoint(kind)
    assert run("new-family", "x", "--from", folder).exit_code == 0
    checkpoint = save(scrambled(tensors_of(folder), keep=()), tmp_path / "strange")
    made = run("keymap", "derive", "x", "--checkpoint", checkpoint, "--reference", folder / "reference.safetensors")
    assert made.exit_code == 0, made.output
    assert logits_are_those_of(folder, checkpoint, project)


def test_derive_settles_them_by_the_values_of_another_layout(project: Project, hf: Path, tmp_path: Path) -> None:
    checkpoint = save(scrambled(as_meta(tensors_of(hf)).tensors), tmp_path / "strange")
    made = run("keymap", "derive", "x", "--checkpoint", checkpoint, "--values", hf, "--map", "meta")
    assert made.exit_code == 0, made.output
    assert "the values of both sides agree" in made.output
    assert logits_are_those_of(hf, checkpoint, project)


def test_derive_tells_programs_everything(project: Project, hf: Path, tmp_path: Path) -> None:
    checkpoint = save(as_meta(tensors_of(hf)), tmp_path / "meta")
    data = json.loads(run("keymap", "derive", "x", "--checkpoint", checkpoint, "--json", "--dry-run").output)
    assert data["complete"]
    assert data["rotary"][0] == "interleaved"
    assert {rule["confidence"] > 0.5 and bool(rule["evidence"]) for rule in data["rules"]} == {True}
    assert "+meta_key_map = KeyMap(" in data["diff"]


def write_gguf(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A Llama in Meta's row order, as llama.cpp's converter writes it."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    writer = gguf.GGUFWriter(path, "llama")
    for name, tensor in tensors.items():
        called = names.get_name(name, (".weight",))
        assert called is not None
        writer.add_tensor(called, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_llama_moves_between_three_layouts_and_loads_the_same(project: Project, hf: Path, tmp_path: Path) -> None:
    tensors = tensors_of(hf)
    meta = save(as_meta(tensors), tmp_path / "meta")
    rows = as_meta(tensors).tensors  # in the same order as `tensors`
    in_gguf = write_gguf(tmp_path / "x.gguf", dict(zip(tensors, rows.values(), strict=True)))
    for checkpoint in (meta, in_gguf, hf, in_gguf, meta, hf):
        told = run("keymap", "diff", "x", "--checkpoint", checkpoint, "--map", "hf")
        assert told.exit_code == (0 if "explains it" in told.output else 1)
        result = run("keymap", "regen", "x", "--checkpoint", checkpoint, "--map", "hf")
        assert result.exit_code == 0, result.output
        assert logits_are_those_of(hf, checkpoint, project)
        assert clean(project)
        before = LOADER.read_bytes()
        again = run("keymap", "regen", "x", "--checkpoint", checkpoint, "--map", "hf")
        assert "Nothing to change" in again.output
        assert LOADER.read_bytes() == before


def test_mistral_moves_between_its_reference_and_transformers(
    project: Project, tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoint("mistral")
    assert run("new-family", "x", "--from", folder).exit_code == 0
    reference = save(as_meta(tensors_of(folder)), tmp_path / "reference")
    for checkpoint in (reference, folder):
        assert run("keymap", "regen", "x", "--checkpoint", checkpoint, "--map", "hf").exit_code == 0
        assert logits_are_those_of(folder, checkpoint, project)


def test_regen_keeps_what_holds_byte_for_byte(project: Project, hf: Path, tmp_path: Path) -> None:
    lines = LOADER.read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if "mlp.up_proj" in line)
    lines[place] = lines[place].replace(",\n", ",  # plain\n")
    lines.insert(place, "    # from here on: the feed-forward network\n")
    lines.insert(place + 2, '    drop("nothing.here", reason="kept for older checkpoints"),\n')
    text = "".join(lines).replace("import KeyMap, rename", "import KeyMap, drop, rename")
    LOADER.write_text(text)
    forget_modules(project)
    drifted = renamed(tensors_of(hf), lambda name: name.replace("mlp.up_proj", "mlp.in_proj"))
    checkpoint = save(drifted, tmp_path / "drifted")

    told = run("keymap", "diff", "x", "--checkpoint", checkpoint)
    assert told.exit_code == 1
    assert (
        "`model.layers.{layer}.mlp.up_proj.weight` is called `model.layers.{layer}.mlp.in_proj.weight` now"
        in told.output
    )
    dry = run("keymap", "regen", "x", "--checkpoint", checkpoint, "--dry-run")
    assert LOADER.read_text() == text
    assert run("keymap", "regen", "x", "--checkpoint", checkpoint).exit_code == 0
    assert LOADER.read_text() == text.replace("mlp.up_proj", "mlp.in_proj")
    assert "in_proj" in dry.output
    assert logits_are_those_of(hf, checkpoint, project)


def test_regen_writes_nothing_while_something_is_open(project: Project, hf: Path, tmp_path: Path) -> None:
    before = LOADER.read_bytes()
    checkpoint = save(scrambled(tensors_of(hf)), tmp_path / "strange")
    result = run("keymap", "regen", "x", "--checkpoint", checkpoint, "--map", "hf")
    assert result.exit_code == 1
    assert "Nothing was written." in result.output
    wrong = load_file(hf / "reference.safetensors")
    save_file({**wrong, "logits": wrong["logits"].flip(-1)}, tmp_path / "wrong.safetensors")
    result = run("keymap", "regen", "x", "--checkpoint", hf, "--reference", tmp_path / "wrong.safetensors")
    assert result.exit_code == 1
    assert "does not compute the logits" in result.output
    assert LOADER.read_bytes() == before


def test_families_of_others_are_not_edited(
    project: Project, tmp_path: Path, hf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(as_meta(tensors_of(hf)), tmp_path / "meta")
    with pytest.raises(RegistryError, match="no key map 'ggml'"):
        run("keymap", "diff", "x", "--checkpoint", checkpoint, "--map", "ggml")
    monkeypatch.chdir(tmp_path)  # no project, but the family is still known
    with pytest.raises(ProjectError, match="not part of the project"):
        run("keymap", "derive", "x", "--checkpoint", checkpoint, "--map", "meta")


def test_transformers_is_no_reference_for_what_it_cannot_load(project: Project, hf: Path, tmp_path: Path) -> None:
    from kinfold.errors import ProofError

    checkpoint = save(scrambled(tensors_of(hf)), tmp_path / "strange")
    (checkpoint / "config.json").write_bytes((hf / "config.json").read_bytes())
    with pytest.raises(ProofError, match="transformers"):
        run("keymap", "derive", "x", "--checkpoint", checkpoint, "--against", "transformers")


def test_another_size_needs_an_arch_first(project: Project, hf: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    larger = tiny_checkpoint("llama", intermediate_size=128)
    for command in ("derive", "diff", "regen"):
        result = run("keymap", command, "x", "--checkpoint", larger)
        assert result.exit_code == 1
        assert "add an arch with its sizes to x first" in result.output


def test_a_project_teaches_its_own_words(project: Project, hf: Path, tmp_path: Path) -> None:
    german = {"q_proj": "frage", "k_proj": "schluessel", "v_proj": "wert", "o_proj": "ergebnis", "self_attn": "blick"}
    named = renamed(tensors_of(hf), lambda name: ".".join(german.get(part, part) for part in name.split(".")))
    checkpoint = save(named, tmp_path / "german")
    arguments = ("keymap", "derive", "x", "--checkpoint", checkpoint, "--json", "--dry-run")
    assert "q_proj" in json.dumps(json.loads(run(*arguments).output)["open"])
    words = project.root / ".kinfold" / "vocabulary.yaml"
    words.write_text("where: {attn: [blick]}\nwhat: {q: [frage], k: [schluessel], v: [wert], o: [ergebnis]}\n")
    asked = [question["about"] for question in json.loads(run(*arguments).output)["open"]]
    assert asked == ["in which order the rows of queries and keys lie"]
    words.write_text("what: {queery: [frage]}\nwithin: {nowhere: {o: [x]}}\n")
    with pytest.raises(KeyMapError, match="queery") as error:
        run(*arguments)
    assert len(error.value.faults) == 2
