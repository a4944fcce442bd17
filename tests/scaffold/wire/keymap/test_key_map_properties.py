"""What holds for every key map, as ruff formats it or as it happens to stand there, and for every list of edits."""

from __future__ import annotations

import ast
import io
import subprocess
import tokenize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruff import find_ruff_bin

import kinfold
from kinfold import keymap
from kinfold.keymap import KeyMap, Rule, chain, concat, drop, permute_rotary, rename, split, transpose
from kinfold.keymap import rules as rule_functions
from kinfold.scaffold.wire.keymap import Add, Change, Edit, Keep, add_key_map, edit_key_map, read_key_maps

WORDS = ("a", "model.norm.weight", "model.layers.12.self_attn.q_proj.weight", "decoder.layers.3.ffn.inner_proj.weight")
REASONS = ("recomputed", 'a "copy"', "it's old", "both \"these\" and 'those'", "a back\\slash")

names = st.builds("{}.{}".format, st.sampled_from(WORDS), st.integers(0, 9))


@st.composite
def a_rule(draw: st.DrawFn) -> Rule:
    a, b, c, d = draw(st.lists(names, min_size=4, max_size=4, unique=True))
    return draw(
        st.sampled_from(
            [
                rename(a, b),
                transpose(a, b),
                permute_rotary(a, b, heads="num_heads"),
                split(a, into=(b, c), sizes=("q_dim", 64)),
                split(a, into=(b,), sizes=(1,)),
                concat((a, b, c), into=d, sizes=(1, 2, 3), dim=1),
                chain(transpose(a, "x"), split("x", into=(b, c, d), sizes=(1, 2, 3))),
                drop(a, reason=draw(st.sampled_from(REASONS))),
            ]
        )
    )


@st.composite
def loaders(draw: st.DrawFn) -> bytes:
    """A loader, with comments, blank lines and breaks in any place."""
    texts = [rule.text for rule in draw(st.lists(a_rule(), max_size=4))]
    called = sorted({node.id for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)})
    remark = st.sampled_from(["", "", "  # a remark", "  # a longer remark, which is why the line may break"])
    gap = st.sampled_from(["", "", "\n", "    # a line\n", "    # a line\n\n", "\n    # a line\n    # another\n"])
    rows = []
    for text in texts:
        inner = draw(st.sampled_from([", ", ", ", ",  # within\n"]))  # no name is followed by a comma and a space
        rows.append(f"{draw(gap)}    {text.replace(', ', inner, 1)},{draw(remark)}\n")
    spread = f"KeyMap({draw(remark)}\n{''.join(rows)}{draw(gap)})"
    key_map = draw(st.sampled_from([spread, spread, f"KeyMap({', '.join(texts)})"]))
    return f"""\
from kinfold import CheckpointConverter
from kinfold.keymap import {", ".join(["KeyMap", *called])}{draw(remark)}

hf_key_map = {key_map}{draw(remark)}

convert = CheckpointConverter({draw(st.sampled_from(["hf=hf_key_map", "hf=hf_key_map,"]))})
""".encode()


@st.composite
def edits(draw: st.DrawFn, number: int) -> list[Edit]:
    found: list[Edit] = []
    for position in range(number + 1):
        found += [Add(rule.text) for rule in draw(st.lists(a_rule(), max_size=1))]
        if position < number:
            change = st.builds(lambda rule, at=position: Change(at, rule.text), a_rule())
            found += draw(st.sampled_from([[Keep(position)]] * 3 + [[draw(change)], []]))
    return found


def ruff(source: bytes, *command: str, width: int) -> bytes:
    options = ["--isolated", "--quiet", "--line-length", str(width), "--stdin-filename", "loader.py", "-"]
    result = subprocess.run([find_ruff_bin(), *command, *options], input=source, capture_output=True, check=False)
    return result.stdout


def formatted(source: bytes, width: int) -> bytes:
    return ruff(ruff(source, "check", "--select", "I", "--fix-only", width=width), "format", width=width)


def calls(source: bytes, variable: str = "hf_key_map") -> list[str]:
    """The rules of a key map, byte for byte."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == variable:
            assert isinstance(statement.value, ast.Call)
            return [ast.get_source_segment(source.decode(), rule) or "" for rule in statement.value.args]
    return []


def comments(source: bytes) -> list[str]:
    return [token.string for token in tokenize.tokenize(io.BytesIO(source).readline) if token.type == tokenize.COMMENT]


def run(source: bytes) -> dict[str, KeyMap]:
    """The key maps that the converter of a loader is given, when it is run."""
    found: dict[str, kinfold.CheckpointConverter] = {}
    exec(compile(source, "loader.py", "exec"), {}, found)
    return dict(found["convert"].key_maps)


def expected_texts(source: bytes, wanted: list[Edit]) -> list[str]:
    old = [rule.text for rule in run(source)["hf"]]
    return [old[edit.position] if isinstance(edit, Keep) else edit.text for edit in wanted]


@pytest.mark.parametrize("width", [88, 120])
@pytest.mark.parametrize("is_formatted", [True, False], ids=["formatted", "as it stands"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(source=loaders(), data=st.data())
def test_rules_are_as_asked_for_and_kept_ones_stay(
    source: bytes, data: st.DataObject, is_formatted: bool, width: int
) -> None:
    source = formatted(source, width) if is_formatted else source
    texts = expected_texts(source, [Keep(position) for position in range(len(calls(source)))])
    assert [rule.text for rule in read_key_maps(source)["hf"].rules] == texts
    wanted = data.draw(edits(len(texts)))

    edited = edit_key_map(source, "hf", wanted, width=width)

    assert [rule.text for rule in run(edited)["hf"]] == expected_texts(source, wanted)
    old, new = calls(source), calls(edited)
    for edit, call in zip(wanted, new, strict=True):
        assert not isinstance(edit, Keep) or call == old[edit.position]
    again: list[Edit] = [Keep(position) for position in range(len(wanted))]
    assert edit_key_map(edited, "hf", again, width=width) is edited
    if {edit.position for edit in wanted if isinstance(edit, Keep)} == set(range(len(old))):
        assert comments(edited) == comments(source)
    if is_formatted:
        assert ruff(edited, "format", "--diff", width=width) == b""
        lint = ("check", "--select", "E,F,I,UP,SIM,RUF,C4", "--output-format", "concise")
        assert ruff(source, *lint, width=width) or ruff(edited, *lint, width=width) == b""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(source=loaders(), new=st.lists(a_rule(), max_size=3), width=st.sampled_from([88, 120]))
def test_a_key_map_that_is_added_is_as_asked_for(source: bytes, new: list[Rule], width: int) -> None:
    source = formatted(source, width)
    added = add_key_map(source, "gguf", [rule.text for rule in new], docstring="GGUF's.", width=width)
    assert list(run(added)["gguf"]) == new
    assert list(run(added)["hf"]) == list(run(source)["hf"])
    assert ruff(added, "format", "--diff", width=width) == b""
    assert calls(added, "gguf_key_map") == calls(formatted(added, width), "gguf_key_map")
    assert ruff(added, "check", "--select", "F,I", width=width) == b""


def test_every_function_that_makes_a_rule_is_known() -> None:
    made = [name for name in vars(rule_functions) if name in keymap.__all__ and name[0].islower()]
    source = "".join(f"\nfrom kinfold.keymap import {name}" for name in ["KeyMap", "chain", *made])
    source += "\nhf_key_map = KeyMap(" + ", ".join(f'{name}("a")' for name in ["chain", *made]) + ")"
    assert read_key_maps(f"{source}\nCheckpointConverter(hf=hf_key_map)".encode())["hf"].faults == ()
    assert len(made) == 14
