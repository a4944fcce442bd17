"""Key maps to latent attention, of whose queries and keys only some rows turn, are derived like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from zoo.make import build

from kinfold.scaffold.cli.main import scaffold
from kinfold.scaffold.project import Project


@pytest.mark.parametrize("kind", ["youtu", "minicpm3"])
def test_rows_that_turn_are_put_in_order(project: Project, tmp_path: Path, kind: str) -> None:
    assert build(kind, tmp_path)
    reference = str(tmp_path / kind / "reference.safetensors")
    CliRunner().invoke(scaffold, ["new-family", "x", "--from", str(tmp_path / kind)], catch_exceptions=False)
    command = ["keymap", "derive", "x", "--checkpoint", str(tmp_path / kind), "--reference", reference]
    derived = CliRunner().invoke(scaffold, command, catch_exceptions=False)
    assert "Against the reference: one of 2 ways computes the logits of reference.safetensors." in derived.output
    assert "Certificate: 38 tensors used once; 38 parameters filled once" in derived.output
