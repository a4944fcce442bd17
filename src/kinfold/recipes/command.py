"""`python -m kinfold.recipes.NAME`: a recipe without the tool."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from kinfold.errors import KinfoldError
from kinfold.recipes.config import RECIPES
from kinfold.recipes.settings import assemble, settings_of


def main(recipe: str, arguments: Sequence[str] | None = None) -> None:
    """Run a recipe as the command line says; an error of Kinfold's is a message and exit status 1."""
    options = vars(_parser(recipe).parse_args(arguments))
    file = options.pop("config")
    try:
        import_module(f"kinfold.recipes.{recipe}").train(assemble(RECIPES[recipe], options, file))
    except KinfoldError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _parser(recipe: str) -> ArgumentParser:
    parser = ArgumentParser(f"python -m kinfold.recipes.{recipe}", description=RECIPES[recipe].__doc__)
    parser.add_argument("--config", metavar="FILE", help="Take what no option says from this YAML file.")
    for setting in settings_of(RECIPES[recipe]).values():
        more: dict[str, Any] = {"metavar": setting.metavar, "choices": setting.choices or None}
        if setting.is_switch:
            more = {"action": BooleanOptionalAction}
        parser.add_argument(setting.option, dest=setting.name, help=setting.help.replace("%", "%%"), **more)
    return parser
