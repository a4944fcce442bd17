"""Runs that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def killed_at(folder: Path, stride: int) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "killed_run.py"), str(folder), str(stride)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"}  # no threads survive a fork
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_killed_at_some_points_comes_to_what_an_undisturbed_one_comes_to(tmp_path: Path) -> None:
    outcome = killed_at(tmp_path, 31)
    assert outcome["wrong"] == []
    assert outcome["points"] >= 12
    assert outcome["half_saved"] >= 5
    assert set(outcome["resumed_from"]) >= {0, 2, 4, 6}


@pytest.mark.slow
def test_a_run_killed_at_any_point_comes_to_what_an_undisturbed_one_comes_to(tmp_path: Path) -> None:
    outcome = killed_at(tmp_path, 1)
    assert outcome["wrong"] == []
    assert outcome["points"] >= 200
    assert outcome["resumed_from"] == [0, 2, 4, 6, 8, 9]
