"""Key maps: which foreign tensor becomes which of ours, in both directions, and the proof that nothing is left out."""

from kinfold.keymap.certificate import Certificate, certify
from kinfold.keymap.convert import convert_model_state_dict
from kinfold.keymap.keymap import BoundKeyMap, KeyMap
from kinfold.keymap.pattern import Pattern
from kinfold.keymap.plan import Plan, Step
from kinfold.keymap.rules import Rule, concat, drop, permute_rotary, rename, split, stack, tie, transpose

__all__ = [
    "BoundKeyMap",
    "Certificate",
    "KeyMap",
    "Pattern",
    "Plan",
    "Rule",
    "Step",
    "certify",
    "concat",
    "convert_model_state_dict",
    "drop",
    "permute_rotary",
    "rename",
    "split",
    "stack",
    "tie",
    "transpose",
]
