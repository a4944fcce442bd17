"""How the house stands: which part imports which, what a start costs, how long a module is, what no file says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGES = (TOP / "src/kinfold", TOP / "generated/kinfold_zoo")
MODULES = {path: package.parent for package in PACKAGES for path in sorted(package.rglob("*.py"))}
"""Every module of the distribution, and the folder it is imported from."""

TOOL = TOP / "src/kinfold/scaffold"
RUNTIME = [path for path in MODULES if path.is_relative_to(PACKAGES[0]) and not path.is_relative_to(TOOL)]
FAMILIES = [path for path in MODULES if path.is_relative_to(PACKAGES[1])]

FAMILIES_MAY_IMPORT = {*sys.stdlib_module_names, "kinfold", "kinfold_zoo", "torch"}
RUNTIME_MAY_IMPORT = {
    *sys.stdlib_module_names, "kinfold", "torch", "safetensors", "msgspec", "yaml", "gguf", "tokenizers", "regex",
    "huggingface_hub",
}  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    """The full dotted name of everything that a module imports, at its top or later."""
    package = path.relative_to(MODULES[path]).parent.parts
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden_imports(paths: Iterable[Path], allowed: set[str]) -> list[str]:
    """Every import of something that is not allowed, or of the tool."""
    return [
        f"{path.relative_to(TOP)}: {name}"
        for path in paths
        for name in imports(path)
        if name.split(".")[0] not in allowed or f"{name}.".startswith("kinfold.scaffold.")
    ]


def test_the_runtime_imports_neither_the_tool_nor_what_only_the_tool_needs() -> None:
    assert forbidden_imports(RUNTIME, RUNTIME_MAY_IMPORT) == []


def test_families_import_nothing_but_torch_and_the_runtime() -> None:
    assert forbidden_imports(FAMILIES, FAMILIES_MAY_IMPORT) == []


def test_transformers_is_imported_only_where_a_proof_needs_a_reference() -> None:
    importing = {path for path in MODULES for name in imports(path) if name.split(".")[0] == "transformers"}
    assert {path.parent for path in importing} == {TOOL / "prove"}


STARTS = {
    "runtime": "import kinfold, kinfold.registry",
    "families": "import kinfold_zoo.registry",
    "help": "sys.argv = ['scaffold', '--help']; from kinfold.scaffold.cli.main import main; main()",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_start_imports_nothing_heavy(start: str) -> None:
    report = "import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules, file=sys.stderr)); "
    result = subprocess.run([sys.executable, "-c", report + start], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    modules = set(result.stderr.splitlines()[-1].split())
    assert "atexit" in modules
    assert modules & {"torch", "transformers", "copier", "jinja2", "libcst"} == set()


def test_no_module_has_more_than_400_lines() -> None:
    lengths = {str(path.relative_to(TOP)): len(path.read_bytes().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_public_module_says_what_it_is_for() -> None:
    public = [path for path in MODULES if path.name == "__init__.py" or not path.name.startswith("_")]
    assert [str(path) for path in public if not ast.get_docstring(ast.parse(path.read_bytes()))] == []


def files(folder: Path, ignored: list[str]) -> Iterator[Path]:
    """The files of the repository, which may be without its `.git`."""
    for path in sorted(folder.iterdir()):
        if path.name != ".git" and not any(fnmatch(path.name, pattern) for pattern in ignored):
            yield from files(path, ignored) if path.is_dir() else [path]


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(rb"(?<![\w.)}\]-])/(?:work|root|home|tmp/w)(?![\w-])")
    ignored = [pattern.rstrip("/") for pattern in (TOP / ".gitignore").read_text().split()]
    repository = list(files(TOP, ignored))
    assert Path(__file__) in repository
    assert [str(path.relative_to(TOP)) for path in repository if place.search(path.read_bytes())] == []
