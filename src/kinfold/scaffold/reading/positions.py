"""How a model knows the order of its tokens."""

from __future__ import annotations

from kinfold.scaffold.reading import config_keys as keys
from kinfold.scaffold.reading.config import Config
from kinfold.scaffold.reading.facts import Findings
from kinfold.scaffold.reading.kinds import note_turning_layers
from kinfold.scaffold.reading.roles import Roles
from kinfold.scaffold.reading.rope import note_rope, says_rotary


def note_positions(roles: Roles, config: Config, findings: Findings) -> None:
    """Note the kind of positions, and what goes with it."""
    table = roles.leaf("position")
    alibi = next((key for key in keys.ALIBI if config.get(key) is True), None)
    rotary = says_rotary(config)
    if table is not None:
        _note_table(table.shape[0], table.evidence, config, findings)
    elif alibi:
        findings.note("position.kind", "alibi", f"{alibi} = True")
    elif rotary:
        findings.note("position.kind", "rotary", f"{rotary} = {config[rotary]}")
    elif any("rotary" in pattern or "inv_freq" in pattern for pattern in roles.recomputed):
        findings.note("position.kind", "rotary", f"tensors {', '.join(roles.recomputed)}")
    else:
        _ask(findings)
    if findings.value("position.kind") == "rotary":
        note_rope(config, findings)
        note_turning_layers(config, findings)


def _note_table(rows: int, evidence: str, config: Config, findings: Findings) -> None:
    """A table of positions; its first rows may stand for none."""
    findings.note("position.kind", "learned", evidence)
    said = next((key for key in keys.SPELLINGS["max_seq_len"] if isinstance(config.get(key), int)), None)
    start = rows - int(config[said]) if said else 0
    findings.note("position.start", max(start, 0), f"{evidence}, {said} = {config[said]}" if said else evidence)
    findings.note("max_seq_len", rows - max(start, 0), evidence)


def _ask(findings: Findings) -> None:
    """Positions that neither a tensor nor a key speaks of."""
    answers = [
        {"position.kind": "alibi"},
        {"position.kind": "sinusoidal", "position.frequencies": "tensor2tensor", "position.start": 0},
        {"position.kind": "sinusoidal", "position.frequencies": "tensor2tensor", "position.start": 2},
        {"position.kind": "sinusoidal", "position.frequencies": "paper", "position.start": 0},
        {"position.kind": "rotary"},
        {"position.kind": "none"},
    ]
    if findings.value("norm.kind") == "rms" or findings.value("norm.bias") is False:  # which came with rotary positions
        answers.insert(0, answers.pop(4))
    elif "max_seq_len" in findings.facts:  # which scores that fall with the distance do not need
        answers.append(answers.pop(0))
    findings.ask("how positions are told", *answers, why="no tensor and no key speaks of positions")
