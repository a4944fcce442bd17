"""What all parts of a spec have in common."""

from __future__ import annotations

import msgspec


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a spec: unknown keys are refused, and what is as it would be anyway is not written."""
