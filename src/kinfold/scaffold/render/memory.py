"""A family in memory: rendered from its spec and executed, without files, formatting or registration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from kinfold.registry import ConfigRegistry, model_factories
from kinfold.scaffold.naming import class_prefix
from kinfold.scaffold.render.context import family_context
from kinfold.scaffold.render.files import templates_folder
from kinfold.scaffold.spec.schema import Spec

if TYPE_CHECKING:
    from jinja2 import Template
    from torch import nn

    from kinfold.converter import CheckpointConverter

_PACKAGE = "_kinfold_in_memory"
_MODULES = ("model", "factory", "archs", "loader")  # each imports those before it


@dataclass(frozen=True, slots=True)
class FamilyInMemory:
    """What a family is made of.

    Attributes:
        config_class: The class of its config.
        create: Makes a model: `create(config, *, device=None, dtype=None)`.
        archs: Its named sizes; `archs.get()` is a fresh config of the default.
        converter: Its key maps.
        sharder: Spreads a model over ranks: `sharder(model, config, gangs, *, sequence_parallel=False)`.
        sources: The source text of its modules, as it comes out of the templates, by the names of the modules.
    """

    config_class: type[Any]
    create: Callable[..., nn.Module]
    archs: ConfigRegistry[Any]
    converter: CheckpointConverter
    sharder: Callable[..., None]
    sources: dict[str, str]


def load_family(name: str, spec: Spec) -> FamilyInMemory:
    """Render a family and execute it; it is registered nowhere, and its modules cannot be imported afterwards.

    The templates are those of `render_family`, so the code is the same but for the formatting. Takes some ten
    milliseconds, apart from what is imported and compiled by the first call.

    Args:
        name: The name of the family, which may be that of another one.
        spec: Its spec; checked already (`check_spec`).
    """
    own = f"{name}_"  # no family is called so, see `check_name`
    sources = render_sources(own, _PACKAGE, spec)
    with _forgotten(own):
        modules = {module: _execute(f"{_PACKAGE}.{own}.{module}", source) for module, source in sources.items()}
    return FamilyInMemory(
        config_class=getattr(modules["factory"], f"{class_prefix(own)}Config"),
        create=getattr(modules["factory"], f"create_{own}_model"),
        archs=getattr(modules["archs"], f"{own}_archs"),
        converter=getattr(modules["loader"], f"convert_{own}_checkpoint"),
        sharder=getattr(modules["loader"], f"shard_{own}_model"),
        sources=sources,
    )


def render_sources(family: str, package: str, spec: Spec) -> dict[str, str]:
    """The source text of the modules of a family by their names, not yet formatted; in the order they are imported."""
    data = family_context(family, package, spec)
    return {module: _templates(spec.model)[module].render(data) for module in _MODULES}


@cache
def _templates(model: str) -> dict[str, Template]:
    """The compiled templates of the modules of a family, for a kind of model."""
    from jinja2 import Environment, StrictUndefined

    # As `_envops` in the copier.yml of these templates.
    environment = Environment(keep_trailing_newline=True, trim_blocks=True, undefined=StrictUndefined)
    inside = "{{ package_path }}/{{ family }}"
    found = {}
    for folder in ("family", model):
        for path in (templates_folder() / folder / inside).glob("*.py.jinja"):
            found[path.name.removesuffix(".py.jinja")] = environment.from_string(path.read_text(encoding="utf-8"))
    return found


@contextmanager
def _forgotten(family: str) -> Iterator[None]:
    """Forget, afterwards, which modules a family had and what it registered."""
    from kinfold.loader import load_model

    packages = (_PACKAGE, f"{_PACKAGE}.{family}")
    sys.modules.update({package: ModuleType(package) for package in packages})
    try:
        yield
    finally:
        for module in (*packages, *(f"{_PACKAGE}.{family}.{module}" for module in _MODULES)):
            sys.modules.pop(module, None)
        model_factories.registrations.discard(family)
        load_model.registrations.discard(family)


def _execute(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module  # where dataclasses and the modules to come look for it
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module
