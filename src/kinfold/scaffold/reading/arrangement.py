"""How norms and sublayers stand to one another: by the number of norms, their names and the config."""

from __future__ import annotations

from kinfold.scaffold.reading.facts import Answer, Findings
from kinfold.scaffold.reading.roles import Roles

_BEFORE_FFN = 4
"""The place of norms before the feed-forward network in the vocabulary's order of norms."""

_PRE: Answer = {"norm.order": "pre", "residual.parallel": False}
_POST: Answer = {"norm.order": "post", "residual.parallel": False}
_OUTPUT: Answer = {"norm.order": "output", "residual.parallel": False}
_SIDE_BY_SIDE: Answer = {"norm.order": "pre", "residual.parallel": True, "norm.shared": False}
_SHARED: Answer = {"norm.order": "pre", "residual.parallel": True, "norm.shared": True}


def note_arrangement(roles: Roles, findings: Findings) -> None:
    """Note where the norms of a layer stand, as far as it can be known, and ask where it cannot."""
    norms = [norm.pattern.rpartition(".")[2] for norm in roles.norms]
    orders = [norm.order for norm in roles.norms]
    about, named = "where norms stand", f"norms {', '.join(norms)}"
    if len(norms) == 4:
        findings.note("norm.order", "both", named)
        findings.note("residual.parallel", False, named)
    elif len(norms) == 2:
        if "residual.parallel" not in findings.facts and findings.value("norm.final") is False:
            answers = (_POST, _PRE, _SIDE_BY_SIDE)
            findings.ask(about, *answers, why=f"{named}, and none after the last layer")
        elif orders[0] in (1, 2) and orders[1] == 5:
            findings.ask(about, _OUTPUT, _POST, _PRE, why=named)
        else:
            findings.ask(about, _PRE, _SIDE_BY_SIDE, _OUTPUT, _POST, why=named)
    elif len(norms) == 1 and orders[0] == _BEFORE_FFN and "embedding.norm" in findings.facts:
        findings.note("norm.first", False, f"{norms[0]} alone, in a single layer")
        findings.ask(about, _PRE, why=named)
    elif len(norms) == 1:
        findings.note("norm.shared", True, f"{norms[0]} alone")
        findings.ask(about, _SHARED, why=f"{norms[0]} alone")
    elif not norms:
        findings.ask(about, _PRE, _OUTPUT, _POST, _SIDE_BY_SIDE, why="as most do")
