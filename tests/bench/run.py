"""Every benchmark, each beside its peer.

    python tests/bench/run.py [ROW ...]

prints a table; rows are chosen by words of their names. Needs a few GB under `.bench/`.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import Row, measure, table
from rows import ROWS


def main(words: list[str]) -> None:
    """Measure the rows whose names hold any of the words; all rows without words."""
    done: list[tuple[Row, dict]] = []
    for name, make in ROWS.items():
        if words and not any(word in name for word in words):
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        row = make()
        done.append((row, measure(row)))
        print(table(done[-1:]), file=sys.stderr, flush=True)
    print(f"Python {platform.python_version()}, {platform.machine()}\n")
    print(table(done))


if __name__ == "__main__":
    main(sys.argv[1:])
