"""Importing a rendered family that is not part of its project yet."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kinfold.registry import model_factories

if TYPE_CHECKING:
    from kinfold.loader import StandardModelLoader
    from kinfold.scaffold.project import Project
    from kinfold.scaffold.render.files import Files


@contextmanager
def imported_family(family: str, project: Project, files: Files) -> Iterator[StandardModelLoader]:
    """Import a family from files in memory, as the module it will be, and forget it again.

    Yields:
        The loader that the family registered.
    """
    from kinfold.loader import load_model

    project.activate()
    package = importlib.import_module(project.package)
    module = f"{project.package}.{family}"
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            written = Path(folder, path)
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_bytes(data)
        location = str(Path(folder, project.package_path))
        package.__path__.append(location)
        importlib.invalidate_caches()
        try:
            importlib.import_module(f"{module}.loader")
            yield load_model.registrations.get(family)
        finally:
            package.__path__.remove(location)
            for name in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
                del sys.modules[name]
            load_model.registrations.discard(family)
            model_factories.registrations.discard(family)
