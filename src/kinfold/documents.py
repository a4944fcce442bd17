"""Reading YAML documents that people write, into typed structures.

Stricter than YAML: a key twice is an error, and `1e-6` is a number. All faults of a document come in
one error, each with its place and the nearest right name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
import yaml

from kinfold.errors import KinfoldError

T = TypeVar("T")


def read_document(path: Path, type_: type[T], error: type[KinfoldError]) -> T:
    """The document at `path` as a `type_` (a msgspec Struct); faults are raised as an `error`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path} cannot be read: {reason}") from reason
    return decode_document(text, type_, error, place=str(path))


def decode_document(text: str, type_: type[T], error: type[KinfoldError], *, place: str) -> T:
    """Like `read_document`, from the text itself; `place` stands in the messages."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as reason:
        raise error(f"{place} is not valid YAML: {reason}") from reason
    tree = {} if tree is None else tree
    faults = list(_unknown_keys(tree, type_, ""))
    try:
        value = msgspec.convert(tree, type_)
    except msgspec.ValidationError as reason:
        if not faults or "unknown field" not in str(reason):
            faults.append(str(reason))
    else:
        if not faults:
            return value
    raise error(f"{place} is not as it should be:", faults=faults)


def _unknown_keys(tree: Any, type_: Any, at: str) -> list[str]:
    """All keys that the structure does not have, at every depth."""
    if not isinstance(tree, Mapping):
        return []
    for option in _options(type_):
        if get_origin(option) is dict:
            item = get_args(option)[1]
            return [fault for key, value in tree.items() for fault in _unknown_keys(value, item, f"{at}{key}.")]
    structs = [option for option in _options(type_) if isinstance(option, type) and issubclass(option, msgspec.Struct)]
    if len(structs) != 1:
        return []  # one of several structures: which one is msgspec's to say
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(structs[0])}
    faults = []
    for key, value in tree.items():
        if key in fields:
            faults += _unknown_keys(value, fields[key], f"{at}{key}.")
        else:
            close = get_close_matches(str(key), fields, n=1)
            right = f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(fields)}"
            faults.append(f"`{at}{key}` is not known; {right}")
    return faults


def _options(type_: Any) -> list[Any]:
    """The types that an annotation allows, without unions and metadata."""
    if get_origin(type_) is Annotated:
        return _options(get_args(type_)[0])
    if get_origin(type_) in (Union, UnionType):
        return [option for member in get_args(type_) for option in _options(member)]
    return [type_]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, refusing a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, takes 1e-6 for a string: it wants a dot and a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
