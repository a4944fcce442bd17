"""NLLB against transformers' M2M-100: logits, padding, cached decoding, the way back, old checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import M2M100ForConditionalGeneration

from kinfold import AssetCard, convert_checkpoint, generate, load_model, open_checkpoint
from kinfold.errors import GenerationError, KeyMapError, ProofError
from kinfold.generation import decoder_of
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.keymap.derive import derive
from kinfold.scaffold.keymap.native import FamilySide
from kinfold.scaffold.prove.parity import check_parity
from kinfold.scaffold.prove.reference import read_reference
from kinfold.scaffold.prove.verify import verify
from kinfold_zoo.nllb import NllbConfig, create_nllb_model
from kinfold_zoo.nllb.loader import hf_key_map

SIZES = {
    "model_dim": 64, "num_encoder_layers": 3, "num_decoder_layers": 2, "num_encoder_heads": 4, "num_decoder_heads": 8,
    "ffn_inner_dim": 96, "vocab_size": 256, "max_seq_len": 128,
}  # fmt: skip


@pytest.fixture
def checkpoint(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("m2m_100", pad_token_id=1)


@pytest.fixture
def card(checkpoint: Path) -> AssetCard:
    return AssetCard("tiny", "nllb", source=Path("none"), model_config=SIZES, checkpoint=checkpoint)


@pytest.fixture
def peer(checkpoint: Path) -> Any:
    return M2M100ForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager").double().eval()


@pytest.fixture
def source() -> tuple[Tensor, Tensor]:
    """Two sources, of which one has three tokens less, and their mask; 1 is what m2m_100 takes for padding."""
    ids = torch.randint(3, 256, (2, 11), generator=torch.Generator().manual_seed(5))
    ids[1, 8:] = 1
    return ids, ids != 1


def test_everything_is_proved(card: AssetCard, checkpoint: Path) -> None:
    proof = verify(card, against_transformers=True, reference_file=checkpoint / "reference.safetensors", tolerance=1e-6)
    assert proof.holds, str(proof)
    assert [check.name for check in proof.checks] == [
        "certificate", "round trip", "finite", "parity with reference.safetensors", "parity with transformers",
    ]  # fmt: skip


def test_padding_of_the_source_is_not_looked_at(card: AssetCard, peer: Any, source: tuple[Tensor, Tensor]) -> None:
    model = load_model(card, dtype=torch.float64)
    ids, mask = source
    target = torch.randint(3, 256, (2, 7), generator=torch.Generator().manual_seed(6))
    theirs = peer(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=target).logits
    ours = model(ids, target, mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    alone = model(ids[1:, :8], target[1:])
    torch.testing.assert_close(ours[1:], alone)
    assert (model(ids, target)[1] - ours[1]).abs().max() > 1e-3, "the mask makes no difference: a weak example"


def test_padding_of_the_target_on_the_left_changes_nothing(card: AssetCard, source: tuple[Tensor, Tensor]) -> None:
    model = load_model(card, dtype=torch.float64)
    ids, _ = source
    target = torch.randint(3, 256, (2, 7), generator=torch.Generator().manual_seed(6))
    padded = torch.cat([torch.full((2, 3), 7), target], dim=1)
    mask = (torch.arange(10) >= 3).expand(2, -1)
    torch.testing.assert_close(model(ids, padded, None, mask)[:, 3:], model(ids, target))


def test_cached_decoding_gives_the_tokens_of_transformers(
    card: AssetCard, peer: Any, source: tuple[Tensor, Tensor]
) -> None:
    model: Any = load_model(card, dtype=torch.float64)
    ids, mask = source
    start = torch.full((2, 1), 2)
    ours = generate(decoder_of(model, ids, mask), start, max_new_tokens=20, stop_tokens=[2])
    theirs = peer.generate(
        input_ids=ids, attention_mask=mask.long(), max_new_tokens=20, do_sample=False, num_beams=1, use_cache=True,
        decoder_start_token_id=2, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    assert torch.equal(ours, theirs)
    uncached = start
    for _ in range(ours.shape[1] - 1):
        uncached = torch.cat([uncached, model(ids, uncached, mask)[:, -1].argmax(-1, keepdim=True)], dim=1)
    until_stop = (ours[:, 1:] == 2).cumsum(1).cumsum(1) <= 1
    assert torch.equal(ours[:, 1:][until_stop], uncached[:, 1:][until_stop])


@pytest.mark.parametrize("with_reference", [False, True])
def test_its_key_map_is_inferred(checkpoint: Path, with_reference: bool) -> None:
    reference = read_reference(checkpoint / "reference.safetensors") if with_reference else None
    with open_checkpoint(checkpoint) as opened:
        derived = derive(opened, FamilySide(create_nllb_model, NllbConfig(**SIZES)), reference=reference)
    assert {item.rule for item in derived.rules} == {rule for rule in hf_key_map if rule.targets}
    assert not derived.questions
    assert derived.agrees is (True if with_reference else None)


def test_copies_of_the_embedding_in_old_checkpoints_are_taken_and_not_written(
    card: AssetCard, checkpoint: Path, tmp_path: Path
) -> None:
    tensors = {
        name: tensor for shard in checkpoint.glob("model*.safetensors") for name, tensor in load_file(shard).items()
    }
    copies = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    assert not set(copies) & set(tensors)
    old = {**tensors, **{name: tensors["model.shared.weight"].clone() for name in copies}}
    save_file(old, tmp_path / "old.safetensors")
    model = load_model(
        AssetCard("old", "nllb", Path("none"), model_config=SIZES, checkpoint=tmp_path / "old.safetensors")
    )
    config = load_model.get("nllb").config_loader(card)
    converter = load_model.get("nllb").checkpoint_converter
    written = converter.export(model.state_dict(), config, layout="hf")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)

    old["lm_head.weight"][0, 0] += 1
    save_file(old, tmp_path / "other.safetensors")
    with pytest.raises(KeyMapError, match=r"lm_head.weight should repeat model.shared.weight, but differs"):
        load_model(AssetCard("x", "nllb", Path("none"), model_config=SIZES, checkpoint=tmp_path / "other.safetensors"))


def test_a_reference_of_a_decoder_is_none_of_an_encoder_and_decoder(
    card: AssetCard, tiny_checkpoint: Callable[..., Path]
) -> None:
    reference = read_reference(tiny_checkpoint("llama") / "reference.safetensors")
    with pytest.raises(ProofError, match="a source and a target"):
        check_parity(load_model(card), reference, tolerance=1e-4)


def test_it_is_converted_to_our_layout_and_back(card: AssetCard, checkpoint: Path, peer: Any, tmp_path: Path) -> None:
    native = convert_checkpoint(card, tmp_path / "native").path
    sizes = AssetCard("native", "nllb", Path("none"), model_config=SIZES, checkpoint=native)
    hf = convert_checkpoint(sizes, tmp_path / "hf", to="hf").path
    again = M2M100ForConditionalGeneration.from_pretrained(hf, attn_implementation="eager").double().eval()
    assert again.config.to_diff_dict() == peer.config.to_diff_dict()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in peer.state_dict().items())


def test_generate_answers_to_a_source_as_transformers_does(
    checkpoint: Path, peer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    backend = Tokenizer(WordLevel({token: number for number, token in enumerate([*special, *words()])}, "<unk>"))
    backend.pre_tokenizer = Whitespace()  # pyright: ignore
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])  # pyright: ignore
    backend.add_special_tokens(special)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>", "pad_token": "<pad>"}')
    (tmp_path / "tiny.yaml").write_text(
        f"name: tiny\nmodel_family: nllb\nmodel_config: {json.dumps(SIZES)}\ncheckpoint: {checkpoint}\ntokenizer: .\n"
    )
    options = ["--max-new-tokens", "6", "--dtype", "float32", "--start", "</s> w9"]
    said = CliRunner().invoke(scaffold, ["generate", "tiny.yaml", "w5 w77 w123", *options])
    assert said.exit_code == 0, said.output
    source = torch.tensor([backend.encode("w5 w77 w123").ids])
    theirs = peer.float().generate(
        input_ids=source, decoder_input_ids=torch.tensor([[2, 13]]), max_new_tokens=6, do_sample=False, num_beams=1,
        eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    assert said.output.split() == backend.decode(theirs[0, 2:].tolist()).split()

    (tmp_path / "generation_config.json").write_text('{"decoder_start_token_id": 13}')
    begun = CliRunner().invoke(scaffold, ["generate", "tiny.yaml", "w5 w77 w123", "--max-new-tokens", "6"])
    theirs = peer.generate(
        input_ids=source, decoder_start_token_id=13, max_new_tokens=6, do_sample=False, num_beams=1, eos_token_id=2,
        pad_token_id=1,
    )  # fmt: skip
    assert begun.output.split() == backend.decode(theirs[0, 1:].tolist()).split()

    refused = CliRunner().invoke(scaffold, ["generate", "tiny.yaml", "w5", "--start", ""])
    assert isinstance(refused.exception, GenerationError)


def words() -> list[str]:
    """w0 and so on, after four special tokens; w9 has the number 13."""
    return [f"w{number}" for number in range(252)]
