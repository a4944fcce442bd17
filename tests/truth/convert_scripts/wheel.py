"""The wheel that holds the convert scripts."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

REQUIREMENT = "transformers==4.40.2"
FOLDER = Path(__file__).resolve().parents[3] / ".venv" / ".truth"


def fetch_wheel(folder: Path = FOLDER) -> Path:
    """The wheel's path in `folder`, downloaded by pip if it is not there yet."""
    pattern = f"{REQUIREMENT.replace('==', '-')}-*.whl"
    if not any(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", REQUIREMENT]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    return next(folder.glob(pattern))


def scripts(wheel: Path) -> Iterator[tuple[str, str]]:
    """Each convert script's `family/file.py` and text."""
    root = "transformers/models/"
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            family, _, file = name.removeprefix(root).partition("/")
            if name.startswith(root) and file.startswith("convert_") and file.endswith(".py"):
                yield f"{family}/{file}", archive.read(name).decode()
