"""What is open is settled by a reference: found where it can be, said where it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from zoo.make import build
from zoo.quick import try_quickly

from kinfold.checkpoint import open_checkpoint
from kinfold.errors import ProjectError, ProofError, UnsupportedError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project
from kinfold.scaffold.prove.reference import Reference, read_reference, run_transformers
from kinfold.scaffold.reading import settle as settling
from kinfold.scaffold.reading.read import Reading, read_checkpoint
from kinfold.scaffold.reading.settle import Settled, settle

NAMES = [
    "beam", "bloom", "codegen", "cohere+qk-norm", "ctrl", "doge", "falcon+new-decoder", "gemma2", "gpt2+by-layer-scale",
    "gpt_neox_japanese", "gptj", "modernbert-decoder+relu", "nanochat", "nemotron", "opt+narrow-embedding",
    "stablelm+qk-norm", "youtu+biases",
]  # fmt: skip
"""Families with the most that no config key says, and variations of some."""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a tiny checkpoint, written once."""
    folder = tmp_path_factory.mktemp("zoo")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            build(name, folder)
        return folder / name

    return made


def read(folder: Path) -> Reading:
    with open_checkpoint(folder) as checkpoint:
        return read_checkpoint(checkpoint)


def settled(folder: Path, reference: Reference | None = None) -> Settled:
    with open_checkpoint(folder) as checkpoint:
        reference = reference or read_reference(folder / "reference.safetensors")
        return settle(read_checkpoint(checkpoint), checkpoint, reference)


@pytest.mark.parametrize("name", NAMES)
def test_logits_settle_what_neither_config_nor_shapes_say(zoo: Callable[[str], Path], name: str) -> None:
    trial = try_quickly(zoo(name))
    assert trial.holds, (trial.reason, trial.faults)


def test_outputs_of_modules_lead_the_search(zoo: Callable[[str], Path]) -> None:
    folder = zoo("nanochat")
    by_logits, by_modules = settled(folder), settled(folder, run_transformers(folder, dtype="float64"))
    assert by_modules.agrees
    assert by_modules.reading.spec == by_logits.reading.spec
    assert tried(by_modules) < tried(by_logits)


def test_the_answer_enters_the_facts_with_parity_as_its_evidence(zoo: Callable[[str], Path]) -> None:
    folder = zoo("gptj")
    assert read(folder).facts["rotary_pairs"].evidence == "assumed: as Hugging Face writes"
    fact = settled(folder).reading.facts["rotary_pairs"]
    assert (fact.value, fact.evidence.partition(" (")[0]) == ("interleaved", "parity with reference.safetensors")


def test_what_a_reference_cannot_tell_stays_assumed(zoo: Callable[[str], Path]) -> None:
    folder = zoo("gptj")
    reference = read_reference(folder / "reference.safetensors")
    first = replace(reference, token_ids=reference.token_ids[:, :1], logits=reference.logits[:, :1])
    outcome = settled(folder, first)  # a single token attends to itself alone, wherever it is
    assert outcome.agrees
    assert outcome.reading.facts["rotary_pairs"].assumed
    assert "  which dimensions turn together: not told apart by this reference" in outcome.lines
    assert not outcome.reading.facts["ffn.activation"].assumed


def test_a_value_that_the_code_does_not_use_is_found(zoo: Callable[[str], Path]) -> None:
    """BioGPT's config has 1e-12, and its norms add torch's 1e-5."""
    folder = zoo("biogpt")
    assert read(folder).facts["norm_eps"].value == 1e-12
    assert settled(folder).reading.facts["norm_eps"].value == 1e-5


def test_where_nothing_agrees_the_first_module_that_differs_is_said(zoo: Callable[[str], Path]) -> None:
    folder = zoo("qwen3")
    reference = run_transformers(folder, dtype="float64")
    wrong: dict[str, Tensor] = {"model.layers.1.mlp.down_proj": reference.foreign["model.layers.1.mlp.down_proj"] + 1}
    outcome = settled(folder, replace(reference, logits=reference.logits + 1, foreign={**reference.foreign, **wrong}))
    assert not outcome.agrees
    assert outcome.best.differs == "decoder.layers.1.ffn.output_proj"


@pytest.fixture
def disagreeing(zoo: Callable[[str], Path], tmp_path: Path) -> Path:
    """A reference that no family computes."""
    reference = load_file(zoo("qwen3") / "reference.safetensors")
    save_file({**reference, "logits": torch.rand_like(reference["logits"])}, tmp_path / "wrong.safetensors")
    return tmp_path / "wrong.safetensors"


def test_a_family_that_its_reference_contradicts_is_not_written(
    project: Project, zoo: Callable[[str], Path], disagreeing: Path
) -> None:
    before = sorted(project.root.rglob("*"))
    command = ["new-family", "x", "--from", str(zoo("qwen3")), "--reference", str(disagreeing)]
    with pytest.raises(ProofError, match="not as its reference computes") as error:
        CliRunner().invoke(scaffold, command, catch_exceptions=False)
    assert "computes the logits of wrong.safetensors" in error.value.faults[0]
    assert sorted(project.root.rglob("*")) == before
    written = CliRunner().invoke(scaffold, [*command, "--allow-open"], catch_exceptions=False)
    assert "candidates computes the logits of wrong.safetensors" in written.output
    assert (project.root / "mylab" / "x" / "model.py").exists()


def test_what_is_not_understood_may_be_left_open(project: Project, zoo: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((zoo("qwen3") / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in zoo("qwen3").glob("*.safetensors*"):
        (copy / path.name).symlink_to(path)
    (copy / "config.json").write_text(json.dumps({**config, "warp_factor": 9}))
    command = ["new-family", "x", "--from", str(copy)]
    with pytest.raises(UnsupportedError, match="warp_factor = 9: not understood"):
        CliRunner().invoke(scaffold, command, catch_exceptions=False)
    written = CliRunner().invoke(scaffold, [*command, "--allow-open", "--json"], catch_exceptions=False)
    assert json.loads(written.output)["open"] == ["config key warp_factor = 9: not understood"]


def test_a_project_teaches_words_and_keys(project: Project, zoo: Callable[[str], Path], tmp_path: Path) -> None:
    """A checkpoint of one's own: its names and keys are nobody else's."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(zoo("qwen3").glob("model*.safetensors")):
        tensors |= load_file(path)
    own = {
        name.replace("self_attn.q_proj", "self_attn.seek").replace(".self_attn.", ".beholder."): tensor
        for name, tensor in tensors.items()
    }
    folder = tmp_path / "own"
    folder.mkdir()
    save_file(own, folder / "model.safetensors")
    config = json.loads((zoo("qwen3") / "config.json").read_text())
    config = {**config, "stream_width": config.pop("hidden_size"), "experiment": 7}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "reference.safetensors").symlink_to(zoo("qwen3") / "reference.safetensors")
    command = ["new-family", "x", "--from", str(folder)]
    with pytest.raises(UnsupportedError):
        CliRunner().invoke(scaffold, command, catch_exceptions=False)
    (project.root / ".kinfold" / "vocabulary.yaml").write_text("where: {attn: [beholder]}\nwhat: {q: [seek]}\n")
    keys = project.root / ".kinfold" / "config_keys.yaml"
    keys.write_text("same_as: {stream_width: hiden_size}\n")
    with pytest.raises(ProjectError, match="hiden_size: there is no such key"):
        CliRunner().invoke(scaffold, command, catch_exceptions=False)
    keys.write_text("same_as: {stream_width: hidden_size}\nwithout_effect: [experiment]\n")
    assert "Parity with reference" in CliRunner().invoke(scaffold, command, catch_exceptions=False).output


def test_contradictions_are_not_left_open(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((zoo("qwen3") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 65}))
    for path in zoo("qwen3").glob("*.safetensors*"):
        (tmp_path / path.name).symlink_to(path)
    with (
        open_checkpoint(tmp_path) as checkpoint,
        pytest.raises(UnsupportedError, match=r"model_dim: 64 according to .*but 65 according to hidden_size = 65"),
    ):
        read_checkpoint(checkpoint, allow_open=True)


def test_what_does_not_fit_into_memory_is_compared_only_if_asked_for(
    project: Project, zoo: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "free_memory", lambda: 1000)
    command = ["new-family", "x", "--dry-run", "--json", "--from", str(zoo("qwen3"))]
    outcome = json.loads(CliRunner().invoke(scaffold, command, catch_exceptions=False).output)
    assert outcome["search"][0].startswith("Not compared with a reference: that would take 0 GiB of memory")
    recorded = str(zoo("qwen3") / "reference.safetensors")
    asked = CliRunner().invoke(scaffold, [*command, "--reference", recorded], catch_exceptions=False)
    assert json.loads(asked.output)["search"][0].startswith("Parity with reference.safetensors")


def test_without_a_reference_what_is_open_is_reported(project: Project, zoo: Callable[[str], Path]) -> None:
    command = ["new-family", "x", "--from", str(zoo("qwen3")), "--against", "nothing"]
    output = CliRunner().invoke(scaffold, command, catch_exceptions=False).output
    assumed = output.partition("Neither shapes nor config say the following")[2]
    assert "rotary_pairs = halves  <- assumed: as Hugging Face writes" in assumed


def tried(outcome: Settled) -> int:
    return int(outcome.lines[0].rpartition("(")[2].split()[0])


def test_of_several_dropouts_the_first_counts(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    config = json.loads((zoo("gpt2") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_dropout": 0.3}))
    for path in zoo("gpt2").glob("*.safetensors*"):
        (tmp_path / path.name).symlink_to(path)
    assert read(tmp_path).facts["dropout_p"].value == config["resid_pdrop"]


PUBLISHED = {
    "bloom": {
        "bias_dropout_fusion": True, "masked_softmax_fusion": True, "offset_alibi": 100, "skip_bias_add": True,
        "skip_bias_add_qkv": False, "seq_length": 2048, "unk_token_id": 0, "attention_softmax_in_fp32": True,
    },
    "gpt2": {"n_ctx": 128, "task_specific_params": {"text-generation": {"do_sample": True}}, "prefix": "x"},
    "gptj": {"rotary": True, "gradient_checkpointing": False, "tokenizer_class": "GPT2Tokenizer"},
    "gpt_bigcode": {"inference_runner": 0, "max_batch_size": None, "pad_key_length": True, "max_sequence_length": None},
    "gpt_neox": {"rotary_pct": 0.25, "rotary_emb_base": 10000},
    "mpt": {"init_config": {"name": "kaiming_normal_", "verbose": 0}, "verbose": 0, "tokenizer_name": "x"},
    "starcoder2": {"mlp_type": "default", "norm_type": "layer_norm"},
}  # fmt: skip
"""Keys that configs of published checkpoints have besides those that transformers writes today."""


@pytest.mark.parametrize("kind", PUBLISHED)
def test_keys_of_published_configs_are_known(zoo: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    assert settled(with_keys(zoo(kind), tmp_path, PUBLISHED[kind])).agrees


def with_keys(checkpoint: Path, folder: Path, values: dict[str, Any], *, without: str = "") -> Path:
    """A folder with the same tensors, and a config that says other things."""
    config = json.loads((checkpoint / "config.json").read_text()) | values
    config.pop(without, None)
    (folder / "config.json").write_text(json.dumps(config))
    for path in checkpoint.glob("*.safetensors*"):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("kind", "values", "without", "said"),
    [
        ("llama", {"rope_ratio": 50}, "", "config key rope_ratio = 50"),
        ("gpt_neo", {}, "attention_layers", "config key attention_types"),
        ("llama", {"local_attention": 7}, "", "config key local_attention = 7"),
    ],
)
def test_a_key_that_nothing_reads_is_not_passed_over(
    zoo: Callable[[str], Path], tmp_path: Path, kind: str, values: dict[str, Any], without: str, said: str
) -> None:
    with pytest.raises(UnsupportedError, match=said):
        read(with_keys(zoo(kind), tmp_path, values, without=without))


@pytest.mark.parametrize("key", ["rope_interleave", "rope_interleaved"])
def test_a_config_may_say_which_dimensions_turn_together(zoo: Callable[[str], Path], tmp_path: Path, key: str) -> None:
    assert read(with_keys(zoo("llama"), tmp_path, {key: True})).value("rotary_pairs") == "interleaved"


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("self_attn.q_proj.weight", "no tensor in the layers is a projection to queries, keys and values"),
        ("mlp.down_proj.weight", "no tensor in the layers is a feed-forward network"),
        ("embed_tokens", "embedding of tokens"),
        ("layers.1.", "layers [1] are missing between 0 and 2"),
    ],
)
def test_what_is_missing_is_said(zoo: Callable[[str], Path], tmp_path: Path, left_out: str, said: str) -> None:
    tensors: dict[str, Tensor] = {}
    for path in sorted(zoo("qwen3").glob("model*.safetensors")):
        tensors |= {name: tensor for name, tensor in load_file(path).items() if left_out not in name}
    if left_out == "embed_tokens":
        tensors = {name: tensor for name, tensor in tensors.items() if "lm_head" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((zoo("qwen3") / "config.json").read_text())
    with pytest.raises(UnsupportedError) as error:
        read(tmp_path)
    assert said in str(error.value)


def test_tensors_with_a_dimension_too_many_are_said(zoo: Callable[[str], Path], tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for path in sorted(zoo("qwen3").glob("model*.safetensors")):
        tensors |= load_file(path)
    odd = {"model.norm.weight": torch.ones(8, 8), "model.layers.0.self_attn.o_proj.weight": torch.ones(64)}
    save_file({**tensors, **odd}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((zoo("qwen3") / "config.json").read_text())
    with pytest.raises(UnsupportedError) as error:
        read(tmp_path)
    assert "tensor model.norm.weight (8, 8): 1 dimension was expected" in error.value.faults
    assert "tensor model.layers.0.self_attn.o_proj.weight (64,): 2 dimensions were expected" in error.value.faults
