"""Reading key maps: rules by position, line and text, and why one cannot be edited."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from kinfold.errors import WiringError
from kinfold.scaffold.wire.keymap import KeyMapSource, RuleSource, read_key_maps, same_call

HEAD = "from kinfold.keymap import KeyMap, drop, rename\n"


def test_the_shipped_family_reads_as_it_runs() -> None:
    module = importlib.import_module("kinfold_zoo.llama.loader")
    key_maps = read_key_maps(Path(str(module.__file__)).read_bytes())
    assert list(key_maps) == list(module.convert_llama_checkpoint.key_maps)
    for layout, key_map in module.convert_llama_checkpoint.key_maps.items():
        assert [rule.text for rule in key_maps[layout].rules] == [rule.text for rule in key_map]


def test_rules_have_positions_lines_and_texts() -> None:
    source = f"""\
{HEAD}
mine = KeyMap(
    rename('a', "b"
           ".c"),

    # copied
    drop("d", reason="e"), rename(target="g", source="f"),
    rename("h{{i}}", "k"),
)
c = kinfold.CheckpointConverter(hf=mine)
"""
    rules = (
        RuleSource(0, 4, 'rename("a", "b.c")'),
        RuleSource(1, 8, 'drop("d", reason="e")'),
        RuleSource(2, 8, 'rename("f", "g")'),
        RuleSource(3, 9, "rename('h{i}', 'k')"),  # has to be mended, so it has to be read
    )
    assert read_key_maps(source.encode()) == {"hf": KeyMapSource("hf", "mine", 3, rules)}


UNEDITABLE = {
    "star": ("m = KeyMap(\n  *RULES,\n)", ["line 3: *RULES is no plain call of a rule of kinfold.keymap"]),
    "comprehension": (
        "m = KeyMap(*(rename(a, b) for a, b in T))",
        ["line 2: *(rename(a, b) for a, b in T) is no plain call of a rule of kinfold.keymap"],
    ),
    "variable": ("R = 1\nm = KeyMap(R)", ["line 3: R is no plain call of a rule of kinfold.keymap"]),
    "no literal": (
        'm = KeyMap(\n  rename(A + "b", "c"),\n  rename("d", f"{e}"))',
        ["line 3: A + 'b' is no literal", "line 4: f'{e}' is no literal"],
    ),
    "unpacked": ('m = KeyMap(drop("a", **K))', ["line 2: **K is unpacked"]),
    "an option": ("m = KeyMap(strict=True)", ["line 2: KeyMap takes rules alone"]),
    "made by something else": ("m = make()", ["line 2: m is not bound to KeyMap(...) at the top level"]),
    "imported": ("from other import m", ["line 2: m is not bound to KeyMap(...) at the top level"]),
    "nowhere": ("", ["line 3: m is not bound to KeyMap(...) at the top level"]),
    "in a branch": ("if X:\n  m = KeyMap()", ["line 3: m is not bound to KeyMap(...) at the top level"]),
    "twice": ("m = KeyMap()\nm = KeyMap()", ["line 3: m is bound or changed again"]),
    "with a prefix": (
        'm = km.KeyMap(km.rename("a", "b"))',
        ["line 2: km.KeyMap is no plain name; write `from kinfold.keymap import KeyMap`"],
    ),
    "not imported": (
        'm = KeyMap(tie("a", to="b"))',
        ["line 2: tie is not imported by `from kinfold.keymap import tie`"],
    ),
    "imported from elsewhere": (
        'from .kinfold.keymap import tie\nm = KeyMap(tie("a", to="b"))',
        [
            "line 2: tie is given another meaning",
            "line 3: tie is not imported by `from kinfold.keymap import tie`",
        ],
    ),
    "another function": (
        'def rename(): ...\nm = KeyMap(rename("a", "b"))',
        ["line 2: rename is given another meaning"],
    ),
}


@pytest.mark.parametrize(("binding", "faults"), UNEDITABLE.values(), ids=UNEDITABLE)
def test_what_cannot_be_edited_says_why(binding: str, faults: list[str]) -> None:
    key_map = read_key_maps(f"{HEAD}{binding}\nCheckpointConverter(hf=m)\n".encode())["hf"]
    assert (key_map.rules, list(key_map.faults)) == ((), faults)


def test_what_the_converter_is_given_has_to_be_a_variable_of_its_own() -> None:
    source = f"{HEAD}m = KeyMap()\nCheckpointConverter(\n  a=m,\n  b=m,\n  c=KeyMap(),\n  **MORE,\n)\n".encode()
    assert {layout: list(key_map.faults) for layout, key_map in read_key_maps(source).items()} == {
        "a": ["line 4: m is the key map of 'b', too"],
        "b": ["line 5: m is the key map of 'a', too"],
        "c": ["line 6: 'c' is given KeyMap(), which is no variable"],
    }


UNREADABLE = {
    "not Python": ("m = (", "mine/loader.py is not valid Python: "),
    "no converter": ("m = 1", "line 1: nothing in this file calls CheckpointConverter"),
    "two": ("\nCheckpointConverter()\nCheckpointConverter()", "line 3: CheckpointConverter is called here"),
}


@pytest.mark.parametrize(("source", "fault"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_without_one_converter_is_refused(source: str, fault: str) -> None:
    with pytest.raises(WiringError) as caught:
        read_key_maps(source.encode(), place="mine/loader.py")
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ('rename("a", "b")', "rename( 'a',\n 'b', )", True),
        ('rename("a", "b")', 'rename(source="a", target="b")', True),
        ('rename("a", "b")', 'rename("b", "a")', False),
        ('rename("a", "b")', 'transpose("a", "b")', False),
        ('transpose("a", "b")', 'transpose("a", "b", dim1=1)', True),
        ('split("a", into=("b",), sizes=(1,))', 'split("a", sizes=[0x1], into=["b"], groups=1)', True),
        ('split("a", into=("b",), sizes=())', 'split("a", into=("b",), sizes=[])', False),  # no rules
        ('chain(rename("a", "b"), rename("b", "c"))', 'chain(rename("a", "b"), rename("b", "c"),)', True),
    ],
)
def test_calls_are_the_same_if_they_make_the_same_rule(a: str, b: str, same: bool) -> None:
    assert same_call(a, b) is same
