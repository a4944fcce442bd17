"""How much memory a model needs on each rank of a layout, and which layout fits a device; worked out in one process."""

from kinfold.parallel.estimate.layout import Kernels, Layout, Optimizer, Workload
from kinfold.parallel.estimate.memory import KINDS, Estimator, RankMemory, estimate_memory, readable
from kinfold.parallel.estimate.parts import Blueprint
from kinfold.parallel.estimate.search import Fit, Search, smallest_layouts

__all__ = [
    "KINDS",
    "Blueprint",
    "Estimator",
    "Fit",
    "Kernels",
    "Layout",
    "Optimizer",
    "RankMemory",
    "Search",
    "Workload",
    "estimate_memory",
    "readable",
    "smallest_layouts",
]
