"""Converting a whole state dict in memory, as fairseq2's tutorials do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kinfold.checkpoint.manifest import Manifest, state_dict_manifest
from kinfold.errors import KeyMapError
from kinfold.keymap.certificate import certify
from kinfold.keymap.keymap import BoundKeyMap, KeyMap
from kinfold.keymap.regex_table import RegexTable

if TYPE_CHECKING:
    from torch import Tensor


def convert_model_state_dict(
    state_dict: Mapping[str, Tensor],
    key_map: KeyMap | Mapping[str, str],
    config: object = None,
    *,
    timeout: float = 60.0,
) -> dict[str, Tensor]:
    """The state dict under other names; the one given is not changed.

    What has been converted already is given back as it is, or refused; it is never converted twice.

    Args:
        state_dict: Names and tensors.
        key_map: A `KeyMap`, which has to explain the state dict in full; or a table from regular expressions to
            replacements, of which the first that changes a name is applied to it. Names that none changes stay.
        config: What gives the sizes that rules of a `KeyMap` name.
        timeout: Seconds that a table of regular expressions may take for all names.

    Raises:
        CertificateError: The `KeyMap` does not explain the state dict; lists every fault.
        KeyMapError: The state dict could have been converted already, two names become one, or a regular expression
            is malformed or would change what it has changed; lists all. Or the regular expressions take too long.
    """
    if isinstance(key_map, KeyMap):
        bound = key_map.bind(config)
        source = state_dict_manifest(state_dict)
        certificate = certify(bound, source, bound.target_manifest(source))
        certificate.raise_for_faults("The key map does not explain this state dict:")
        refuse_what_may_be_converted(bound, source)
        return dict(certificate.plan.load(state_dict.__getitem__))
    renamed = RegexTable(key_map).rename(state_dict, timeout=timeout)
    return {new: state_dict[name] for new, name in renamed.items()}


def refuse_what_may_be_converted(key_map: BoundKeyMap, source: Manifest) -> None:
    """Refuse tensors that a key map takes, but could have given as well: they would be converted twice.

    Args:
        key_map: The map.
        source: What it takes.

    Raises:
        KeyMapError: Names the rules that would be applied again.
    """
    if key_map.match(source, "target").unmatched:  # as for most maps: names are others once they are converted
        return
    rules = dict.fromkeys(application.rule for application in key_map.match(source, "source").applications)
    again = [rule for rule in rules if rule.targets and (rule.kind != "rename" or rule.sources != rule.targets)]
    if again and certify(key_map, key_map.source_manifest(source), source).holds:
        raise KeyMapError(
            "The state dict may be converted already: the key map takes its names, but gives them, too. These rules "
            "would be applied again:",
            faults=list(map(str, again)),
        )
