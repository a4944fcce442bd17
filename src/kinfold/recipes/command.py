"""`python -m kinfold.recipes.NAME`: a recipe without the tool."""

from __future__ import annotations

import hashlib
import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from kinfold.errors import KinfoldError, RankError
from kinfold.recipes.config import RECIPES
from kinfold.recipes.settings import assemble, settings_of


def main(recipe: str, arguments: Sequence[str] | None = None) -> None:
    """Run a recipe as the command line says; an error of Kinfold's is a message and exit status 1."""
    options = vars(_parser(recipe).parse_args(arguments))
    file = options.pop("config")
    try:
        with said_once():
            import_module(f"kinfold.recipes.{recipe}").train(assemble(RECIPES[recipe], options, file))
    except KinfoldError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def said_once() -> Iterator[None]:
    """Have an error that several ranks raise come out of one of them; the others end, with exit status 1."""
    try:
        yield
    except KinfoldError as error:
        # What is known of a rank that has failed, all others say in words of their own.
        what = error.faults if isinstance(error, RankError) and error.faults else str(error)
        if not _is_first_to_say(repr(what)):
            sys.exit(1)
        raise


def _is_first_to_say(what: str) -> bool:
    """Whether no other rank has said so before; asked in torchrun's own store, which outlives ranks."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    from torch.distributed import DistError, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    digest = hashlib.sha256(what.encode()).hexdigest()
    try:
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=10))
        return store.add(f"said/{os.environ.get('TORCHELASTIC_RESTART_COUNT')}/{digest}", 1) == 1
    except DistError:  # better said twice than not at all
        return True


def _parser(recipe: str) -> ArgumentParser:
    parser = ArgumentParser(f"python -m kinfold.recipes.{recipe}", description=RECIPES[recipe].__doc__)
    parser.add_argument("--config", metavar="FILE", help="Take what no option says from this YAML file.")
    for setting in settings_of(RECIPES[recipe]).values():
        more: dict[str, Any] = {"metavar": setting.metavar, "choices": setting.choices or None}
        if setting.is_switch:
            more = {"action": BooleanOptionalAction}
        parser.add_argument(setting.option, dest=setting.name, help=setting.help.replace("%", "%%"), **more)
    return parser
