"""A user's repository of families: finding it, reading its settings, making a new one."""

from __future__ import annotations

import ast
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from kinfold.assets.places import add_cards_folder
from kinfold.errors import ProjectError
from kinfold.registry import families
from kinfold.scaffold.naming import check_name
from kinfold.scaffold.transaction import Transaction

STATE_FOLDER = ".kinfold"


@dataclass(frozen=True, slots=True)
class Project:
    """A folder whose pyproject.toml has a table `[tool.kinfold]`.

    Attributes:
        root: The folder.
        package: The (dotted) name of the package that holds the families.
        source: The folder its top-level package lies in, relative to the root.
        tests: The folder of the tests, relative to the root.
    """

    root: Path
    package: str
    source: str
    tests: str

    @property
    def package_path(self) -> Path:
        """The folder of the package, relative to the root."""
        return Path(self.source, *self.package.split("."))

    @property
    def registry(self) -> Path:
        """The file with the table of families, relative to the root."""
        return self.package_path / "registry.py"

    @property
    def cards(self) -> Path:
        """The folder of its cards, relative to the root."""
        return self.package_path / "cards"

    def state(self, family: str) -> Path:
        """What is kept about a family, relative to the root."""
        return Path(STATE_FOLDER, family)

    def families(self) -> dict[str, str]:
        """The table of families, read without importing anything."""
        path = self.root / self.registry
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError) as error:
            raise ProjectError(f"{path} cannot be read: {error}") from error
        for node in tree.body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            if any(isinstance(target, ast.Name) and target.id == "FAMILIES" for target in targets):
                try:
                    return dict(ast.literal_eval(node.value))  # pyright: ignore
                except ValueError as error:
                    raise ProjectError(f"{path}:{node.lineno}: FAMILIES is not a table of literals.") from error
        raise ProjectError(f"{path} has no FAMILIES.", hint="It should say `FAMILIES: dict[str, str] = {...}`.")

    def activate(self) -> None:
        """Make the project's package importable, and its families and cards known, installed or not."""
        source = str(self.root / self.source)
        if source not in sys.path:
            sys.path.insert(0, source)
        families.add(self.families())
        add_cards_folder(self.root / self.cards)


def find_project(start: Path | None = None) -> Project | None:
    """The project that a folder (the current one if None) is in, if any."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        path = folder / "pyproject.toml"
        if not path.is_file():
            continue
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("kinfold")
        except tomllib.TOMLDecodeError as error:
            raise ProjectError(f"{path} cannot be read: {error}") from error
        if settings is not None:
            return _read_settings(settings, path)
    return None


def require_project(start: Path | None = None) -> Project:
    """Like `find_project`, but a `ProjectError` where there is none."""
    project = find_project(start)
    if project is None:
        raise ProjectError(
            f"{(start or Path.cwd()).resolve()} is not inside a project of Kinfold.",
            hint="Make one with `scaffold init NAME`, or add a table [tool.kinfold] to your pyproject.toml: "
            'package = "the_package_of_your_families".',
        )
    return project


def init_project(folder: Path) -> Transaction:
    """A transaction that makes a new project in `folder`; the project is named after it."""
    from kinfold.scaffold.render.files import render

    folder = folder.resolve()
    package = folder.name
    check_name(package, what="project")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(f"{folder} exists and is not an empty folder.", hint="Choose another name, or empty it.")
    transaction = Transaction(folder)
    for path, data in render("project", {"package": package}).items():
        transaction.write(path, data)
    return transaction


def _read_settings(settings: dict[str, object], path: Path) -> Project:
    known = {"package": None, "source": ".", "tests": "tests"}
    faults = [f"`{key}` is not known; known: {', '.join(known)}" for key in settings if key not in known]
    values = {**known, **settings}
    faults += [f"`{key}` must be a text" for key in known if not isinstance(values[key], str)]
    if faults:
        raise ProjectError(f"[tool.kinfold] in {path} is not as it should be:", faults=faults)
    return Project(path.parent, *(str(values[key]) for key in known))
