"""Converting a whole state dict in memory, as fairseq2's tutorials do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kinfold.checkpoint.manifest import TensorInfo
from kinfold.errors import KeyMapError
from kinfold.keymap.certificate import certify
from kinfold.keymap.keymap import KeyMap

if TYPE_CHECKING:
    from torch import Tensor


_NOTHING = re.compile(r"(?!)")


def convert_model_state_dict(
    state_dict: Mapping[str, Tensor], key_map: KeyMap | Mapping[str, str], config: object = None
) -> dict[str, Tensor]:
    """The state dict under other names; the one given is not changed.

    Args:
        state_dict: Names and tensors.
        key_map: A `KeyMap`, which has to explain the state dict in full; or a table from regular expressions to
            replacements, of which the first that matches somewhere in a name is applied to it. Names that none
            matches stay.
        config: What gives the sizes that rules of a `KeyMap` name.

    Raises:
        CertificateError: The `KeyMap` does not explain the state dict; lists every fault.
        KeyMapError: Two names become one, or a regular expression is malformed; lists all.
    """
    if isinstance(key_map, KeyMap):
        bound = key_map.bind(config)
        source = {
            name: TensorInfo(tuple(tensor.shape), (dtype := str(tensor.dtype).removeprefix("torch.")), dtype)
            for name, tensor in state_dict.items()
        }
        certificate = certify(bound, source, bound.target_manifest(source))
        certificate.raise_for_faults("The key map does not explain this state dict:")
        return dict(certificate.plan.load(state_dict.__getitem__))
    return _rename_by_regex(state_dict, key_map)


def _rename_by_regex(state_dict: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    faults, patterns = [], []
    for pattern, replacement in table.items():
        try:
            patterns.append((re.compile(pattern), replacement))
        except re.error as error:
            faults.append(f"{pattern!r} is no regular expression: {error}")
    names: dict[str, str] = {}
    for name in state_dict if not faults else ():
        regex, replacement = next(((regex, by) for regex, by in patterns if regex.search(name)), (_NOTHING, ""))
        try:
            new = regex.sub(replacement, name)
        except (re.error, IndexError) as error:
            faults.append(f"{replacement!r} cannot replace {regex.pattern!r}: {error}")
            continue
        if new in names:
            faults.append(f"{names[new]} and {name} both become {new}")
        names.setdefault(new, name)
    if faults:
        raise KeyMapError("The state dict cannot be converted:", faults=tuple(dict.fromkeys(faults)))
    return {new: state_dict[name] for new, name in names.items()}
