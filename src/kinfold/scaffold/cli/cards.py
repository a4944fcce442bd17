"""`scaffold cards`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command("cards")
@click.argument("word", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the list for programs.")
def command(word: str | None, as_json: bool) -> None:
    """List the cards of models.

    With WORD only those that have it in their name, family, arch, checkpoint or file. Nothing is fetched, and a card
    that is broken is listed with what is wrong with it. Where cards lie: docs/cards.md.
    """
    from kinfold.scaffold.cli.columns import columns
    from kinfold.scaffold.project import find_project

    if project := find_project():
        project.activate()
    cards = [card for card in _listed() if word is None or _has(card, word)]
    if as_json:
        click.echo(json.dumps(cards, indent=2))
        return
    if not cards:
        click.echo(f"No card has {word!r} in it." if word else "There are no cards.", err=True)
        return
    shown = ("name", "family", "arch", "checkpoint", "file")
    rows = [["broken" if key == "family" and card["fault"] else card[key] for key in shown] for card in cards]
    click.echo(columns([[key.upper() for key in shown], *rows]))
    for card in cards:
        if card["fault"]:
            click.echo(f"\n{card['name']} is broken: {card['fault']}")


def _listed() -> list[dict[str, Any]]:
    """Every card, by name: what it says, or what is wrong with it."""
    from kinfold.assets import files_by_name

    return [_entry(path, namesakes) for _, namesakes in sorted(files_by_name().items()) for path in namesakes]


def _entry(path: Path, namesakes: list[Path]) -> dict[str, Any]:
    """One card; `namesakes` are the files of all cards of its name."""
    from kinfold.assets import read_card
    from kinfold.errors import CardError, nearest
    from kinfold.registry import families

    entry: dict[str, Any] = dict.fromkeys(("name", "family", "arch", "checkpoint", "tokenizer", "file", "fault"))
    entry |= {"name": path.stem, "file": str(path)}
    try:
        card = read_card(path)
    except CardError as error:
        return {**entry, "fault": str(error)}
    places = {"checkpoint": card.checkpoint_place, "tokenizer": card.tokenizer_place}
    entry |= {key: str(place.uri) for key, place in places.items() if place}
    entry |= {"family": card.model_family, "arch": card.model_arch}
    if len(namesakes) > 1:
        others = ", ".join(str(file) for file in namesakes if file != path)
        return {**entry, "fault": f"There are {len(namesakes)} cards of that name; {path} is one, and {others}."}
    if card.model_family not in families.modules:
        hint = nearest(card.model_family, families.modules)
        return {**entry, "fault": f"The family {card.model_family!r} is not known. {hint or ''}"}
    return entry


def _has(card: dict[str, Any], word: str) -> bool:
    keys = ("name", "family", "arch", "checkpoint", "file")
    return any(word.lower() in (card[key] or "").lower() for key in keys)
