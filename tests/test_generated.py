"""The shipped families are what the templates make of their specs, and are as large as the published models."""

from __future__ import annotations

import pytest
from regenerate import regenerate

import kinfold

PUBLISHED = {
    ("llama", "7b"): 6_738_415_616,
    ("llama", "13b"): 13_015_864_320,
    ("llama", "llama2_7b"): 6_738_415_616,
    ("llama", "llama2_70b"): 68_976_648_192,
    ("llama", "llama3_8b"): 8_030_261_248,
    ("llama", "llama3_1_8b"): 8_030_261_248,
    ("llama", "llama3_2_1b"): 1_235_814_400,
}
"""Parameters according to the models' cards on the Hugging Face hub."""


def test_nothing_was_edited_by_hand() -> None:
    assert regenerate().diff() == ""


@pytest.mark.parametrize(("family", "arch"), PUBLISHED)
def test_an_arch_has_as_many_parameters_as_published(family: str, arch: str) -> None:
    model = kinfold.create_model(family, arch, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == PUBLISHED[family, arch]
