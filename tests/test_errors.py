"""The tree of errors, as its docstring draws it."""

from __future__ import annotations

import re

from kinfold import errors
from kinfold.errors import KinfoldError, nearest


def test_the_docstring_draws_the_whole_tree() -> None:
    drawn = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+Error)", line):
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            drawn[match[2]] = path[-2] if depth else "Exception"
    classes = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type)}
    assert drawn == {name: cls.mro()[1].__name__ for name, cls in classes.items() if issubclass(cls, KinfoldError)}


def test_a_message_has_every_fault_and_the_hint() -> None:
    error = KinfoldError("Wrong:", faults=["a", "b"], hint="Do c.")
    assert str(error) == "Wrong:\n  - a\n  - b\nDo c."


def test_nearest_names_what_was_meant() -> None:
    assert nearest("lama", ["llama", "mistral"]) == "Did you mean 'llama'?"
    assert nearest("70b", ["7b", "llama3_1_70b", "llama3_1_405b"]) == "Did you mean 'llama3_1_70b' or '7b'?"
    assert nearest("405b", ["7b", "llama3_1_70b", "llama3_1_405b"]) == "Did you mean 'llama3_1_405b'?"
    assert nearest("zzz", ["llama", "mistral"]) == "Known: llama, mistral."
    assert nearest("zzz", []) is None
