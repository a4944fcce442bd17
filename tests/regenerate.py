"""Renders the families of `generated/` anew, each from the spec that is kept for it.

    python tests/regenerate.py

writes what has changed; a test checks that nothing does.
"""

from __future__ import annotations

from pathlib import Path

from kinfold.scaffold.new_family import render_family, spec_of_family, state_files
from kinfold.scaffold.project import require_project
from kinfold.scaffold.transaction import Transaction

GENERATED = Path(__file__).parents[1] / "generated"


def regenerate() -> Transaction:
    """A transaction that brings every shipped family up to date with the templates."""
    project = require_project(GENERATED)
    project.activate()
    transaction = Transaction(project.root)
    for family in project.families():
        spec = spec_of_family(family, project)
        files = render_family(family, project, spec)
        for path, data in {**files, **state_files(family, project, spec, files)}.items():
            transaction.write(path, data)
    return transaction


if __name__ == "__main__":
    transaction = regenerate()
    print(transaction.diff(), end="")
    transaction.commit()
