"""`scaffold show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kinfold.assets import AssetCard, Place


@click.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the same for programs.")
def command(name: str, as_json: bool) -> None:
    """Show what a card says, and what model it makes.

    NAME is a card, the path of its file, or that of a checkpoint that a card names. Shown are each value with the
    file it is from, where checkpoint and tokenizer lie, the number of parameters, and the config. Nothing is fetched.
    """
    from kinfold.loader import find_card
    from kinfold.scaffold.project import find_project

    if project := find_project():
        project.activate()
    shown = _shown(find_card(name))
    click.echo(json.dumps(shown, indent=2) if as_json else _text(shown))


def _shown(card: AssetCard) -> dict[str, Any]:
    """All there is to show of a card."""
    from kinfold.loader import load_model

    loader = load_model.get(card.model_family)
    config = loader.config_loader(card)
    fields = _plain(config)
    model = loader.factory(config, device="meta")
    arch = card.model_arch or loader.config_loader.archs.names()[0]
    return {
        "name": card.name,
        "family": card.model_family,
        "arch": arch,
        "files": [str(file) for file in (card.written.files if card.written else (card.source,))],
        "values": _values(card),
        "checkpoint": _place(card.checkpoint_place),
        "tokenizer": _place(card.tokenizer_place),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "config": fields,
        "of_arch": _differing(_plain(loader.config_loader.archs.get(arch)), fields),
    }


def _values(card: AssetCard) -> dict[str, dict[str, Any]]:
    """Each value of the card, and the file it is from; values of the config by `model_config.KEY`."""
    said = card.written.each() if card.written else {}
    return {key: {"value": _plain(value), "file": str(file)} for key, (value, file) in said.items()}


def _place(place: Place | None) -> dict[str, str | None] | None:
    """Where something is, and where on this machine if it is here."""
    if place is None:
        return None
    here = place.here()
    return {"uri": str(place.uri), "here": str(here) if here else None}


def _plain(value: Any) -> Any:
    """A value, or all fields of a config, as JSON has them."""
    import msgspec

    return msgspec.to_builtins(value, enc_hook=str)


def _differing(arch: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The values of the arch that are others in the config."""
    return {key: value for key, value in arch.items() if config[key] != value}


def _text(shown: dict[str, Any]) -> str:
    """The same for a person."""
    from kinfold.scaffold.cli.columns import columns

    values = [[key, _word(one["value"]), one["file"]] for key, one in shown["values"].items()]
    facts = [
        ["checkpoint", _where(shown["checkpoint"])],
        ["tokenizer", _where(shown["tokenizer"])],
        ["parameters", f"{shown['parameters']:,}"],
    ]
    config = [_field(key, value, shown["of_arch"]) for key, value in shown["config"].items()]
    title = f"Config of the family {shown['family']}, arch {shown['arch']}"
    title += "; * where the card differs:" if shown["of_arch"] else ":"
    return "\n".join(
        (columns(values, indent="  "), "", columns(facts, indent="  "), "", title, columns(config, indent="  "))
    )


def _field(key: str, value: Any, of_arch: dict[str, Any]) -> list[str]:
    """The row of one field of the config."""
    differs = key in of_arch
    return ["*" if differs else " ", key, _word(value), f"{_word(of_arch[key])} in the arch" if differs else " "]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _where(place: dict[str, str | None] | None) -> str:
    """Where something is, in words."""
    if place is None:
        return "none"
    uri, here = place["uri"], place["here"]
    if here is None:
        return f"{uri} (not on this machine)"
    return f"{uri}" if uri == here else f"{uri}, which is at {here}"
