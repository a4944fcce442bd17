"""Rendering a template of `templates/` to files in memory, formatted as the project at hand formats."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kinfold
from kinfold.errors import ProjectError

Files = dict[Path, bytes]
"""Contents by path relative to the project's root."""


def render(template: str, data: Mapping[str, Any]) -> Files:
    """Fill a template.

    Args:
        template: The name of a folder of `templates/`.
        data: What its holes are filled with.
    """
    import copier

    with tempfile.TemporaryDirectory() as folder:
        copier.run_copy(
            str(templates_folder() / template), folder, data=dict(data), defaults=True, quiet=True, unsafe=False
        )
        found = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        return {path.relative_to(folder): path.read_bytes() for path in found}


def format_sources(files: Files, root: Path, package: str) -> Files:
    """Sort the imports of Python files and format them, by the settings of ruff that hold at `root`.

    Args:
        files: What to format; other files than Python's stay as they are.
        root: The project's root.
        package: The package they are part of, whose new modules ruff cannot find on the disk yet.
    """
    first_party = f"lint.isort.known-first-party = ['{package.partition('.')[0]}']"
    commands = (
        ("check", "--select", "I", "--fix-only", "--quiet", "--config", first_party),
        ("format", "--quiet"),
    )

    def formatted(item: tuple[Path, bytes]) -> tuple[Path, bytes]:
        path, source = item
        if path.suffix == ".py":
            for command in commands:
                source = _ruff(*command, path=path, source=source, root=root)
        return path, source

    with ThreadPoolExecutor() as pool:
        return dict(pool.map(formatted, files.items()))


def line_length(path: Path, root: Path) -> int:
    """How long the lines of a file may be, by the settings of ruff that hold for it.

    Args:
        path: The file, relative to the root.
        root: The project's root.
    """
    command = [sys.executable, "-m", "ruff", "check", "--show-settings", str(path)]
    settings = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False).stdout
    found = re.search(r"^formatter\.line_width = (\d+)$", settings, re.MULTILINE)
    return int(found[1]) if found else 88


def templates_folder() -> Path:
    """Where the templates lie: at the top of the repository, or in the installed package."""
    package = Path(kinfold.__file__).parent
    folders = (package.parents[1] / "templates", package / "templates")
    return next(folder for folder in folders if (folder / "family" / "copier.yml").is_file())


def _ruff(*arguments: str, path: Path, source: bytes, root: Path) -> bytes:
    command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", str(root / path), "-"]
    result = subprocess.run(command, input=source, capture_output=True, cwd=root, check=False)
    if result.returncode:
        raise ProjectError(f"ruff {arguments[0]} failed on {path}: {result.stderr.decode().strip()}")
    return result.stdout
