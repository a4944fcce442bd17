"""Which families there are, their named archs, and how to create a model of one.

A family is known by one entry, name to module, in the `FAMILIES` table of a package that declares
the entry point group `kinfold.families`. Its module is imported when the family is first asked for,
and registers its factory (here) and its loader (`kinfold.loader`) while being imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kinfold.errors import RegistryError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

ENTRY_POINT_GROUP = "kinfold.families"

T = TypeVar("T")
ConfigFunction = Callable[[], T]


class ConfigRegistry(Generic[T]):
    """The archs of one family: names to functions that give a fresh config.

    The arch registered first is the family's default.
    """

    def __init__(self) -> None:
        self._functions: dict[str, ConfigFunction[T]] = {}

    def register(self, arch: str, function: ConfigFunction[T]) -> None:
        """Register `function` under the name `arch`; a name already taken is a `RegistryError`."""
        if arch in self._functions:
            raise RegistryError(f"The arch {arch!r} is registered twice.")
        self._functions[arch] = function

    def decorator(self, arch: str) -> Callable[[ConfigFunction[T]], ConfigFunction[T]]:
        """Register the decorated function under the name `arch`."""

        def decorate(function: ConfigFunction[T]) -> ConfigFunction[T]:
            self.register(arch, function)
            return function

        return decorate

    def get(self, arch: str | None = None) -> T:
        """A fresh config of `arch` (None: the default arch), which the caller may change."""
        if not self._functions:
            raise RegistryError("No arch is registered.")
        if arch is None:
            arch = next(iter(self._functions))
        if arch not in self._functions:
            raise RegistryError(f"There is no arch {arch!r}.", hint=nearest(arch, self._functions))
        return self._functions[arch]()

    def names(self) -> tuple[str, ...]:
        """The names of all archs, in the order they were registered."""
        return tuple(self._functions)


class FamilyIndex:
    """The modules of all families, found through entry points; importing none of them."""

    def __init__(self) -> None:
        self._added: dict[str, str] = {}

    def add(self, families: Mapping[str, str]) -> None:
        """Add a table of families (name to module), such as that of a project that is not installed."""
        for name, module in families.items():
            _add_entry(self._added, name, module)
        self.__dict__.pop("modules", None)

    @cached_property
    def modules(self) -> Mapping[str, str]:
        """Name to module of every family. An entry point that fails to import raises."""
        from importlib.metadata import entry_points

        found = dict(self._added)
        for entry_point in entry_points(group=ENTRY_POINT_GROUP):
            try:
                families = entry_point.load()
            except Exception as error:
                raise RegistryError(
                    f"The entry point {entry_point.name!r} ({entry_point.value}) of the group "
                    f"{ENTRY_POINT_GROUP!r} cannot be loaded: {type(error).__name__}: {error}",
                    hint="Mend or uninstall the package that declares it.",
                ) from error
            for name, module in families.items():
                _add_entry(found, name, module)
        return found

    def load(self, family: str) -> None:
        """Import the module of a family, which registers what the family has."""
        if family not in self.modules:
            raise RegistryError(f"There is no family {family!r}.", hint=nearest(family, self.modules))
        import_module(self.modules[family])


families = FamilyIndex()
"""The families of every installed package, and of the project at hand."""


@dataclass(frozen=True, slots=True)
class ModelFactory:
    """How to create a model of one family."""

    family: str
    create: Callable[..., nn.Module]
    config_class: type[Any]
    archs: ConfigRegistry[Any]


class Registrations(Generic[T]):
    """What families register about themselves, one value each, imported on demand."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._values: dict[str, T] = {}

    def add(self, family: str, value: T) -> None:
        if family in self._values:
            raise RegistryError(f"The family {family!r} has registered a {self._what} already.")
        self._values[family] = value

    def get(self, family: str) -> T:
        """The value of `family`, whose module is imported if it was not yet."""
        if family not in self._values:
            families.load(family)
        if family not in self._values:
            raise RegistryError(
                f"{families.modules[family]}, the module of the family {family!r}, registered no {self._what}.",
            )
        return self._values[family]

    def discard(self, family: str) -> None:
        """Forget what `family` registered, so that its module can be imported anew."""
        self._values.pop(family, None)


class ModelFactories:
    """The factories of all families."""

    def __init__(self) -> None:
        self.registrations = Registrations[ModelFactory]("factory")

    def register(
        self, family: str, create: Callable[..., nn.Module], config_class: type[T], archs: ConfigRegistry[T]
    ) -> None:
        """Register `create(config, *, device, dtype)` as what makes a model of `family`."""
        self.registrations.add(family, ModelFactory(family, create, config_class, archs))

    def get(self, family: str) -> ModelFactory:
        """The factory of `family`."""
        return self.registrations.get(family)

    def names(self) -> tuple[str, ...]:
        """The names of all families, sorted; none of them is imported."""
        return tuple(sorted(families.modules))


model_factories = ModelFactories()


def create_model(
    family: str,
    arch: str | None = None,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A model with fresh weights.

    Args:
        family: The name of the family.
        arch: The name of one of its archs; its default arch if None.
        device: Where the weights lie; torch's default device if None, "meta" for no weights at all.
        dtype: The dtype of the weights; torch's default dtype if None.

    Raises:
        RegistryError: There is no such family or arch; the message names the nearest ones.
    """
    factory = model_factories.get(family)
    return factory.create(factory.archs.get(arch), device=device, dtype=dtype)


def _add_entry(table: dict[str, str], name: str, module: str) -> None:
    other = table.setdefault(name, module)
    if other != module:
        raise RegistryError(
            f"Two packages have a family {name!r}: {other} and {module}.",
            hint="Rename one of them, or uninstall the package you do not need.",
        )
