"""Before and after: a new key map for `gguf`, and the converter that is given it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ruff import find_ruff_bin

from kinfold.errors import WiringError
from kinfold.scaffold.wire.keymap import add_key_map, read_key_maps

MISTRAL = Path(__file__).parents[4] / "generated/kinfold_zoo/mistral/loader.py"

TEXTS = [
    'rename("output_norm.weight", "decoder.layer_norm.weight")',
    'permute_rotary("blk.{layer}.attn_q.weight", "decoder.layers.{layer}.self_attn.q_proj.weight", heads="num_heads")',
]

NEW = '''\
gguf_key_map = KeyMap(
    rename("output_norm.weight", "decoder.layer_norm.weight"),
    permute_rotary(
        "blk.{layer}.attn_q.weight", "decoder.layers.{layer}.self_attn.q_proj.weight", heads="num_heads"
    ),
)
"""GGUF's names to ours."""
'''

CASES = {
    "behind the last key map and its docstring": (
        '''\
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap, rename

hf_key_map = KeyMap(
    rename("a", "b"),
)
"""Words."""

# What loads.
convert = CheckpointConverter(
    hf=hf_key_map,  # ours
)
load_model.register("mine", convert)
''',
        f'''\
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap, permute_rotary, rename

hf_key_map = KeyMap(
    rename("a", "b"),
)
"""Words."""

{NEW}
# What loads.
convert = CheckpointConverter(
    hf=hf_key_map,  # ours
    gguf=gguf_key_map,
)
load_model.register("mine", convert)
''',
    ),
    "the first one": (
        """\
import torch
from kinfold import CheckpointConverter, load_model
from kinfold.registry import ConfigRegistry

convert = CheckpointConverter()
load_model.register("mine", convert, ConfigRegistry, torch)
""",
        f"""\
import torch
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap, permute_rotary, rename
from kinfold.registry import ConfigRegistry

{NEW}
convert = CheckpointConverter(
    gguf=gguf_key_map,
)
load_model.register("mine", convert, ConfigRegistry, torch)
""",
    ),
    "the first one, behind a function": (
        """\
from kinfold import CheckpointConverter


def words():
    return 1


# What loads.
convert = CheckpointConverter()
""",
        f"""\
from kinfold import CheckpointConverter
from kinfold.keymap import KeyMap, permute_rotary, rename


def words():
    return 1


{NEW}

# What loads.
convert = CheckpointConverter(
    gguf=gguf_key_map,
)
""",
    ),
    "a converter within another call, and no blank line": (
        """\
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap

hf_key_map = KeyMap()  # none
load_model.register("mine_and_only", 1, 2, 3, 4, 5, 6, 7, 8, converter=CheckpointConverter(hf=hf_key_map))
""",
        f"""\
from kinfold import CheckpointConverter, load_model
from kinfold.keymap import KeyMap, permute_rotary, rename

hf_key_map = KeyMap()  # none

{NEW}
load_model.register(
    "mine_and_only", 1, 2, 3, 4, 5, 6, 7, 8, converter=CheckpointConverter(hf=hf_key_map, gguf=gguf_key_map)
)
""",
    ),
    "on one line, as no formatter leaves it": (
        f"""\
from kinfold import CheckpointConverter
from kinfold.keymap import KeyMap
hf_key_map = KeyMap()
convert_{"x" * 48} = CheckpointConverter( hf=hf_key_map )
""",
        f"""\
from kinfold import CheckpointConverter
from kinfold.keymap import KeyMap, permute_rotary, rename
hf_key_map = KeyMap()

{NEW}
convert_{"x" * 48} = CheckpointConverter(
    hf=hf_key_map,
    gguf=gguf_key_map,
)
""",
    ),
}


def add(source: bytes, *texts: str) -> bytes:
    return add_key_map(source, "gguf", texts, docstring="GGUF's names to ours.", place="mine/loader.py", width=110)


def ruff(folder: Path, *command: str) -> str:
    config = "lint.isort.known-third-party = ['torch', 'kinfold']"
    options = ["--isolated", "--line-length", "110", "--config", config, str(folder)]
    return subprocess.run([find_ruff_bin(), *command, *options], capture_output=True, text=True, check=False).stdout


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_before_and_after(before: str, after: str, line_end: str, encoding: str) -> None:
    source, expected = (text.replace("\n", line_end).encode(encoding) for text in (before, after))
    assert add(source, *TEXTS).decode(encoding) == expected.decode(encoding)
    assert [rule.text for rule in read_key_maps(expected)["gguf"].rules] == TEXTS


def test_what_was_formatted_stays_formatted(tmp_path: Path) -> None:
    for number, (before, after) in enumerate([*CASES.values()][:-1]):
        (tmp_path / f"before{number}.py").write_text(before)
        (tmp_path / f"after{number}.py").write_text(after)
    assert ruff(tmp_path, "format", "--diff") == ""
    assert ruff(tmp_path, "check", "--select", "E,F,I") == "All checks passed!\n"


@pytest.mark.parametrize("width", [88, 120])
def test_the_docstring_and_no_rules_at_all(width: int, tmp_path: Path) -> None:
    words = 'Names \\ of """theirs""" to "ours"'
    added = add_key_map(MISTRAL.read_bytes(), "gguf", (), docstring=words, width=width)
    assert b'\n\ngguf_key_map = KeyMap()\n"""Names ' in added
    found: dict[str, str] = {}
    line = added.decode().partition("gguf_key_map = KeyMap()\n")[2].partition("\n")[0]
    exec(f"words = {line}", found)
    assert found["words"] == words
    (tmp_path / "loader.py").write_bytes(added)
    subprocess.run([find_ruff_bin(), "format", "--isolated", "--line-length", "120", "--check", tmp_path], check=True)
    with pytest.raises(ValueError, match="no single line"):
        add_key_map(MISTRAL.read_bytes(), "gguf", (), docstring="a\nb")


HEAD = "from kinfold import CheckpointConverter\nfrom kinfold.keymap import KeyMap, rename\n"

REFUSED = {
    "there already": (f"{HEAD}m = KeyMap()\nc = CheckpointConverter(\n  gguf=m)", "line 5: there is one already, m"),
    "its variable is there": (
        f"{HEAD}for gguf_key_map in x: ...\nCheckpointConverter()",
        "line 3: gguf_key_map is bound here",
    ),
    "perhaps there already": (f"{HEAD}c = CheckpointConverter(**MAPS)", "line 3: **MAPS could hide it"),
    "in a function": (
        f"{HEAD}def c():\n  return CheckpointConverter()",
        "line 4: CheckpointConverter is not called in a plain statement at the top level",
    ),
    "no converter": (HEAD, "line 1: nothing in this file calls CheckpointConverter"),
    "a name with another meaning": (
        f"{HEAD}c = CheckpointConverter()\npermute_rotary = 1",
        "line 4: permute_rotary is given another meaning",
    ),
    "not Python": ("c = (", "mine/loader.py is not valid Python"),
}


@pytest.mark.parametrize(("source", "fault"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_line(source: str, fault: str) -> None:
    with pytest.raises(WiringError) as caught:
        add(source.encode(), *TEXTS)
    assert fault in str(caught.value)


def test_a_second_time_is_refused() -> None:
    added = add(MISTRAL.read_bytes(), *TEXTS)
    with pytest.raises(WiringError, match="there is one already, gguf_key_map"):
        add(added, *TEXTS)


def test_a_layout_has_to_be_a_name() -> None:
    with pytest.raises(WiringError, match="'g-guf' cannot be the name of a layout"):
        add_key_map(MISTRAL.read_bytes(), "g-guf", (), docstring="Words.")
