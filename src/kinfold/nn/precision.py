"""What is computed in more than the dtype of a model."""

from __future__ import annotations

import torch


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32, or the dtype itself where it is wider: what norms, softmaxes and losses are computed in."""
    return torch.promote_types(dtype, torch.float32)
