"""A config from a file and options: each field is both, and every fault is said at once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from verses import call

from kinfold.errors import ConfigError
from kinfold.recipes.command import main
from kinfold.recipes.config import RECIPES, LmConfig, RecipeConfig, Seq2SeqConfig
from kinfold.recipes.settings import assemble, checked, differences, dump_config, settings_of


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_field_is_an_option_of_both_commands_with_its_description(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(recipe, ["--help"])
    module, tool = (" ".join(text.split()) for text in (capsys.readouterr().out, call("train", recipe, "--help")))
    settings = settings_of(RECIPES[recipe])
    assert list(settings) == list(RECIPES[recipe].__struct_fields__)
    for setting in settings.values():
        for text in (module, tool):
            assert setting.option in text
            assert setting.description.split()[0] in text


def test_options_go_before_the_file_and_texts_become_what_they_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("model: m\ndata: d\nlr: 1e-3\nmax_num_steps: 5\ncompile: true\nmax_gradient_norm: null\n")
    config = assemble(LmConfig, {"max_num_steps": "7", "compile": False, "seed": None, "weight_decay": "0"}, file)
    assert (config.lr, config.max_num_steps, config.compile, config.seed) == (1e-3, 7, False, 2)
    assert (config.weight_decay, config.max_gradient_norm) == (0.0, None)


def test_paths_in_the_file_are_relative_to_it_and_others_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inside").mkdir()
    file = tmp_path / "inside" / "recipe.yaml"
    file.write_text("model: cards/m.yaml\ndata: d\nname: n\n")
    monkeypatch.chdir(tmp_path)
    config = assemble(LmConfig, {"output": "o"}, file)
    assert (config.model, config.data) == (str(tmp_path / "inside/cards/m.yaml"), str(tmp_path / "inside/d"))
    assert (config.output, config.name) == (str(tmp_path / "o"), "n")
    assert checked(LmConfig(model="m", data="d")) == LmConfig(model="m", data=str(tmp_path / "d"))


@pytest.mark.parametrize("config_class", RECIPES.values())
def test_what_is_written_down_is_read_again(tmp_path: Path, config_class: type[RecipeConfig]) -> None:
    config = checked(config_class(model="m", data="d", lr=1e-5, max_num_steps=3, name="1e5", device="cpu"))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_config(config))
    assert assemble(config_class, {}, file) == config
    assert all(f"# {setting.description}" in file.read_text() for setting in settings_of(config_class).values())


def test_every_fault_of_file_and_options_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("modle: m\nlr: fast\nbatch_size: 0\nlr_schedule: cosin\ntext_field: ''\nmax_num_steps: '5'\n")
    with pytest.raises(ConfigError) as caught:
        assemble(LmConfig, {"seed": "-1", "valid_share": "1"}, file)
    assert caught.value.summary == f"{file} is not as it should be:"
    faults = [
        "`modle` is not known. Did you mean 'model'?",
        "`lr` = 'fast': Expected `float`, got `str`",
        "`batch_size` = 0: Expected `int` >= 1",
        "`lr_schedule` = 'cosin': Invalid enum value 'cosin'; known: cosine, linear, constant",
        "`text_field` = '': Expected `str` of length >= 1",
        "`max_num_steps` = '5': Expected `int | null`, got `str`",
        "`seed` = '-1': Expected `int` >= 0",
        "`valid_share` = '1': Expected `float` < 1.0",
        "`model` is missing. The card to start from: its name, its file, or its checkpoint.",
        "`data` is missing. What to train on: a file, or a folder of files.",
    ]
    assert list(caught.value.faults) == faults


def test_a_config_made_in_python_is_checked_alike() -> None:
    with pytest.raises(ConfigError) as caught:
        checked(Seq2SeqConfig(model="m", data="d", batch_size=-1, label_smoothing=1.0))
    assert list(caught.value.faults) == [
        "`batch_size` = -1: Expected `int` >= 1",
        "`label_smoothing` = 1.0: Expected `float` < 1.0",
    ]


def test_a_file_with_a_key_twice_or_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for text, said in {
        "model: a\nmodel: b\n": "the key 'model' stands twice",
        "- model\n": "Expected `object`",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            assemble(LmConfig, {}, file)


def test_differences_leave_out_what_may_differ() -> None:
    one = LmConfig(model="m", data="d", lr=1e-3)
    other = msgspec.structs.replace(one, lr=1e-4, tensorboard=True, checkpoint_every_n_steps=3)
    assert differences(one, other) == ["`lr` was 0.001, and is 0.0001 now"]


@pytest.mark.parametrize(
    ("max_num_steps", "max_num_epochs", "expected"),
    [(None, None, 3), (None, 4, 12), (50, None, 50), (50, 4, 12), (7, 4, 7)],
)
def test_steps_follow_from_what_is_said_first(
    max_num_steps: int | None, max_num_epochs: int | None, expected: int
) -> None:
    config = LmConfig(model="m", data="d", batch_size=4, gradient_accumulation=2)
    config.max_num_steps, config.max_num_epochs = max_num_steps, max_num_epochs
    assert config.num_steps(num_samples=18) == expected
