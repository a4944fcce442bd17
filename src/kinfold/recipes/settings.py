"""Putting a config together from a YAML file and options, and writing it down again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from kinfold.documents import read_document
from kinfold.errors import ConfigError, nearest
from kinfold.recipes.config import RecipeConfig

C = TypeVar("C", bound=RecipeConfig)


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a config, as a command line needs it.

    Attributes:
        name: The name of the field, and its key in YAML.
        description: What it is for.
        type: What its value is converted to.
        extra: What else is known of it (see `kinfold.recipes.config`).
        choices: The values there are, if they can be listed.
        is_switch: Whether it is on or off.
        default: What it is if not said.
        required: Whether it has to be.
    """

    name: str
    description: str
    type: Any
    extra: Mapping[str, Any]
    choices: tuple[str, ...]
    is_switch: bool
    default: Any
    required: bool

    @property
    def option(self) -> str:
        """What it is called on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str | None:
        """What stands for its value in the help; None where its choices do."""
        if self.choices:
            return None
        kinds = {int: "N", float: "NUMBER"}
        named = (kinds[kind] for kind in _options(self.type) if kind in kinds)
        return next(named, "PATH" if self.extra.get("path") == "always" else "TEXT")

    @property
    def help(self) -> str:
        """Its description, and its default where there is one."""
        stated = self.default is not None and not self.is_switch and not self.required
        return f"{self.description}  [default: {self.default}]" if stated else self.description


def settings_of(config_class: type[RecipeConfig]) -> dict[str, Setting]:
    """The fields of a config by name."""
    return {field.name: _setting(field) for field in msgspec.structs.fields(config_class)}


def assemble(config_class: type[C], options: Mapping[str, Any], file: str | Path | None = None) -> C:
    """The config that options and a YAML file give; options go before the file.

    Args:
        config_class: The config of a recipe.
        options: Values by the names of fields, those that were said alone; texts are converted.
        file: The YAML file. Paths in it are relative to it; those in options to the current folder.

    Raises:
        ConfigError: Lists every key that is not known and every value that cannot be.
    """
    settings = settings_of(config_class)
    faults: list[str] = []
    said = {name: value for name, value in options.items() if value is not None}
    written = read_document(Path(file), dict[str, Any], ConfigError) if file is not None else {}
    values = _converted(written, settings, Path(file or "").resolve().parent, faults, strict=True)
    values |= _converted(said, settings, Path.cwd(), faults, strict=False)
    for name, setting in settings.items():
        if setting.required and name not in {*written, *said}:
            faults.append(f"`{name}` is missing. {setting.description}")
    return _made(config_class, values, faults, place=str(file or "The recipe"))


def checked(config: C) -> C:
    """A config that was made in Python, with its paths made absolute.

    Raises:
        ConfigError: Lists every value that cannot be.
    """
    faults: list[str] = []
    values = _converted(msgspec.structs.asdict(config), settings_of(type(config)), Path.cwd(), faults, strict=True)
    return _made(type(config), values, faults, place=f"This {type(config).__name__}")


def dump_config(config: RecipeConfig) -> str:
    """The config as YAML, every field with its description."""
    blocks = []
    for name, setting in settings_of(type(config)).items():
        value = json.dumps(getattr(config, name), ensure_ascii=False)  # which is YAML, and never read as something else
        blocks.append(f"# {setting.description}\n{name}: {value}\n")
    return "\n".join(blocks)


def differences(one: RecipeConfig, other: RecipeConfig) -> list[str]:
    """What sets two configs of one kind apart, without what may differ when a run is taken up again."""
    return [
        f"`{name}` was {getattr(one, name)!r}, and is {getattr(other, name)!r} now"
        for name, setting in settings_of(type(one)).items()
        if getattr(one, name) != getattr(other, name) and not setting.extra.get("may_differ")
    ]


def is_path(text: str) -> bool:
    """Whether what may be a name or a path is a path."""
    return "/" in text or os.sep in text or text.endswith((".yaml", ".yml"))


def _made(config_class: type[C], values: Mapping[str, Any], faults: list[str], *, place: str) -> C:
    if not faults:
        config = config_class(**values)
        faults = list(config.contradictions())
        if not faults:
            return config
    raise ConfigError(f"{place} is not as it should be:", faults=faults)


def _setting(field: msgspec.structs.FieldInfo) -> Setting:
    metas = [meta for meta in get_args(field.type)[1:] if isinstance(meta, msgspec.Meta)]
    described = next(meta for meta in metas if meta.description)
    options = list(_options(field.type))
    return Setting(
        name=field.name,
        description=str(described.description),
        type=field.type,
        extra=described.extra or {},
        choices=tuple(value for option in options if get_origin(option) is Literal for value in get_args(option)),
        is_switch=bool in options,
        default=None if field.required else field.default,
        required=field.required,
    )


def _options(type_: Any) -> Iterator[Any]:
    """The types that an annotation allows, without unions and metadata."""
    if get_origin(type_) is Annotated:
        yield from _options(get_args(type_)[0])
    elif get_origin(type_) in (Union, UnionType):
        for member in get_args(type_):
            yield from _options(member)
    else:
        yield type_


def _converted(
    values: Mapping[str, Any], settings: Mapping[str, Setting], folder: Path, faults: list[str], *, strict: bool
) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        if name not in settings:
            faults.append(f"`{name}` is not known. {nearest(str(name), settings)}")
            continue
        try:
            value = msgspec.convert(value, settings[name].type, strict=strict)
        except msgspec.ValidationError as error:
            choices = settings[name].choices
            known = f"; known: {', '.join(choices)}" if choices else ""
            faults.append(f"`{name}` = {value!r}: {error}{known}")
            continue
        found[name] = _located(value, settings[name], folder)
    return found


def _located(value: Any, setting: Setting, folder: Path) -> Any:
    kind = setting.extra.get("path")
    if not isinstance(value, str) or not (kind == "always" or (kind == "maybe" and is_path(value))):
        return value
    return str((folder / Path(value).expanduser()).resolve())
