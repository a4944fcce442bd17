"""`scaffold init`, and finding the project one is in."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from kinfold.errors import ProjectError
from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project, find_project, init_project, require_project


def test_a_new_project_is_sound(project: Project) -> None:
    for command in (["ruff", "check"], ["ruff", "format", "--check"], ["pytest", "-q", "-p", "no:cacheprovider"]):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_its_entry_point_leads_to_its_families(project: Project) -> None:
    settings = tomllib.loads(Path("pyproject.toml").read_text())
    module, _, attribute = settings["project"]["entry-points"]["kinfold.families"]["mylab"].partition(":")
    project.activate()
    assert getattr(import_module(module), attribute) == {}


def test_it_is_found_from_deeper_folders(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("mylab/cards")
    assert find_project() == project


def test_no_project(tmp_path: Path) -> None:
    assert find_project(tmp_path) is None
    with pytest.raises(ProjectError, match="scaffold init NAME"):
        require_project(tmp_path)


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ProjectError, match="not an empty folder"):
        init_project(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(scaffold, ["init", "lab", "--dry-run"])
    assert "+++ b/lab/registry.py" in result.output
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("name", ["My-Lab", "torch", "class"])
def test_a_name_that_cannot_be_a_package(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="would do"):
        init_project(tmp_path / name)


def test_faults_of_the_settings_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.kinfold]\npackages = "x"\ntests = 3\n')
    with pytest.raises(ProjectError) as error:
        find_project(tmp_path)
    assert len(error.value.faults) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [("FAMILIES = build()\n", "not a table of literals"), ("OTHER = {}\n", "has no FAMILIES"), ("(", "cannot be read")],
)
def test_a_registry_that_cannot_be_read(project: Project, content: str, said: str) -> None:
    (project.root / project.registry).write_text(content)
    with pytest.raises(ProjectError, match=said):
        project.families()
