"""Checkpoints: their manifests from headers alone, and their tensors, lazily."""

from kinfold.checkpoint.base import Checkpoint, Extent
from kinfold.checkpoint.manifest import Manifest, TensorInfo, total_numel
from kinfold.checkpoint.open import open_checkpoint

__all__ = ["Checkpoint", "Extent", "Manifest", "TensorInfo", "open_checkpoint", "total_numel"]
