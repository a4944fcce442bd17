"""Names that a user gives: of a project and of a family."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Collection

from kinfold.errors import ProjectError

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def check_name(name: str, *, what: str, taken: Collection[str] = ()) -> None:
    """Refuse a name that cannot be that of a package, of functions and of files at once.

    Args:
        name: The name.
        what: What it names, for the message ("family", "project").
        taken: Names that are in use.

    Raises:
        ProjectError: With a name that would do.
    """
    faults = []
    if not _IDENTIFIER.fullmatch(name):
        faults.append("it has to be an ASCII identifier in lower case: letters, digits and _, a letter first")
    if name.endswith("_") or "__" in name:
        faults.append("it must not end in _ nor have two of them in a row")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        faults.append("it is a keyword of Python")
    if name in sys.stdlib_module_names or name in _RESERVED:
        faults.append("it is the name of a module that would be hidden by it")
    if name in taken:
        faults.append("it is taken")
    if faults:
        raise ProjectError(
            f"{name!r} cannot be the name of a {what}:",
            faults=faults,
            hint=f"{_suggest(name, taken)!r} would do.",
        )


def class_prefix(family: str) -> str:
    """The family's name in CamelCase, as its classes begin with: `my_model2` gives `MyModel2`."""
    return "".join(part.capitalize() for part in family.split("_"))


def arch_function(arch: str) -> str:
    """The name of an arch's function: `1.2b` gives `_1_2b`."""
    return "_" + re.sub(r"\W", "_", arch)


def arch_faults(archs: Collection[str]) -> list[str]:
    """What is wrong with the names of the archs of a family."""
    faults = [
        f"the arch {arch!r}: letters, digits and ._- were expected, a letter or digit first"
        for arch in archs
        if not _ARCH.fullmatch(arch)
    ]
    for function in sorted({arch_function(arch) for arch in archs}):
        alike = [arch for arch in archs if arch_function(arch) == function]
        if len(alike) > 1:
            faults.append(f"the archs {', '.join(map(repr, alike))} would share the function {function}")
    return faults


_ARCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RESERVED = frozenset({"kinfold", "kinfold_zoo", "torch", "registry", "cards", "tests"})


def _suggest(name: str, taken: Collection[str]) -> str:
    """The nearest name that has none of the faults."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    base = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    base = base if base and base[0].isalpha() else f"model_{base}".rstrip("_")
    blocked = {*taken, *keyword.kwlist, *keyword.softkwlist, *sys.stdlib_module_names, *_RESERVED}
    candidates = (base, f"{base}_model", *(f"{base}{number}" for number in range(2, 1000)))
    return next(candidate for candidate in candidates if candidate not in blocked)
