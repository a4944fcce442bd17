"""`scaffold train`: the recipes, their options made of the fields of their configs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from kinfold.recipes.command import said_once
from kinfold.recipes.config import RECIPES
from kinfold.recipes.settings import Setting, assemble, settings_of


class _Recipes(click.Group):
    """A command for each recipe."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(RECIPES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in RECIPES:
            return None
        file = click.Option(["--config", "file"], metavar="FILE", type=click.Path(path_type=Path),
                            help="Take what no option says from this YAML file.")  # fmt: skip
        options = [file, *(_option(setting) for setting in settings_of(RECIPES[cmd_name]).values())]
        return click.Command(
            cmd_name, params=list(options), callback=click.pass_context(_train), help=RECIPES[cmd_name].__doc__
        )


@click.group("train", cls=_Recipes)
def command() -> None:
    """Train a model by a recipe, and write a card for it.

    The same command goes on where a run was interrupted. All that is written is in one folder; its recipe.yaml is what
    --config takes. On several devices: torchrun --nproc-per-node N --no-python scaffold train ...
    """


@said_once()
def _train(ctx: click.Context, file: Path | None, **options: Any) -> None:
    from kinfold.scaffold.project import find_project

    project = find_project()
    if project:
        project.activate()
    recipe = str(ctx.command.name)
    config = assemble(RECIPES[recipe], options, file)
    cards = project.root / project.cards if project else None
    import_module(f"kinfold.recipes.{recipe}").train(config, card_folder=cards, say=click.echo)


def _option(setting: Setting) -> click.Option:
    """The option of a field; it is None if it is not given, and its value is checked with the file's."""
    if setting.is_switch:
        return click.Option(
            [f"{setting.option}/--no{setting.option[1:]}", setting.name], default=None, help=setting.help
        )
    choices = click.Choice(setting.choices) if setting.choices else None
    return click.Option([setting.option, setting.name], type=choices, metavar=setting.metavar, help=setting.help)
