"""A family as key maps are derived for it: its archs, its loader, and the file its maps stand in."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kinfold.checkpoint import Checkpoint, total_numel
from kinfold.converter import NATIVE, Conversion
from kinfold.errors import ProjectError, RegistryError, nearest
from kinfold.keymap import KeyMap
from kinfold.loader import StandardModelLoader, load_model
from kinfold.registry import families
from kinfold.scaffold.keymap.inference.words import Vocabulary
from kinfold.scaffold.keymap.native import FamilySide
from kinfold.scaffold.project import STATE_FOLDER, Project, find_project
from kinfold.scaffold.reading.additions import project_vocabulary

MUCH = 0.02
"""By how much of its size a checkpoint may differ from its arch: by copies, and by what is recomputed."""


@dataclass(frozen=True)
class Family:
    """A family whose loader is imported.

    Attributes:
        name: Its name.
        loader: What it has registered.
        project: The project it is part of; None if it comes from elsewhere.
        path: Its `loader.py`, relative to the project's root.
    """

    name: str
    loader: StandardModelLoader
    project: Project | None
    path: Path

    @property
    def key_maps(self) -> dict[str, KeyMap]:
        """Its key maps, by layout."""
        return dict(self.loader.checkpoint_converter.key_maps)

    def key_map(self, layout: str) -> KeyMap:
        """The key map of a layout.

        Raises:
            RegistryError: There is none.
        """
        if layout not in self.key_maps:
            raise RegistryError(
                f"{self.name} has no key map {layout!r}.", hint=nearest(layout, self.key_maps) or "It has none at all."
            )
        return self.key_maps[layout]

    def native_side(self, checkpoint: Checkpoint, arch: str | None = None) -> FamilySide:
        """The model of an arch; that whose number of values is nearest to the checkpoint's, if none is named."""
        if arch is not None:
            return FamilySide(self.loader.factory, self.loader.config_loader.archs.get(arch))
        if not self._sides:
            raise RegistryError(f"{self.name} has no arch.")
        there = total_numel(checkpoint.manifest)
        return min(self._sides, key=lambda side: abs(total_numel(side.manifest) - there))

    def size_hint(self, checkpoint: Checkpoint, native: FamilySide) -> str | None:
        """What to do if the checkpoint is of a size that no arch has; None if it is not by much."""
        there, here = total_numel(checkpoint.manifest), total_numel(native.manifest)
        if abs(there - here) <= MUCH * max(there, here):
            return None
        return (
            f"The checkpoint has {there:,} values, the arch that comes nearest {here:,}: if it is of another size, "
            f"add an arch with its sizes to {self.name} first."
        )

    def parameter_names(self) -> set[str]:
        """The names of the parameters of all archs."""
        return {name for side in self._sides for name in side.manifest}

    def explains(self, checkpoint: Checkpoint, native: FamilySide) -> str | None:
        """The layout whose key map has a certificate for a checkpoint; None if there is none."""
        best, *_ = self._conversions(checkpoint, native)
        return best.layout if best.certificate.holds else None

    def nearest_layout(self, checkpoint: Checkpoint, native: FamilySide) -> str:
        """The layout whose key map has the fewest faults for a checkpoint.

        Raises:
            RegistryError: The family has no key map.
        """
        layouts = [conversion.layout for conversion in self._conversions(checkpoint, native)]
        layouts.remove(NATIVE)
        if not layouts:
            raise RegistryError(f"{self.name} has no key map.", hint="`scaffold keymap derive` makes one.")
        return layouts[0]

    def vocabulary(self) -> Vocabulary:
        """The standard vocabulary, with what the project adds to it in `.kinfold/vocabulary.yaml`."""
        return project_vocabulary(self.project.root / STATE_FOLDER if self.project else None)

    def require_project(self) -> Project:
        """The project whose `loader.py` may be edited.

        Raises:
            ProjectError: The family is not part of the project at hand.
        """
        if self.project is None:
            raise ProjectError(
                f"{self.name} is not part of the project at hand, so its loader.py is left alone.",
                hint="Run this inside the repository that the family is in.",
            )
        return self.project

    @cached_property
    def _sides(self) -> list[FamilySide]:
        """The models of all archs; the first is the default."""
        archs = self.loader.config_loader.archs
        return [FamilySide(self.loader.factory, archs.get(name)) for name in archs.names()]

    def _conversions(self, checkpoint: Checkpoint, native: FamilySide) -> list[Conversion]:
        converter = self.loader.checkpoint_converter
        return converter.conversions(checkpoint.manifest, native.manifest, native.config)


def open_family(name: str) -> Family:
    """Import a family, of the project at hand or of an installed package."""
    project = find_project()
    if project is not None:
        project.activate()
    loader = load_model.get(name)
    module = sys.modules.get(f"{families.modules[name]}.loader")
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if project is None or not file.is_relative_to(project.root.resolve()):
        return Family(name, loader, None, file)
    return Family(name, loader, project, file.relative_to(project.root.resolve()))
