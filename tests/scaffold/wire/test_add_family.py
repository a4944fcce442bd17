"""Before and after, each applied twice: `llama`, in `mylab.llama`, is added."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kinfold.errors import WiringError
from kinfold.scaffold.wire import add_family

CASES = {
    "empty": (
        """\
FAMILIES = {}
""",
        """\
FAMILIES = {
    "llama": "mylab.llama",
}
""",
    ),
    "empty, over two lines": (
        """\
FAMILIES = {
}
""",
        """\
FAMILIES = {
    "llama": "mylab.llama",
}
""",
    ),
    "empty, with comments": (
        """\
FAMILIES = {  # name: module
  # one line a family
}
""",
        """\
FAMILIES = {  # name: module
  # one line a family
  "llama": "mylab.llama",
}
""",
    ),
    "the table of a new project": (
        '''\
"""The families of mylab.

`scaffold new-family` adds to this table and keeps it sorted; edit it as you like.
"""

FAMILIES = {
    "smollm2": "mylab.smollm2",  # a comment that stays
}
''',
        '''\
"""The families of mylab.

`scaffold new-family` adds to this table and keeps it sorted; edit it as you like.
"""

FAMILIES = {
    "llama": "mylab.llama",
    "smollm2": "mylab.smollm2",  # a comment that stays
}
''',
    ),
    "in the middle": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    "llama": "mylab.llama",
    "qwen": "mylab.qwen",
}
""",
    ),
    "at the end": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    # until here
}  # the table
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # ours
    "llama": "mylab.llama",
    # until here
}  # the table
""",
    ),
    "lines of comments stay with what they belong to": (
        """\
FAMILIES = {
    # Ours, by name.

    # the smallest
    "mamba": "mylab.mamba",

    # -- not ready --
    "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
    # Ours, by name.

    "llama": "mylab.llama",
    # the smallest
    "mamba": "mylab.mamba",

    # -- not ready --
    "qwen": "mylab.qwen",
}
""",
    ),
    "in front of a section": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",

    # -- not ready --
    "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "llama": "mylab.llama",

    # -- not ready --
    "qwen": "mylab.qwen",
}
""",
    ),
    "not sorted": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "qwen": "mylab.qwen",
    "bert": "mylab.bert",
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "llama": "mylab.llama",
    "qwen": "mylab.qwen",
    "bert": "mylab.bert",
}
""",
    ),
    "without a trailing comma": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "jamba": "mylab.jamba"  # the last
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "jamba": "mylab.jamba",  # the last
    "llama": "mylab.llama"
}
""",
    ),
    "a single entry without a trailing comma": (
        """\
FAMILIES = {
    "gemma": "mylab.gemma"  # the only one
}
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",  # the only one
    "llama": "mylab.llama",
}
""",
    ),
    "on one line": (
        """\
FAMILIES = {"gemma": "mylab.gemma", "qwen": "mylab.qwen"}  # short
""",
        """\
FAMILIES = {
    "gemma": "mylab.gemma",
    "llama": "mylab.llama",
    "qwen": "mylab.qwen",
}  # short
""",
    ),
    "on one line, which is short enough": (
        """\
FAMILIES = {"gemma": "mylab.gemma"}
""",
        """\
FAMILIES = {"gemma": "mylab.gemma", "llama": "mylab.llama"}
""",
    ),
    "on one line, in front": (
        """\
FAMILIES = { 'qwen': 'mylab.qwen', }
""",
        """\
FAMILIES = { 'llama': 'mylab.llama', 'qwen': 'mylab.qwen', }
""",
    ),
    "hanging, single quotes": (
        """\
FAMILIES = {'gemma': 'mylab.gemma',
            'qwen': 'mylab.qwen'}
""",
        """\
FAMILIES = {'gemma': 'mylab.gemma',
            'llama': 'mylab.llama',
            'qwen': 'mylab.qwen'}
""",
    ),
    "several on a line": (
        """\
FAMILIES = {
  "bert": "mylab.bert", "gemma": "mylab.gemma",  # two
  "qwen": "mylab.qwen",
}
""",
        """\
FAMILIES = {
  "bert": "mylab.bert", "gemma": "mylab.gemma",  # two
  "llama": "mylab.llama",
  "qwen": "mylab.qwen",
}
""",
    ),
    "annotated, among other things": (
        """\
from collections.abc import Mapping
from typing import Final

OTHERS = {"qwen": 1}
FAMILIES: Final[Mapping[str, str]] = {
\t"gemma": OTHERS and "mylab.gemma",
}


def names() -> list[str]:
    return [f"FAMILIES {name}" for name in FAMILIES]
""",
        """\
from collections.abc import Mapping
from typing import Final

OTHERS = {"qwen": 1}
FAMILIES: Final[Mapping[str, str]] = {
\t"gemma": OTHERS and "mylab.gemma",
\t"llama": "mylab.llama",
}


def names() -> list[str]:
    return [f"FAMILIES {name}" for name in FAMILIES]
""",
    ),
    "parenthesised, behind a semicolon": (
        """\
VERSION = 1; FAMILIES = ({"qwen": "mylab.qwen"})
""",
        """\
VERSION = 1; FAMILIES = ({"llama": "mylab.llama", "qwen": "mylab.qwen"})
""",
    ),
}


def add(source: bytes) -> bytes:
    return add_family(source, "llama", "mylab.llama")


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_before_and_after(before: str, after: str, line_end: str, encoding: str) -> None:
    source, expected = (text.replace("\n", line_end).encode(encoding) for text in (before, after))
    assert add(source) == expected
    assert add(expected) is expected


def test_every_line_keeps_its_own_end() -> None:
    source = b'FAMILIES = {\n    "gemma": "mylab.gemma",\r\n    "qwen": "mylab.qwen",\n}\r\n'
    assert add(source) == (
        b'FAMILIES = {\n    "gemma": "mylab.gemma",\r\n    "llama": "mylab.llama",\r\n    "qwen": "mylab.qwen",\n}\r\n'
    )


def test_the_encoding_stays() -> None:
    source = "# -*- coding: latin-1 -*-\nFAMILIES = {}  # für später\n".encode("latin-1")
    expected = '# -*- coding: latin-1 -*-\nFAMILIES = {\n    "llama": "mylab.llama",\n}  # für später\n'
    assert add(source) == expected.encode("latin-1")


def test_the_end_of_a_file_without_a_last_line_end_stays() -> None:
    assert add(b"FAMILIES = {}") == b'FAMILIES = {\n    "llama": "mylab.llama",\n}'


def test_what_was_formatted_stays_formatted(tmp_path: Path) -> None:
    for number, (before, after) in enumerate(CASES.values()):
        (tmp_path / f"before{number}.py").write_text(before)
        (tmp_path / f"after{number}.py").write_text(after)
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", "79", "--check", str(tmp_path)]
    unformatted = subprocess.run(ruff, capture_output=True, text=True, check=False).stdout
    formatted = [number for number in range(len(CASES)) if f"before{number}.py" not in unformatted]
    assert len(formatted) >= 8
    assert not [number for number in formatted if f"after{number}.py" in unformatted]


REFUSED = {
    "no table": ("X = 1\n", ["line 1: nothing in this file binds FAMILIES"]),
    "not at the top level": (
        "if True:\n    FAMILIES = {}\n",
        ["line 2: FAMILIES is bound, but not to a dict literal at the top level"],
    ),
    "no literal": ("\nFAMILIES = dict(qwen='mylab.qwen')\n", ["line 2: FAMILIES is bound, but not"]),
    "a literal that is added to": ("FAMILIES = {} | MORE\n", ["line 1: FAMILIES is bound, but not"]),
    "bound to two names": ("FAMILIES = TABLE = {}\n", ["line 1: FAMILIES is bound, but not"]),
    "imported": ("from mylab.table import TABLE as FAMILIES\n", ["line 1: FAMILIES is bound, but not"]),
    "twice": ("FAMILIES = {}\nX = 1\nFAMILIES = {}\n", ["line 3: FAMILIES is bound or changed again"]),
    "changed": (
        'FAMILIES = {}\nFAMILIES["a"] = "b"\nFAMILIES.update(MORE)\nFAMILIES |= MORE\ndel FAMILIES["a"]\n',
        [f"line {line}: FAMILIES is bound or changed again" for line in (2, 3, 4, 5)],
    ),
    "hiding": (
        'FAMILIES = {\n    **MORE,\n    NAME: "a",\n    f"{b}": "b",\n    3: "c",\n    "d": "d",\n    "d": "e",\n}\n',
        [
            "line 2: **MORE could hide an entry",
            "line 3: the key NAME is no plain string",
            "line 4: the key f'{b}' is no plain string",
            "line 5: the key 3 is no plain string",
            "line 7: the key 'd' stands here for the second time",
        ],
    ),
    "not Python": (
        "X = 1\nFAMILIES = {\n",
        ["'{' was never closed (registry.py, line 2)"],
    ),
    "a null byte": ("FAMILIES = {}\0\n", ["registry.py is not valid Python"]),
    "line ends of another time": ("FAMILIES = {}\rX = 1\r", ["carriage return and a line feed"]),
}


@pytest.mark.parametrize(("source", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_line(source: str, expected: list[str]) -> None:
    with pytest.raises(WiringError) as caught:
        add(source.encode())
    assert [fragment for fragment in expected if fragment not in str(caught.value)] == []


def test_a_name_that_has_another_module_is_refused() -> None:
    source = b'FAMILIES = {\n    "gemma": "mylab.gemma",\n    "llama": "other.llama",\n}\n'
    with pytest.raises(
        WiringError, match=r"^mylab/registry\.py, line 3: .*'llama' is wired already, to 'other\.llama'"
    ):
        add_family(source, "llama", "mylab.llama", place="mylab/registry.py")


def test_names_that_are_no_identifiers_are_refused_together() -> None:
    with pytest.raises(WiringError) as caught:
        add_family(b"FAMILIES = {}\n", 'l"lama', "mylab..llama")
    assert len(caught.value.faults) == 2
