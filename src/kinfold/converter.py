"""Choosing, among the key maps of a family, the one that explains a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinfold.checkpoint.manifest import Manifest, state_dict_manifest
from kinfold.errors import CertificateError, KeyMapError, nearest
from kinfold.keymap import BoundKeyMap, Certificate, KeyMap, Plan, certify, rename
from kinfold.keymap.convert import refuse_what_may_be_converted

if TYPE_CHECKING:
    from torch import Tensor

NATIVE = "native"


@dataclass(frozen=True, slots=True)
class Conversion:
    """A layout, the family's key map for it, and the certificate that it explains a checkpoint."""

    layout: str
    key_map: BoundKeyMap
    certificate: Certificate


class CheckpointConverter:
    """The key maps of a family, by the name of the layout they read.

    A checkpoint that is in the native layout already needs no map and is loaded as it is.

    Example:
        CheckpointConverter(hf=hf_key_map, gguf=gguf_key_map)
    """

    def __init__(self, **key_maps: KeyMap) -> None:
        self.key_maps: Mapping[str, KeyMap] = key_maps

    def conversions(self, source: Manifest, target: Manifest, config: object) -> list[Conversion]:
        """How each layout explains a checkpoint, best first (fewest faults).

        Args:
            source: The manifest of the checkpoint.
            target: The manifest of the model.
            config: The model's config, which gives the sizes that rules name.
        """
        maps = {**self.key_maps, NATIVE: _as_it_is(target)}
        tried = []
        for layout, key_map in maps.items():
            bound = key_map.bind(config)
            tried.append(Conversion(layout, bound, certify(bound, source, target)))
        return sorted(tried, key=lambda conversion: len(conversion.certificate.faults))

    def choose(self, source: Manifest, target: Manifest, config: object, *, what: str) -> Conversion:
        """The conversion whose certificate holds.

        Args:
            what: The checkpoint, as the message of an error calls it.

        Raises:
            CertificateError: None holds; lists every fault of the one that comes nearest. Or several do, and would
                give different values, so that names and shapes do not tell which layout it is.
        """
        best, *others = self.conversions(source, target, config)
        layouts = ", ".join([*self.key_maps, NATIVE])
        best.certificate.raise_for_faults(
            f"No key map explains {what} (tried: {layouts}). The nearest, {best.layout}, fails on:",
            hint="`scaffold keymap diff` says how it differs; `derive` makes a new key map, `regen` mends one.",
        )
        different = [other.layout for other in others if other.certificate.holds and _differ(best, other)]
        if different:
            raise CertificateError(
                f"Which layout {what} has is not to be told: the key maps {', '.join([best.layout, *different])} all "
                "explain it, and give different values.",
                hint="Names that are the same in two layouts have to be told apart by other tensors of them.",
            )
        return best

    def load(self, state_dict: Mapping[str, Tensor], config: object, *, layout: str) -> dict[str, Tensor]:
        """A state dict of `layout` in the native layout; the one given is not changed.

        Raises:
            CertificateError: The key map does not explain the state dict in full.
            KeyMapError: The state dict may be native already.
        """
        bound = self._bound(layout, config)
        source = state_dict_manifest(state_dict)
        certificate = certify(bound, source, bound.target_manifest(source))
        certificate.raise_for_faults(f"The key map {layout!r} does not explain this state dict:")
        refuse_what_may_be_converted(bound, source)
        return dict(certificate.plan.load(state_dict.__getitem__))

    def export(self, state_dict: Mapping[str, Tensor], config: object, *, layout: str) -> dict[str, Tensor]:
        """A native state dict in `layout`: the inverse of `load`."""
        plan, _ = self.exporting(state_dict_manifest(state_dict), config, layout=layout)
        return dict(plan.export(state_dict.__getitem__))

    def exporting(self, native: Manifest, config: object, *, layout: str) -> tuple[Plan, Manifest]:
        """How what is native is exported in `layout`, and what comes out, in the order of the plan.

        Raises:
            CertificateError: The key map does not explain it in full.
            KeyMapError: The family has no such layout.
        """
        bound = _as_it_is(native).bind(config) if layout == NATIVE else self._bound(layout, config)
        foreign = bound.source_manifest(native)
        certificate = certify(bound, foreign, native)
        certificate.raise_for_faults(f"The key map {layout!r} cannot export this model:")
        return certificate.plan, certificate.plan.exported(foreign)

    def _bound(self, layout: str, config: object) -> BoundKeyMap:
        if layout not in self.key_maps:
            raise KeyMapError(f"There is no key map for the layout {layout!r}.", hint=nearest(layout, self.key_maps))
        return self.key_maps[layout].bind(config)


def _as_it_is(native: Manifest) -> KeyMap:
    return KeyMap(*(rename(name, name) for name in native))


def _differ(a: Conversion, b: Conversion) -> bool:
    """Whether two conversions that hold do different things."""
    sides = [{step.targets: (step.sources, step.op) for step in c.certificate.plan.steps} for c in (a, b)]
    return sides[0] != sides[1]
