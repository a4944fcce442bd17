"""Key maps: which foreign tensor becomes which of ours, in both directions, and the proof that nothing is left out."""

from kinfold.keymap.certificate import Certificate, certify
from kinfold.keymap.chain import chain
from kinfold.keymap.convert import convert_model_state_dict
from kinfold.keymap.keymap import BoundKeyMap, KeyMap
from kinfold.keymap.pattern import Pattern
from kinfold.keymap.plan import Plan, Step, sources_in
from kinfold.keymap.rules import (
    Rule,
    concat,
    drop,
    offset,
    pad,
    permute_rotary,
    rename,
    reshape,
    scale,
    split,
    stack,
    tie,
    transpose,
    unpad,
    unstack,
)

__all__ = [
    "BoundKeyMap",
    "Certificate",
    "KeyMap",
    "Pattern",
    "Plan",
    "Rule",
    "Step",
    "certify",
    "chain",
    "concat",
    "convert_model_state_dict",
    "drop",
    "offset",
    "pad",
    "permute_rotary",
    "rename",
    "reshape",
    "scale",
    "sources_in",
    "split",
    "stack",
    "tie",
    "transpose",
    "unpad",
    "unstack",
]
