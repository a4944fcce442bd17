"""Every structure as files of a project: linters, types and its own tests pass on what is written."""

from __future__ import annotations

import subprocess
import sys

import pytest
from structures import STRUCTURES, spec_of

from kinfold.scaffold.new_family import render_family
from kinfold.scaffold.project import Project
from kinfold.scaffold.render.files import format_sources
from kinfold.scaffold.render.memory import render_sources


def succeeds(*command: str) -> None:
    """Run a tool in the current folder; what it says is shown if it fails."""
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_nothing_in_any_structure(project: Project) -> None:
    for name, said in STRUCTURES.items():
        for module, source in render_sources(name, project.package, spec_of(said)).items():
            path = project.root / project.package_path / name / f"{module}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
    succeeds("ruff", "check", "--select", "I", "--fix-only", "--quiet")
    succeeds("ruff", "format", "--quiet")
    succeeds("ruff", "check")


def test_in_memory_a_family_has_the_code_that_is_written(project: Project) -> None:
    spec = spec_of(STRUCTURES["scaled_where_full"])
    sources = {
        project.package_path / "x" / f"{module}.py": source.encode()
        for module, source in render_sources("x", project.package, spec).items()
    }
    written = render_family("x", project, spec)
    assert format_sources(sources, project.root, project.package) == {path: written[path] for path in sources}


@pytest.mark.slow
def test_types_and_tests_of_every_structure_pass(project: Project) -> None:
    for name, said in STRUCTURES.items():
        for path, data in render_family(name, project, spec_of(said)).items():
            (project.root / path).parent.mkdir(parents=True, exist_ok=True)
            (project.root / path).write_bytes(data)
    succeeds("ruff", "format", "--check")
    succeeds("pyright", "--pythonpath", sys.executable)
    succeeds("pytest", "-q", "-p", "no:cacheprovider")
