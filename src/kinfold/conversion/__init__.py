"""Conversion of checkpoints on disk, from one layout to another."""

from kinfold.conversion.convert import Converted, convert_checkpoint

__all__ = ["Converted", "convert_checkpoint"]
