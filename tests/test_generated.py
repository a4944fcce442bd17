"""The shipped families are what the templates make of their specs, and are as large as the published models."""

from __future__ import annotations

import subprocess
import sys

import pytest
from regenerate import regenerate

import kinfold
from kinfold_zoo.registry import FAMILIES

PUBLISHED = {
    ("llama", "7b"): 6_738_415_616,
    ("llama", "13b"): 13_015_864_320,
    ("llama", "33b"): 32_528_943_616,
    ("llama", "65b"): 65_285_660_672,
    ("llama", "llama2_7b"): 6_738_415_616,
    ("llama", "llama2_13b"): 13_015_864_320,
    ("llama", "llama2_70b"): 68_976_648_192,
    ("llama", "llama3_8b"): 8_030_261_248,
    ("llama", "llama3_70b"): 70_553_706_496,
    ("llama", "llama3_1_8b"): 8_030_261_248,
    ("llama", "llama3_1_70b"): 70_553_706_496,
    ("llama", "llama3_1_405b"): 405_853_388_800,
    ("llama", "llama3_2_1b"): 1_235_814_400,
    ("llama", "llama3_2_3b"): 3_212_749_824,
    ("mistral", "7b"): 7_241_732_096,
    ("nllb", "nllb_dense_600m"): 615_073_792,
    ("nllb", "nllb_dense_1b"): 1_370_638_336,
    ("nllb", "nllb_dense_3b"): 3_344_863_232,
    ("transformer", "base"): 60_915_712,
    ("transformer", "big"): 209_911_808,
}
"""Parameters according to the models' cards on the Hugging Face hub.

The transformer's are those of torch's own, with an embedding of 32,768 tokens (`families/test_encoder_decoder.py`).
"""


def test_nothing_was_edited_by_hand() -> None:
    assert regenerate().diff() == ""


def test_a_shard_plan_imports_nothing_that_shards() -> None:
    families = ", ".join(f"kinfold_zoo.{family}" for family in FAMILIES)
    found = "[name for name in sys.modules if name.startswith('torch.distributed.tensor')]"
    command = [sys.executable, "-c", f"import sys, {families}; print({found})"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_arch_is_counted() -> None:
    archs = {(family, arch) for family in FAMILIES for arch in kinfold.model_factories.get(family).archs.names()}
    assert archs == PUBLISHED.keys()


@pytest.mark.parametrize(("family", "arch"), PUBLISHED)
def test_an_arch_has_as_many_parameters_as_published(family: str, arch: str) -> None:
    model = kinfold.create_model(family, arch, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[family, arch]
