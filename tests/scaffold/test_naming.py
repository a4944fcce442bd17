"""Names that can be a package, functions and files at once; and what is suggested for others."""

from __future__ import annotations

import pytest

from kinfold.errors import ProjectError
from kinfold.scaffold.naming import arch_faults, check_name, class_prefix


@pytest.mark.parametrize("name", ["llama", "qwen2", "my_model", "a", "gpt_2b"])
def test_good_names(name: str) -> None:
    check_name(name, what="family")


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("MyModel", "my_model"),
        ("my-model", "my_model"),
        ("7b", "model_7b"),
        ("modèle", "mod_le"),
        ("class", "class_model"),
        ("match", "match_model"),
        ("json", "json_model"),
        ("registry", "registry_model"),
        ("a__b", "a_b"),
        ("a_", "a"),
        ("", "model"),
        ("../x", "x"),
        ("a/b", "a_b"),
        ("llama", "llama_model"),
    ],
)
def test_bad_names_and_what_would_do(name: str, suggested: str) -> None:
    with pytest.raises(ProjectError) as error:
        check_name(name, what="family", taken={"llama"})
    assert error.value.hint == f"{suggested!r} would do."
    check_name(suggested, what="family", taken={"llama"})


def test_all_faults_at_once() -> None:
    with pytest.raises(ProjectError) as error:
        check_name("import_", what="family", taken={"import_"})
    assert len(error.value.faults) == 2


def test_class_prefix() -> None:
    assert [class_prefix(name) for name in ("llama", "my_model2", "gpt_2b")] == ["Llama", "MyModel2", "Gpt2b"]


def test_names_of_archs() -> None:
    assert arch_faults(["7b", "1.2b", "v2-large", "A_1"]) == []
    assert len(arch_faults(["", '7b"', "a b", "_x"])) == 4
    assert arch_faults(["1.2b", "1_2b"]) == ["the archs '1.2b', '1_2b' would share the function _1_2b"]
