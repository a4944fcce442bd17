"""The recipe `seq2seq`: what the encoder and the decoder see, what is learned, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import M2M100Config, M2M100ForConditionalGeneration
from transformers.trainer_pt_utils import LabelSmoother
from verses import TEXT, VOCAB_SIZE, assert_same_run, call, losses, write_rows, write_tokenizer

from kinfold import load_model, load_tokenizer
from kinfold.assets import AssetCard, user_cards_folder, write_card
from kinfold.errors import TrainingError
from kinfold.recipes.config import Seq2SeqConfig
from kinfold.recipes.data import collate
from kinfold.recipes.packing import Sample
from kinfold.recipes.seq2seq import Seq2SeqUnit, read_data, train

SIZES = {
    "model_dim": 64, "num_encoder_layers": 2, "num_decoder_layers": 2, "num_encoder_heads": 4, "num_decoder_heads": 4,
    "ffn_inner_dim": 96, "vocab_size": VOCAB_SIZE, "max_seq_len": 64,
}  # fmt: skip
NLLB = ("<s>", "<pad>", "</s>", "<unk>", "eng_Latn", "fra_Latn")
BOS, PAD, EOS, _, ENGLISH, FRENCH = range(6)
PAIRS = [{"source": line[:9], "target": line[9:30]} for line in TEXT.splitlines()[:12]]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `pairs.jsonl`, where the card `plan` is of a transformer without weights."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    write_tokenizer(tokenizer, special=("<pad>", "</s>"), template="$A </s>")
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    cards = user_cards_folder()
    write_card(cards, name="plan", model_family="transformer", model_config=SIZES, tokenizer=tokenizer)
    write_rows(folder / "pairs.jsonl", *PAIRS)
    return folder


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint of NLLB's kind that transformers wrote, with a tokenizer that knows two languages."""
    folder = tmp_path_factory.mktemp("nllb")
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=VOCAB_SIZE, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, max_position_embeddings=64,
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=EOS, init_std=0.1,
        encoder_layerdrop=0.0, decoder_layerdrop=0.0,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    write_tokenizer(folder, special=NLLB, template="eng_Latn $A </s>")
    return folder


def nllb_card(checkpoint: Path) -> AssetCard:
    return AssetCard("nllb_tiny", "nllb", source=Path("none"), model_config=SIZES, checkpoint=checkpoint)


def decode(model: nn.Module, source: Tensor, start: int, count: int) -> list[int]:
    """The likeliest tokens one after the other, without a cache."""
    token_ids = torch.tensor([[start]])
    with torch.inference_mode():
        for _ in range(count):
            token_ids = torch.cat([token_ids, model(source, token_ids)[:, -1:].argmax(-1)], dim=1)
    return token_ids[0, 1:].tolist()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_loss_is_that_of_transformers(nllb: Path, label_smoothing: float) -> None:
    model = load_model(nllb_card(nllb))
    peer: Any = M2M100ForConditionalGeneration.from_pretrained(nllb, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(6, VOCAB_SIZE, (length,), generator=generator) for length in (9, 5, 12, 8, 11, 6)]
    samples = [Sample(torch.cat([torch.tensor([EOS]), rows[n]]), source=rows[n + 3]) for n in range(3)]
    batch = collate(samples, pad_idx=PAD)
    assert batch.source is not None
    assert batch.source.padding_mask is not None
    loss, num_targets = Seq2SeqUnit(model, label_smoothing=label_smoothing)(batch)
    inputs, targets = batch.as_auto_regressive()
    labels = targets.seqs.masked_fill(~targets.is_target, -100)
    theirs = peer(
        input_ids=batch.source.seqs,
        attention_mask=batch.source.padding_mask.long(),
        decoder_input_ids=inputs.seqs,
        labels=labels,
    )
    expected = LabelSmoother(epsilon=label_smoothing)({"logits": theirs.logits}, labels)
    assert num_targets == 9 + 5 + 12
    assert (loss / num_targets).item() == pytest.approx(expected.item(), rel=1e-5)


def options(**values: Any) -> list[str]:
    """The command line that trains `plan`."""
    common = {"model": "plan", "data": "pairs.jsonl", "batch_size": 12, "lr": 3e-3, "warmup_steps": 10}
    said = {**common, "publish_metrics_every_n_steps": 1, **values}
    return ["--from-scratch", *(part for name in said for part in (f"--{name.replace('_', '-')}", str(said[name])))]


def test_it_learns_what_is_to_follow_on_each_source(plan: Path) -> None:
    tokenizer = load_tokenizer(plan.parent / "tokenizer")
    sizes = {**SIZES, "dropout_p": 0.0, "init_std": 0.1}
    write_card(user_cards_folder(), name="firm", base="plan", model_config=sizes)
    said = call("train", "seq2seq", *options(model="firm", max_num_steps=100, label_smoothing=0))
    assert "(pairs: 12, tokens: " in said
    assert losses(plan / "runs" / "firm-seq2seq")[-1] < 0.01 * losses(plan / "runs" / "firm-seq2seq")[0]
    model = load_model("firm-seq2seq")
    for pair in PAIRS:
        wanted = [*tokenizer.encode(pair["target"], add_special_tokens=False), 1]
        assert decode(model, torch.tensor([tokenizer.encode(pair["source"])]), 1, len(wanted)) == wanted


def test_a_run_that_crashed_goes_on_with_the_dropout_it_would_have_had(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("train", "seq2seq", *options(max_num_steps=9))

    def crash(self: Seq2SeqUnit, step_nr: int) -> None:
        if step_nr == 7:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Seq2SeqUnit, "set_step_nr", crash)
        with pytest.raises(MemoryError):
            call("train", "seq2seq", *options(max_num_steps=9, name="crashed", checkpoint_every_n_steps=4))
    said = call("train", "seq2seq", *options(max_num_steps=9, name="crashed"))
    assert "step_4" in said
    assert_same_run(plan / "runs" / "crashed", plan / "runs" / "plan-seq2seq")


def test_a_tuned_nllb_goes_back_to_transformers(plan: Path, nllb: Path) -> None:
    write_card(user_cards_folder(), name="tiny", model_family="nllb", model_config=SIZES, checkpoint=nllb)
    values: dict[str, Any] = {"model": "tiny", "data": "pairs.jsonl", "lr": 3e-3, "max_num_steps": 40, "batch_size": 6}
    said: list[str] = []
    train(Seq2SeqConfig(**values, source_language="eng_Latn", target_language="fra_Latn"), say=said.append)
    assert said[-1] == "Try it: scaffold generate tiny-seq2seq TEXT --start '</s>fra_Latn'"
    call("convert", "tiny-seq2seq", "hf", "--to", "hf")
    assert json.loads((plan / "hf" / "config.json").read_text()) == json.loads((nllb / "config.json").read_text())
    peer: Any = M2M100ForConditionalGeneration.from_pretrained(plan / "hf").eval()
    tokenizer = load_tokenizer(plan / "hf")
    source = torch.tensor([[ENGLISH, *tokenizer.encode("Verse 3: ", add_special_tokens=False), EOS]])
    start = torch.tensor([[EOS, FRENCH]])
    theirs = peer.generate(source, decoder_input_ids=start, max_new_tokens=8, do_sample=False, num_beams=1)
    ours = call("generate", "tiny-seq2seq", "Verse 3: ", "--start", "</s>fra_Latn", "--max-new-tokens", 8)
    assert ours.removesuffix("\n") == tokenizer.decode(theirs[0].tolist())
    assert ours.startswith("the ")


def test_a_pair_is_source_and_eos_and_start_target_and_eos(plan: Path) -> None:
    tokenizer = load_tokenizer(plan.parent / "tokenizer")
    path = write_rows(plan / "a.jsonl", {"source": "the bear", "target": "could see"})
    [sample] = read_data(Seq2SeqConfig(model="plan", data=path), tokenizer, path, max_seq_len=32).samples
    source, target = (tokenizer.encode(text, add_special_tokens=False) for text in ("the bear", "could see"))
    assert sample.source is not None
    assert sample.source.tolist() == tokenizer.encode("the bear") == [*source, 1]
    assert sample.tokens.tolist() == [1, *target, 1]  # it has no bos
    config = Seq2SeqConfig(model="plan", data=path, decoder_start_token="<pad>")
    assert read_data(config, tokenizer, path, max_seq_len=32).samples[0].tokens[0] == 0


def test_where_there_are_languages_both_begin_with_one(nllb: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(nllb)
    path = write_rows(
        tmp_path / "a.jsonl",
        {"source": "the bear", "target": "could see"},
        {"source": "eng_Latnthe", "target": "fra_Latnsee"},
    )

    def read(**values: Any) -> list[Sample]:
        return read_data(Seq2SeqConfig(model="m", data=path, **values), tokenizer, path, max_seq_len=32).samples

    with pytest.raises(TrainingError, match="source and target have to begin") as caught:
        read(target_language="fra_Latn")
    assert caught.value.faults == ("1 of 2 have none in front, and there is no `source_language`",)
    with pytest.raises(TrainingError, match="`source_language` = 'english' is no token"):
        read(source_language="english")
    path = write_rows(tmp_path / "a.jsonl", {"source": "the bear", "target": "could see"})
    [sample] = read(source_language="eng_Latn", target_language="fra_Latn")
    source, target = (tokenizer.encode(text, add_special_tokens=False) for text in ("the bear", "could see"))
    assert sample.source is not None
    assert sample.source.tolist() == [ENGLISH, *source, EOS]
    assert sample.tokens.tolist() == [EOS, FRENCH, *target, EOS]


def test_pairs_that_are_too_long_on_either_side_are_counted(plan: Path) -> None:
    tokenizer = load_tokenizer(plan.parent / "tokenizer")
    rows = [("bear " * 40, "a"), ("a", "bear " * 40), ("a", "b")]
    path = write_rows(plan / "a.jsonl", *({"source": source, "target": target} for source, target in rows))
    data = read_data(Seq2SeqConfig(model="plan", data=path), tokenizer, path, max_seq_len=16)
    assert len(data.samples) == 1
    assert data.notes == ("pairs of more than 16 tokens that are left out: 2 of 3",)
