"""What a rule does to tensors on their way: each operation knows its inverse, so that no rule is written twice."""

from kinfold.keymap.ops.base import Index, Op, Shape, Source, TensorSource, whole
from kinfold.keymap.ops.composite import Composite, Node
from kinfold.keymap.ops.join import Concat, Split, Stack, Unstack
from kinfold.keymap.ops.layout import Identity, PermuteRotary, Transpose
from kinfold.keymap.ops.reshape import Reshape
from kinfold.keymap.ops.values import Affine, Pad, Unpad

__all__ = [
    "Affine",
    "Composite",
    "Concat",
    "Identity",
    "Index",
    "Node",
    "Op",
    "Pad",
    "PermuteRotary",
    "Reshape",
    "Shape",
    "Source",
    "Split",
    "Stack",
    "TensorSource",
    "Transpose",
    "Unpad",
    "Unstack",
    "whole",
]
