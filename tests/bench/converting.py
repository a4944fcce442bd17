"""Times one conversion, without what goes before it; under torchrun, with all processes.

python tests/bench/converting.py FAMILY SOURCE DESTINATION OPTIONS, in the folder of a project; OPTIONS are JSON.
"""

from __future__ import annotations

import json
import sys
import time

from measure import MARK

from kinfold import load_model
from kinfold.conversion import convert_checkpoint
from kinfold.parallel import setup_gangs
from kinfold.scaffold.project import require_project


def main(family: str, source: str, destination: str, options: str) -> None:
    """Convert, and print the seconds on rank 0."""
    require_project().activate()
    load_model.get(family)
    with setup_gangs(device="cpu") as gangs:
        gangs["world"].barrier()
        start = time.perf_counter()
        convert_checkpoint(source, destination, family=family, gangs=gangs, **json.loads(options))
        if gangs["world"].rank == 0:
            print(MARK, time.perf_counter() - start)


if __name__ == "__main__":
    main(*sys.argv[1:])
