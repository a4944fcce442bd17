"""The checkpoints of the zoo: what they are made of, and which families are in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from zoo.families import data, group_of
from zoo.make import LOOKS_AHEAD, NotBuilt, build, fitting, main, tiny_config
from zoo.sizes import FAMILIES
from zoo.variations import VARIATIONS


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()}


def test_a_checkpoint_lies_in_shards_beside_logits_that_transformers_computes_from_it(tmp_path: Path) -> None:
    assert build("qwen3", tmp_path)
    assert len(list((tmp_path / "qwen3").glob("model-*-of-*.safetensors"))) > 1
    reference = load_file(tmp_path / "qwen3" / "reference.safetensors")
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in reference.items()} == {
        "token_ids": (torch.int64, (2, 24)),
        "logits": (torch.float64, (2, 24, 256)),
    }
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "qwen3", attn_implementation="eager").double()
    with torch.no_grad():
        torch.testing.assert_close(theirs(reference["token_ids"]).logits, reference["logits"])
        unseen = load_file(tmp_path / "qwen3" / "unseen" / "reference.safetensors")
        torch.testing.assert_close(theirs(unseen["token_ids"]).logits, unseen["logits"])


def test_nothing_in_a_checkpoint_is_as_a_family_initialises_it(tmp_path: Path) -> None:
    build("gpt2", tmp_path)
    plain = {name for name, t in weights(tmp_path / "gpt2").items() if (t == 0).all() or (t == 1).all()}
    assert plain == set()


def test_a_seed_gives_the_same_checkpoint_and_another_one_another(tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        build("llama", tmp_path / folder, seed=seed)
    a, b, c = (weights(tmp_path / folder / "llama") for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not any(torch.equal(a[name], c[name]) for name in a)


def test_what_was_built_before_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "llama" / "model-00009-of-00009.safetensors"
    stale.parent.mkdir()
    stale.touch()
    build("llama", tmp_path)
    assert not stale.exists()


def test_a_variation_changes_what_it_says_and_nothing_else() -> None:
    plain = tiny_config("llama").to_dict()
    (variation,) = (variation for variation in fitting("llama") if variation.name == "rope-linear")
    varied = tiny_config("llama", variation).to_dict()
    rope = {"rope_type": "linear", "type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    assert varied == {**plain, "rope_parameters": rope}


def test_a_variation_that_fits_no_family_of_that_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotBuilt, match="llama has no variation 'post-norm'"):
        build("llama+post-norm", tmp_path)


def test_the_report_says_what_was_not_built_and_what_looks_ahead(tmp_path: Path, capsys) -> None:
    main([str(tmp_path), "llama+tied", "llama+post-norm", "bert"])
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[:3])
    assert said["llama+tied"] == "ok"
    assert said["bert"] == LOOKS_AHEAD
    assert said["llama+post-norm"].startswith("llama has no variation")


def test_every_family_that_transformers_calls_causal_is_in_one_group() -> None:
    families = Counter(family for group in data()["groups"].values() for family in group["families"])
    assert families == Counter(list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    assert {group_of(name) for name in data()["passing"]} == {"dense"}


def test_every_variation_fits_a_dense_family_and_every_exception_is_of_a_family() -> None:
    fitted = {variation.name for kind in data()["groups"]["dense"]["families"] for variation in fitting(kind)}
    assert [variation.name for variation in VARIATIONS if variation.name not in fitted] == []
    assert FAMILIES.keys() - MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() == set()
    assert len({variation.name for variation in VARIATIONS}) == len(VARIATIONS)
