"""How many families one command takes: each checkpoint of a folder is tried, and the outcome tabulated.

    python tests/zoo/run.py FOLDER [FAMILY ...] [--alone] [--nonsense] [--json FILE] [--docs] ...

FOLDER is what make.py writes. Without FAMILY, all dense decoders in it and their variations are tried; a pattern such
as 'llama*' is a FAMILY, too. Families are tried by the public commands, variations in memory, which takes a tenth of
the time. The exit status is 1 if a family fails that families.yaml has among those that pass.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from zoo.families import VARIED, data, group_of
from zoo.page import line, page, summary
from zoo.quick import try_quickly
from zoo.trial import Trial, init_project, try_checkpoint

DOCS = Path(__file__).parents[2] / "docs" / "coverage.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the trials that the command line asks for; the exit status."""
    options = _options(arguments)
    checkpoints = find_checkpoints(options.folder, options.families)
    if not checkpoints:
        raise SystemExit(f"{options.folder} has no such checkpoint; make.py writes them.")
    trials = []
    with nullcontext(options.work) if options.work else tempfile.TemporaryDirectory() as work:
        for trial in run(checkpoints, Path(work), options.processes, alone=options.alone, nonsense=options.nonsense):
            print(line(trial), flush=True)
            trials.append(trial)
    trials.sort(key=lambda trial: trial.name)
    print(summary(trials))
    file = options.json or options.folder / "results.json"
    file.write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
    if options.docs:
        DOCS.write_text(page(trials))
    return int(any(trial.name in data()["passing"] for trial in trials if not trial.holds))


def find_checkpoints(folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """The folders of checkpoints whose names match a pattern; without patterns, those of dense decoders."""
    found = sorted(path.parent for path in folder.glob("*/reference.safetensors"))
    if patterns:
        return [path for path in found if any(fnmatch(path.name, pattern) for pattern in patterns)]
    return [path for path in found if group_of(path.name) == "dense"]


def run(checkpoints: Sequence[Path], work: Path, processes: int = 2, **options: bool) -> Iterator[Trial]:
    """Try each checkpoint in a project of its own under `work`, several at a time; in the order in which they end.

    `options` are those of `try_checkpoint`.
    """
    work.mkdir(parents=True, exist_ok=True)
    varied = [path for path in checkpoints if VARIED in path.name and not any(options.values())]
    if varied:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            yield from pool.map(try_quickly, varied, chunksize=8)
        checkpoints = [path for path in checkpoints if path not in varied]
    with tempfile.TemporaryDirectory(dir=work) as empty, ThreadPoolExecutor(processes) as pool:
        project = init_project(Path(empty))
        trials = [
            pool.submit(try_checkpoint, path, project=project, work=work / path.name, **options) for path in checkpoints
        ]
        for trial in as_completed(trials):
            yield trial.result()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--alone", action="store_true", help="give new-family no logits to settle anything by")
    parser.add_argument("--nonsense", action="store_true", help="try each under another model_type, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: results.json in FOLDER")
    parser.add_argument("--docs", action="store_true", help="write docs/coverage.md; not with FAMILY")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="keep the projects in this new folder")
    parser.add_argument("--processes", type=int, default=2, metavar="N")
    options = parser.parse_args(arguments)
    if options.docs and (options.families or options.alone):
        parser.error("--docs is a page of all families, with references: give neither FAMILY nor --alone with it")
    if options.work and options.work.exists():
        parser.error(f"--work {options.work}: there is something already")
    return options


if __name__ == "__main__":
    sys.exit(main())
