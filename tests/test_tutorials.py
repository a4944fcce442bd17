"""Every block of the tutorials, run in order and as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
TUTORIALS = sorted((TOP / "docs/tutorials").glob("*.md"))
FENCE = re.compile(r"^```(?P<language>\w+) ?(?P<info>.*)\n(?P<text>(?:.*\n)*?)```$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Attributes:
        language: `sh` and `python` are run, `text` is what the block before printed, `...` standing for anything.
        info: What follows the language: `title="FILE"` is written to that file, `append="FILE"` is added below,
            `excerpt="FILE"` stands in it already; `fails` is a command that does not succeed.
        text: The block.
        line: Where it begins.
    """

    language: str
    info: str
    text: str
    line: int

    def file(self, key: str) -> str | None:
        """The file that `key` names."""
        found = re.search(rf'{key}="([^"]+)"', self.info)
        return found[1] if found else None


def blocks(path: Path) -> Iterator[Block]:
    text = path.read_text()
    for found in FENCE.finditer(text):
        yield Block(found["language"], found["info"], found["text"], text.count("\n", 0, found.start()) + 1)


class Reader:
    """Somebody who does what a tutorial says, in a virtual environment of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = ""
        environment = folder / "venv"
        venv.create(environment, with_pip=False, symlinks=True)
        site = next(environment.glob("lib/*/site-packages"))
        # What is installed where the tests run is there too; what the tutorial installs is not there afterwards.
        (site / "outside.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages"))
                                          + f"{TOP / 'src'}\n{TOP / 'generated'}\n")  # fmt: skip
        binaries = environment / "bin"
        for name, module in (("scaffold", "kinfold.scaffold.cli.main"), ("pip", "pip._internal.cli.main")):
            (binaries / name).write_text(
                f"#!{binaries / 'python'}\nfrom {module} import main\nraise SystemExit(main())\n"
            )
            (binaries / name).chmod(0o755)
        self.variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "KINFOLD"))},
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # which is how pip spells that it is to use what is there
            "PIP_NO_INDEX": "1",
        }

    def read(self, block: Block) -> None:
        if file := block.file("title"):
            (self.folder / file).write_text(block.text)
        elif file := block.file("append"):
            with (self.folder / file).open("a") as opened:
                opened.write(f"\n\n{block.text}")
        elif file := block.file("excerpt"):
            assert block.text in (self.folder / file).read_text()
        elif block.language == "sh":
            self._run(
                "bash", "-euc", f"{block.text}\npwd > {self.folder.parent / 'where'}", fails="fails" in block.info
            )
            if "fails" not in block.info:
                self.folder = Path((self.folder.parent / "where").read_text().strip())
        elif block.language == "python":
            self._run("python", "-c", block.text)
        elif block.language == "text":
            assert is_like(self.printed, block.text), self.printed

    def _run(self, *command: str, fails: bool = False) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stdout
        self.printed = done.stdout


def is_like(printed: str, expected: str) -> bool:
    """Whether a text is what is expected, where `...` stands for anything."""
    pattern = re.sub(r"([*?[])", r"[\1]", expected.strip()).replace("...", "*")
    return fnmatchcase(printed.strip(), pattern)


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_every_block_does_what_it_says(tutorial: Path, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    done = list(blocks(tutorial))
    assert len(done) == tutorial.read_text().count("```") // 2
    for block in done:
        try:
            reader.read(block)
        except AssertionError as error:
            raise AssertionError(f"{tutorial.name}, line {block.line}:\n{block.text}\n{error}") from error


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a [b] c", "a [b] c", True),
        ("a b c", "a ... c", True),
        ("a\nb\nc", "...\nc", True),
        ("a b", "a c", False),
        ("a b\nmore", "a b", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(printed: str, expected: str, same: bool) -> None:
    assert is_like(printed, expected) is same
