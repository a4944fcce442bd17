"""The recipe `lm`: what is learned, how a run goes on, and what comes out of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_peer import peer_of, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer
from verses import SIZES, TEXT, assert_same_run, call, losses, weights, write_rows, write_tokenizer

from kinfold import load_model, load_tokenizer
from kinfold.assets import user_cards_folder, write_card
from kinfold.errors import CardError, ConfigError, KinfoldError, ParallelError, TrainingError
from kinfold.recipes.config import LmConfig
from kinfold.recipes.data import Data, collate
from kinfold.recipes.lm import LmUnit, read_data, train
from kinfold.recipes.packing import Sample
from kinfold.scaffold.project import Project

VALUES: dict[str, Any] = {
    "model": "tiny", "data": "verses.txt", "max_seq_len": 32, "batch_size": 4, "lr": 3e-3, "warmup_steps": 2,
    "max_num_steps": 12, "publish_metrics_every_n_steps": 1, "checkpoint_every_n_steps": 5,
}  # fmt: skip


def options(**values: Any) -> list[str]:
    """The command line that says `VALUES` and others."""
    said = {**VALUES, **values}
    return [part for name, value in said.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def silent(_: str) -> None:
    pass


def test_what_comes_out_is_a_model_by_its_name_and_transformers_says_the_same(
    project: Project, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "verses.txt").write_text(TEXT)
    call("new-family", "x", "--from", checkpoint)
    said = call("train", "lm", *options(model="x", data=tmp_path / "verses.txt", max_num_steps=40, lr=1e-2))
    run = project.root / "runs" / "x-lm"
    assert "Model: x (x 134k), 133,568 parameters" in said
    assert "(documents: 1, tokens: 602, sequences: 19)" in said
    assert "Training: 40 steps of 4 sequences in float32 on cpu" in said
    assert str(project.root / "mylab" / "cards" / "x-lm.yaml") in said
    assert losses(run)[-1] < 0.2 * losses(run)[0]

    prompt = "Verse 3: the"
    generated = call("generate", "x-lm", prompt, "--max-new-tokens", 12)
    assert "the hill to see what" in generated
    call("convert", run / "model", tmp_path / "hf", "--to", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config == json.loads((checkpoint / "config.json").read_text())
    peer: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = load_tokenizer(tmp_path / "hf")
    token_ids = torch.tensor([tokenizer.encode(prompt)])
    theirs = peer.generate(token_ids, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(theirs[0].tolist()) == generated.rstrip("\n")


def test_a_run_that_crashed_goes_on_as_if_it_had_not(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("train", "lm", *options(output="undisturbed", valid_share=0.2, validate_every_n_steps=4))
    crashing = options(output="crashed", name="crashed", valid_share=0.2, validate_every_n_steps=4)

    def crash(self: LmUnit, step_nr: int) -> None:
        if step_nr == 8:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(LmUnit, "set_step_nr", crash)
        with pytest.raises(MemoryError):
            call("train", "lm", *crashing)
    assert not (tiny / "crashed" / "model").exists()
    said = call("train", "lm", *crashing)
    assert f"Going on from {tiny / 'crashed' / 'checkpoints' / 'step_5'}." in said
    assert_same_run(tiny / "crashed", tiny / "undisturbed")
    assert "came to its end before" in call("train", "lm", *crashing)


def test_a_run_that_is_asked_to_stop_goes_on_as_if_it_had_not(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("train", "lm", *options(output="undisturbed"))

    def stop(self: LmUnit, step_nr: int) -> None:
        if step_nr == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(LmUnit, "set_step_nr", stop)
        said = call("train", "lm", *options(output="stopped", name="stopped"))
    assert said.endswith("Stopped after step 7; the same command goes on.\n")
    assert not (user_cards_folder() / "stopped.yaml").exists()
    call("train", "lm", *options(output="stopped", name="stopped"))
    assert_same_run(tiny / "stopped", tiny / "undisturbed")


def test_file_options_module_and_function_are_the_same_recipe(tiny: Path, tmp_path: Path) -> None:
    call("train", "lm", *options(output="by_options"))
    (tiny / "recipe.yaml").write_text(json.dumps({**VALUES, "output": "by_file", "max_num_steps": 99}))
    call("train", "lm", "--config", "recipe.yaml", "--max-num-steps", 12, "--name", "by-file")
    call("train", "lm", "--config", "by_file/recipe.yaml", "--output", "again", "--name", "again")
    command = [sys.executable, "-m", "kinfold.recipes.lm", *options(output="by_module", name="by-module")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1][:7]) == (0, "Try it:"), done.stderr
    outcome = train(LmConfig(**VALUES, output="by_function", name="by-function"), say=silent)
    assert outcome.training is not None
    assert (outcome.training.step_nr, outcome.training.loss) == (12, losses(tiny / "by_options")[-1])
    for other in ("by_file", "again", "by_module", "by_function"):
        assert_same_run(tiny / "by_options", tiny / other)
        assert load_model(other.replace("_", "-")).training is False


def test_a_run_is_not_gone_on_with_otherwise(tiny: Path) -> None:
    call("train", "lm", *options())
    shutil.rmtree(tiny / "runs" / "tiny-lm" / "model")
    with pytest.raises(ConfigError) as caught:
        call("train", "lm", *options(lr=1e-3, seed=3, keep_last_n_checkpoints=7))
    assert caught.value.faults == ("`lr` was 0.003, and is 0.001 now", "`seed` was 2, and is 3 now")
    (tiny / "verses.txt").write_text(TEXT.upper())
    with pytest.raises(TrainingError, match="a file or the tokenizer has changed") as changed:
        call("train", "lm", *options())
    assert changed.value.faults == ("the sequences for training are not what they were",)


def test_from_scratch_it_takes_no_checkpoint(tiny: Path, checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    tokenizer_config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    write_card(user_cards_folder(), name="plan", model_family="llama", model_config=SIZES, tokenizer=checkpoint)
    with pytest.raises(CardError, match="names no checkpoint"):
        call("train", "lm", *options(model="plan"))
    said = call("train", "lm", *options(model="plan", lr=1e-2), "--from-scratch")
    assert "fresh weights" in said
    assert losses(tiny / "runs" / "plan-lm")[-1] < losses(tiny / "runs" / "plan-lm")[0] / 1.5
    call("convert", "plan-lm", "hf", "--to", "hf")
    peer: Any = AutoModelForCausalLM.from_pretrained(tiny / "hf")
    assert (peer.config.bos_token_id, peer.config.eos_token_id, peer.config.pad_token_id) == (1, 2, 0)
    assert AutoTokenizer.from_pretrained(tiny / "hf").eos_token == "</s>"
    token_ids = torch.tensor([[1, 40, 50]])
    with torch.inference_mode():
        assert torch.allclose(load_model("plan-lm")(token_ids), peer(token_ids).logits, atol=1e-5)


def test_the_outcome_is_saved_in_the_dtype_of_the_checkpoint_or_the_one_that_is_said(tiny: Path) -> None:
    call("convert", "tiny", "half", "--to", "hf", "--dtype", "bfloat16")
    write_card(user_cards_folder(), name="half", model_family="llama", model_config=SIZES, checkpoint=tiny / "half")
    for name, more in {"half-lm": {}, "wide": {"name": "wide", "save_dtype": "float32"}}.items():
        call("train", "lm", *options(model="half", max_num_steps=1, **more))
        dtype = more.get("save_dtype", "bfloat16")
        assert {str(tensor.dtype) for tensor in weights(tiny / "runs" / name).values()} == {f"torch.{dtype}"}
        config = json.loads((tiny / "runs" / name / "model" / "config.json").read_text())
        assert (config["dtype"], config["hf_config"]["dtype"]) == (dtype, dtype)


def test_bfloat16_and_tensorboard_can_be_asked_for(tiny: Path) -> None:
    call("train", "lm", *options(dtype="bfloat16"), "--tensorboard")
    assert losses(tiny / "runs" / "tiny-lm")[-1] < losses(tiny / "runs" / "tiny-lm")[0]
    assert list((tiny / "runs" / "tiny-lm" / "tensorboard").iterdir())


def test_validation_on_the_data_trained_on_is_their_loss(tiny: Path) -> None:
    values = {**VALUES, "batch_size": 19, "lr_schedule": "constant"}
    outcome = train(LmConfig(**{**values, "max_num_steps": 5}, valid_data="verses.txt"), say=silent)
    after = train(LmConfig(**{**values, "max_num_steps": 6}, name="after"), say=silent)
    assert outcome.training is not None
    assert after.training is not None
    assert after.training.loss == pytest.approx(outcome.training.valid_loss, rel=1e-5)


def test_the_loss_is_that_of_transformers_for_padded_prompts_and_completions() -> None:
    model = tiny_llama()
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(64, (length,), generator=generator) for length in (9, 5, 12)]
    masks = [None, torch.tensor([False, False, False, True, True]), torch.arange(12) >= 7]
    batch = collate([Sample(row, mask) for row, mask in zip(rows, masks, strict=True)], pad_idx=3)
    loss, num_targets = LmUnit(model)(batch)
    assert batch.padding_mask is not None
    labels = batch.seqs.masked_fill(~batch.is_target, -100)
    theirs = peer_of(model)(input_ids=batch.seqs, attention_mask=batch.padding_mask.long(), labels=labels).loss
    assert num_targets == 8 + 2 + 5
    assert (loss / num_targets).item() == pytest.approx(theirs.item(), rel=1e-6)  # theirs is float32


def test_documents_end_with_eos_and_are_packed_and_pairs_are_left_whole(tiny: Path, checkpoint: Path) -> None:
    tokenizer = load_tokenizer(checkpoint)
    texts = ["the bear", "what the owl could see", "</s>"]
    long = {"prompt": "the " * 40, "completion": "bear"}
    path = write_rows(
        tiny / "a.jsonl", *({"text": text} for text in texts), {"prompt": "the", "completion": " hill"}, long
    )
    data = read_data(LmConfig(model="tiny", data=path), tokenizer, path, max_seq_len=8)
    *packed, pair = data.samples
    tokens = [token for sample in packed for token in sample.tokens.tolist()]
    assert tokens == [*tokenizer.encode(texts[0]), 2, *tokenizer.encode(texts[1]), 2, 1, 2]
    assert [len(sample.tokens) for sample in packed[:-1]] == [8] * (len(packed) - 1)
    new = [*tokenizer.encode(" hill", add_special_tokens=False), 2]
    assert pair.tokens.tolist() == [*tokenizer.encode("the"), *new]
    assert pair.targets is not None
    assert pair.tokens[pair.targets].tolist() == new
    assert data.notes == ("pairs of more than 8 tokens that are left out: 1 of 2",)
    path = write_rows(tiny / "b.jsonl", long)
    with pytest.raises(TrainingError, match=r"All pairs \(1\) are longer than 8 tokens"):
        read_data(LmConfig(model="tiny", data=path), tokenizer, path, max_seq_len=8)


def test_what_is_held_out_is_drawn_by_the_seed_and_nothing_is_in_both() -> None:
    data = Data([Sample(torch.tensor([number, number])) for number in range(10)], {})
    parts = [data.hold_out(0.3, seed) for seed in (1, 1, 2)]
    drawn = [[int(sample.tokens[0]) for sample in split.valid.samples] for split in parts if split.valid]
    assert drawn[0] == drawn[1] != drawn[2]
    trained = [int(sample.tokens[0]) for sample in parts[0].train.samples]
    assert sorted(trained + drawn[0]) == list(range(10))
    with pytest.raises(TrainingError, match="leaves nothing on one side"):
        data.hold_out(0.01, 1)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"model": "tine"}, CardError, "Did you mean 'tiny'"),
        ({"max_seq_len": 129}, ConfigError, "`max_seq_len` = 129 is more than the 128 tokens that tiny is made for"),
        ({"device": "abacus"}, ConfigError, "`device` = 'abacus' cannot be used"),
        ({"eos_token": "<end>"}, TrainingError, "`eos_token` = '<end>' is no token of the tokenizer"),
        ({"data": "missing.txt"}, TrainingError, "missing.txt does not exist"),
        ({"valid_data": "missing.txt"}, TrainingError, "missing.txt does not exist"),
        ({"output": "verses.txt/x"}, ConfigError, "verses.txt/x cannot be made: Not a directory"),
        ({"output": "."}, ConfigError, "is in the way: it is no folder of a run"),
        ({"name": "tiny"}, CardError, "There is a card 'tiny': "),
        ({"name": "a/b"}, CardError, "'a/b' cannot be the name of a card"),
        ({"valid_share": 0.5, "valid_data": "verses.txt"}, ConfigError, "exclude each other"),
        ({"validate_every_n_steps": 5}, ConfigError, "needs `valid_data` or `valid_share`"),
        ({"sequence_parallel": True}, ConfigError, "`sequence_parallel` needs a `tp` of 2 or more"),
        ({"tp": 2}, ParallelError, "tp=2 does not fit 1 process"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    tiny: Path, values: dict[str, Any], error: type[KinfoldError], said: str
) -> None:
    with pytest.raises(error) as caught:
        train(LmConfig(**{**VALUES, **values}), say=silent)
    assert said in str(caught.value)
    assert [path.name for path in tiny.iterdir()] == ["verses.txt"]


def test_a_tokenizer_of_another_model_is_found_out(tiny: Path, checkpoint: Path) -> None:
    sizes = {**SIZES, "vocab_size": 300}
    write_card(user_cards_folder(), name="small", model_family="llama", model_config=sizes, tokenizer=checkpoint)
    with pytest.raises(TrainingError, match="and the model has 300 tokens"):
        train(LmConfig(**{**VALUES, "model": "small"}, from_scratch=True), say=silent)


def test_without_a_token_that_ends_texts_it_has_to_be_said(tiny: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    file = (write_tokenizer(bare) / "tokenizer.json").rename(bare / "words.json")
    write_card(user_cards_folder(), name="bare", model_family="llama", model_config=SIZES, tokenizer=file)
    config = LmConfig(**{**VALUES, "model": "bare", "max_num_steps": 1}, from_scratch=True)
    with pytest.raises(TrainingError, match="does not say its `eos_token`"):
        train(config, say=silent)
    config.eos_token = "</s>"
    outcome = train(config, say=silent)
    assert outcome.model is not None
    assert load_tokenizer(outcome.model).encode("the bear") == load_tokenizer(file).encode("the bear")


def test_each_recipe_is_for_its_kind_of_model(tiny: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"seq2seq trains models that take \(source_ids, token_ids\), and a LlamaModel"
    ):
        call("train", "seq2seq", *options())
    write_card(user_cards_folder(), name="pairs", model_family="transformer", tokenizer=tiny.parent / "checkpoint")
    with pytest.raises(ConfigError, match=r"lm trains models that take \(token_ids\), and a TransformerModel"):
        call("train", "lm", *options(model="pairs"), "--from-scratch")
