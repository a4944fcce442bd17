"""Before and after, each applied twice: `llama` is taken out."""

from __future__ import annotations

import pytest

from kinfold.errors import WiringError
from kinfold.scaffold.wire import remove_family

CASES = {
    "one of several, with its comments": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    # the first
    "llama": "mylab.llama",  # from its GGUF
    # the last
    "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    # the last
    "qwen": "mylab.qwen",
}
""",
    ),
    "the first, under the comment of the table": (
        """\
FAMILIES = {
    # Ours, by name.

    # the first
    "llama": "mylab.llama",

    "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
    # Ours, by name.

    "qwen": "mylab.qwen",
}
""",
    ),
    "the last, above a comment of the table": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",

    "llama": "mylab.llama",
    # until here
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",

    # until here
}
""",
    ),
    "the last of its section": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",

    # -- not ready --
    "llama": "mylab.llama",
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
}
""",
    ),
    "the only one": (
        """\
FAMILIES: dict[str, str] = {
    "llama": "mylab.llama",  # from its GGUF
}  # the table
""",
        """\
FAMILIES: dict[str, str] = {}  # the table
""",
    ),
    "the only one, under a comment": (
        """\
FAMILIES = {
    # one line a family
    "llama": "mylab.llama",
}
""",
        """\
FAMILIES = {
    # one line a family
}
""",
    ),
    "without a trailing comma": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    "llama": "mylab.llama"
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma"  # ours
}
""",
    ),
    "the first on one line": (
        """\
FAMILIES = {'llama': 'mylab.llama', 'qwen': 'mylab.qwen'}
""",
        """\
FAMILIES = {'qwen': 'mylab.qwen'}
""",
    ),
    "the last on one line": (
        """\
FAMILIES = {'gemma': 'mylab.gemma', 'llama': 'mylab.llama'}
""",
        """\
FAMILIES = {'gemma': 'mylab.gemma'}
""",
    ),
    "the only one on one line": (
        """\
FAMILIES = {"llama": make("llama")}
""",
        """\
FAMILIES = {}
""",
    ),
    "hanging, and a comment that stays": (
        """\
FAMILIES = {"gemma": "mylab.gemma",  # ours
            "llama": "mylab.llama"}
""",
        """\
FAMILIES = {"gemma": "mylab.gemma"  # ours
            }
""",
    ),
    "commas in front, and a comment that stays": (
        """\
FAMILIES = {"gemma": "mylab.gemma"  # ours
            , "llama": "mylab.llama"}
""",
        """\
FAMILIES = {"gemma": "mylab.gemma"  # ours
            ,}
""",
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_before_and_after(before: str, after: str, line_end: str, encoding: str) -> None:
    source, expected = (text.replace("\n", line_end).encode(encoding) for text in (before, after))
    assert remove_family(source, "llama") == expected
    assert remove_family(expected, "llama") is expected


def test_a_table_that_can_hide_the_name_is_refused() -> None:
    with pytest.raises(WiringError, match=r"mylab/registry\.py cannot be edited safely:\n  - line 1: \*\*MORE"):
        remove_family(b"FAMILIES = {**MORE}\n", "llama", place="mylab/registry.py")
