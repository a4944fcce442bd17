"""Before and after: the rules of a key map become those that are listed; a second time changes nothing."""

from __future__ import annotations

import subprocess
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from ruff import find_ruff_bin

from kinfold.errors import WiringError
from kinfold.keymap import drop, rename
from kinfold.scaffold.wire.keymap import Add, Change, Edit, Keep, edit_key_map, read_key_maps

HEAD = """\
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap, rename

"""
TAIL = """
load_model.register("mine", CheckpointConverter(hf=hf_key_map))
"""

LONG = 'rename("model.layers.{layer}.self_attn.o_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight")'

CASES = {
    "a rule between others": (
        """\
hf_key_map = KeyMap(
    rename("a", "b"),  # the first
    # the last
    rename("e", "f"),
)
""",
        ['rename("a", "b")', 'rename("c", "d")', 'rename("e", "f")'],
        """\
hf_key_map = KeyMap(
    rename("a", "b"),  # the first
    rename("c", "d"),
    # the last
    rename("e", "f"),
)
""",
    ),
    "what goes takes its comments along": (
        """\
hf_key_map = KeyMap(
    # Names of theirs.

    # the first
    rename("a", "b"),  # odd
    # the second
    rename(
        "c",  # theirs
        "d",
    ),

    # -- norms --
    rename("e", "f"),
    # until here
)
\"\"\"Words.\"\"\"
""",
        ['rename("a", "b")', 'rename("e", "f")'],
        """\
hf_key_map = KeyMap(
    # Names of theirs.

    # the first
    rename("a", "b"),  # odd

    # -- norms --
    rename("e", "f"),
    # until here
)
\"\"\"Words.\"\"\"
""",
    ),
    "all go": ('hf_key_map = KeyMap(\n    rename("a", "b"),\n)\n', [], "hf_key_map = KeyMap()\n"),
    "all come": (
        "hf_key_map: KeyMap = KeyMap()\n",
        ['rename("a", "b")', LONG],
        """\
hf_key_map: KeyMap = KeyMap(
    rename("a", "b"),
    rename(
        "model.layers.{layer}.self_attn.o_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"
    ),
)
""",
    ),
    "a changed rule keeps its comments and its breaks": (
        """\
hf_key_map = KeyMap(
    # the first
    rename(
        "a",  # theirs
        "b",  # ours
    ),  # odd
    rename("e", "f"),
)
""",
        ['rename("a", "c")', 'rename("e", "f")'],
        """\
hf_key_map = KeyMap(
    # the first
    rename(
        "a",  # theirs
        "c",  # ours
    ),  # odd
    rename("e", "f"),
)
""",
    ),
    "a changed rule that is too long now": (
        'hf_key_map = KeyMap(\n    rename("a", "b"),  # odd\n)\n',
        [LONG],
        """\
hf_key_map = KeyMap(
    rename(
        "model.layers.{layer}.self_attn.o_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"
    ),  # odd
)
""",
    ),
    "a changed rule that is short enough now": (
        f"""\
hf_key_map = KeyMap(
    rename(
        {LONG[7:-1]}
    ),
)
""",
        ['rename("a", "b")'],
        'hf_key_map = KeyMap(\n    rename("a", "b"),\n)\n',
    ),
    "a changed rule that is short enough now, beside one that no formatter leaves": (
        f"""\
hf_key_map = KeyMap(
    rename('a', "b"   ),
    rename(
        {LONG[7:-1]}
    ),
    rename('c',
        "d"),
)
""",
        ['rename("a", "b")', 'rename("e", "f")', 'rename("c", "g")'],
        """\
hf_key_map = KeyMap(
    rename('a', "b"   ),
    rename("e", "f"),
    rename('c',
        "g"),
)
""",
    ),
    "another function, one more argument": (
        'hf_key_map = KeyMap(\n    rename( "a",  "b" ), # odd\n)\n',
        ['permute_rotary("a", "b", heads="num_heads")'],
        'hf_key_map = KeyMap(\n    permute_rotary( "a",  "b", heads="num_heads" ), # odd\n)\n',
    ),
    "in a list, which stays one": (
        """\
hf_key_map = KeyMap(
    concat(["a", "b"], into='c', sizes=[1, 2]),
)
""",
        ['concat(("a", "d"), into="c", sizes=(1, 2))'],
        """\
hf_key_map = KeyMap(
    concat(["a", "d"], into='c', sizes=[1, 2]),
)
""",
    ),
    "in a chain": (
        """\
hf_key_map = KeyMap(
    chain(
        transpose("a", "x"),  # Conv1D
        # in turns
        split(
            "x",
            into=(
                "q",  # queries
                "k",
            ),
            sizes=(1, 2),
        ),
    ),
)
""",
        ['chain(rename("a", "y"), transpose("y", "x"), split("x", into=("q", "k", "v"), sizes=(1, 2, 2), dim=1))'],
        """\
hf_key_map = KeyMap(
    chain(
        rename("a", "y"),
        transpose("y", "x"),  # Conv1D
        # in turns
        split(
            "x",
            into=(
                "q",  # queries
                "k",
                "v",
            ),
            sizes=(1, 2, 2),
            dim=1,
        ),
    ),
)
""",
    ),
    "on one line, which is long enough": (
        'hf_key_map = KeyMap(rename("model.norm.weight", "decoder.layer_norm.weight"))  # ours\n',
        ['rename("model.norm.weight", "decoder.layer_norm.weight")', 'rename("lm_head.weight", "final_proj.weight")'],
        """\
hf_key_map = KeyMap(
    rename("model.norm.weight", "decoder.layer_norm.weight"), rename("lm_head.weight", "final_proj.weight")
)  # ours
""",
    ),
    "on one line, which is short enough": (
        'hf_key_map = KeyMap(rename("a", "b"))\n',
        ['rename("c", "d")', 'rename("a", "b")'],
        'hf_key_map = KeyMap(rename("c", "d"), rename("a", "b"))\n',
    ),
    "on one line, as no formatter leaves it": (
        "hf_key_map = KeyMap( rename('a', 'b') )\n",
        ['rename("a", "b")', LONG],
        """\
hf_key_map = KeyMap(
    rename('a', 'b'),
    rename(
        'model.layers.{layer}.self_attn.o_proj.weight', 'decoder.layers.{layer}.self_attn.output_proj.weight'
    ),
)
""",
    ),
    "tabs": (
        'hf_key_map = KeyMap(\n\trename("a", "b"),\n)\n',
        ['rename("a", "b")', LONG],
        """\
hf_key_map = KeyMap(
\trename("a", "b"),
\trename(
\t\t"model.layers.{layer}.self_attn.o_proj.weight", "decoder.layers.{layer}.self_attn.output_proj.weight"
\t),
)
""",
    ),
    "two spaces, no trailing comma, blank lines": (
        'hf_key_map = KeyMap(\n  rename("a", "b"),\n\n  rename("c", "d")  # the last\n)\n',
        ['rename("a", "b")', 'rename("c", "d")', 'rename("e", "f")'],
        'hf_key_map = KeyMap(\n  rename("a", "b"),\n\n  rename("c", "d"),  # the last\n  rename("e", "f")\n)\n',
    ),
    "hanging": (
        "hf_key_map = KeyMap(rename('a', 'b'),\n                    rename('e', 'f'))\n",
        ['rename("a", "b")', 'rename("c", "d")', 'rename("e", "g")'],
        """\
hf_key_map = KeyMap(rename('a', 'b'),
                    rename('c', 'd'),
                    rename('e', 'g'))
""",
    ),
    "as the user has set it, out of a formatter's reach": (
        """\
# fmt: off
hf_key_map = KeyMap(
    rename("a",      "b"),   # aligned
    rename("lm_head", "f"), rename("g", "h"),
)
# fmt: on
""",
        ['rename("a", "i")', 'rename("c", "d")', 'rename("lm_head", "f")', 'rename("g", "h")'],
        """\
# fmt: off
hf_key_map = KeyMap(
    rename("a",      "i"),   # aligned
    rename("c", "d"),
    rename("lm_head", "f"), rename("g", "h"),
)
# fmt: on
""",
    ),
    "a string with quotes": (
        'hf_key_map = KeyMap(\n    drop("a", reason="because"),\n)\n',
        ['drop("a", reason="a \\"copy\\"")'],
        'hf_key_map = KeyMap(\n    drop("a", reason=\'a "copy"\'),\n)\n',
    ),
}


def imports(*names: str) -> str:
    return HEAD.replace("KeyMap, rename", ", ".join(names))


def used(text: str) -> str:
    """The head that imports what a text calls."""
    functions = ("chain", "concat", "drop", "permute_rotary", "rename", "split", "transpose")
    return imports("KeyMap", *(name for name in functions if f"{name}(" in text))


def edits(source: bytes, texts: list[str]) -> list[Edit]:
    """What makes the rules those of `texts`, position by position where they differ."""
    old = [rule.text for rule in read_key_maps(source)["hf"].rules]
    found: list[Edit] = []
    for _, i, j, k, n in SequenceMatcher(None, old, texts, autojunk=False).get_opcodes():
        both = min(j - i, n - k)
        pairs = zip(range(i, i + both), texts[k : k + both], strict=True)
        found += [Keep(position) if old[position] == text else Change(position, text) for position, text in pairs]
        found += [Add(text) for text in texts[k + both : n]]
    return found


def regenerate(source: bytes, texts: list[str], width: int = 110) -> bytes:
    return edit_key_map(source, "hf", edits(source, texts), width=width)


@pytest.mark.parametrize(("before", "texts", "after"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_before_and_after(before: str, texts: list[str], after: str, line_end: str, encoding: str) -> None:
    source, expected = (
        f"{used(text)}{text}{TAIL}".replace("\n", line_end).encode(encoding) for text in (before, after)
    )
    assert regenerate(source, texts).decode(encoding) == expected.decode(encoding)
    assert regenerate(expected, texts) is expected


def ruff(folder: Path, *command: str) -> str:
    options = ["--isolated", "--line-length", "110", str(folder)]
    return subprocess.run([find_ruff_bin(), *command, *options], capture_output=True, text=True, check=False).stdout


def test_what_was_formatted_stays_formatted(tmp_path: Path) -> None:
    for number, (before, _, after) in enumerate(CASES.values()):
        (tmp_path / f"before{number}.py").write_text(f"{used(before)}{before}{TAIL}")
        (tmp_path / f"after{number}.py").write_text(f"{used(after)}{after}{TAIL}")
    unformatted = ruff(tmp_path, "format", "--check")
    formatted = [number for number in range(len(CASES)) if f"before{number}.py" not in unformatted]
    assert len(formatted) >= 11
    assert not [number for number in formatted if f"after{number}.py" in unformatted]
    assert ruff(tmp_path, "check", "--select", "E,F,I") == "All checks passed!\n"


IMPORTS = {
    "one line": ("KeyMap, rename\n", "KeyMap, drop, rename\n"),
    "parenthesised": ("(KeyMap, rename)\n", "(KeyMap, drop, rename)\n"),
    "a name a line": (
        "(\n    KeyMap,  # all\n    # one\n    rename,\n)\n",
        "(\n    KeyMap,  # all\n    drop,\n    # one\n    rename,\n)\n",
    ),
    "too long with its comment": (
        f"KeyMap, rename  # {'x' * 40}\n",
        f"(  # {'x' * 40}\n    KeyMap,\n    drop,\n    rename,\n)\n",
    ),
    "too long with a comment that does not count": (
        f"KeyMap, rename  # noqa: {'F' * 40}\n",
        f"KeyMap, drop, rename  # noqa: {'F' * 40}\n",
    ),
    "two statements": (
        "KeyMap\nfrom kinfold.keymap import rename as rename_\nfrom kinfold.keymap import rename\n",
        "KeyMap, drop\nfrom kinfold.keymap import rename as rename_\nfrom kinfold.keymap import rename\n",
    ),
}


@pytest.mark.parametrize(("before", "after"), IMPORTS.values(), ids=IMPORTS)
def test_names_are_imported_and_no_longer_imported(before: str, after: str) -> None:
    head, key_map = "from kinfold.keymap import ", 'hf_key_map = KeyMap(\n    rename("a", "b"),\n'
    tail = ")\nCheckpointConverter(hf=hf_key_map)\n"
    source = f"{head}{before}{key_map}{tail}".encode()
    expected = f'{head}{after}{key_map}    drop("c", reason="d"),\n{tail}'.encode()
    assert edit_key_map(source, "hf", [Keep(0), Add('drop("c", reason="d")')], width=79) == expected
    again = edit_key_map(expected, "hf", [Keep(0)], width=79)
    assert b"drop" not in again
    assert b"rename" in again.partition(b"hf_key_map")[0]


def test_a_name_that_is_used_elsewhere_stays_imported() -> None:
    source = (imports("KeyMap", "drop", "rename", "tie") + '__all__ = ["tie"]\nrename\n').encode()
    source += b'hf_key_map = KeyMap(rename("a", "b"), drop("c", reason="d"), tie("e", to="f"))\n' + TAIL.encode()
    assert edit_key_map(source, "hf", []).startswith(imports("KeyMap", "rename", "tie").encode())


def test_the_other_key_maps_stay() -> None:
    source = (HEAD + 'hf_key_map = KeyMap(rename("a", "b"))\ngguf_key_map = KeyMap( rename("a", "b") )\n').encode()
    source += b"CheckpointConverter(hf=hf_key_map, gguf=gguf_key_map)\n"
    after = edit_key_map(source, "gguf", [Add('rename("c", "d")')])
    assert after == source.replace(b'KeyMap( rename("a", "b") )', b'KeyMap( rename("c", "d") )')


def test_the_encoding_stays() -> None:
    source = f"# -*- coding: latin-1 -*-\n{HEAD}hf_key_map = KeyMap(  # für später\n)\n{TAIL}".encode("latin-1")
    after = regenerate(source, ['rename("a", "b")'])
    assert after.decode("latin-1") == source.decode("latin-1").replace("später\n", 'später\n    rename("a", "b"),\n')
    with pytest.raises(WiringError, match=r"loader\.py cannot be written in the encoding"):
        regenerate(source, ['rename("a", "\u4e2d")'])


MISTAKES: dict[str, list[Edit]] = {
    "twice": [Keep(0), Keep(0)],
    "turned round": [Keep(1), Keep(0)],
    "beyond the last": [Keep(2)],
    "before the first": [Keep(-1), Keep(0)],
    "no rule": [Add("KeyMap()")],
    "no call": [Add("rename")],
    "no literal": [Add("rename(a, b)")],
    "not Python": [Change(0, "rename(")],
    "unpacked": [Add('rename("a", **b)')],
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_of_the_caller_is_no_wiring_error(mistake: list[Edit]) -> None:
    source = (HEAD + f"hf_key_map = KeyMap({rename('a', 'b').text}, {rename('c', 'd').text})\n{TAIL}").encode()
    with pytest.raises(ValueError, match=r"positions|is no rule"):
        edit_key_map(source, "hf", mistake)


def test_a_key_map_that_is_not_there_is_refused_with_those_that_are() -> None:
    source = f"{HEAD}hf_key_map = KeyMap()\n{TAIL}".encode()
    with pytest.raises(WiringError, match=r"^mine/loader\.py has no key map for 'fh'\.\nKnown: hf\.$"):
        edit_key_map(source, "fh", [], place="mine/loader.py")


def test_only_the_key_map_that_is_edited_has_to_be_editable() -> None:
    source = f"{HEAD}RULES = []\nhf_key_map = KeyMap()\ngguf_key_map = KeyMap(\n    *RULES,\n)\n".encode()
    source += b"CheckpointConverter(hf=hf_key_map, gguf=gguf_key_map)\n"
    assert b'KeyMap(\n    drop("a", reason="b"),\n)' in edit_key_map(source, "hf", [Add(drop("a", reason="b").text)])
    with pytest.raises(WiringError, match=r"line 7: \*RULES is no plain call") as caught:
        edit_key_map(source, "gguf", [])
    assert caught.value.summary == "The key map for 'gguf' in loader.py cannot be edited safely:"


def test_a_name_that_means_something_else_is_refused_with_the_line() -> None:
    source = f"{HEAD}hf_key_map = KeyMap()\n\n\ndef drop():\n    split = 1\n{TAIL}".encode()
    new = [Add('drop("a", reason="b")'), Add('split("a", into=("b", "c"), sizes=(1, 2))')]
    with pytest.raises(WiringError) as caught:
        edit_key_map(source, "hf", new)
    assert [fault.partition(" is given")[0] for fault in caught.value.faults] == ["line 7: drop", "line 8: split"]
