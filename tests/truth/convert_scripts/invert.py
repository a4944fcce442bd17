"""Old names of scripts that only rename forward: each edit of the script undone, and the result run forward again."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from truth.convert_scripts.script import Script
from truth.convert_scripts.symbols import Joined, Source, Target

Edit = tuple[str, str]
Forward = Callable[[list[str]], dict[str, Any]]

_STATE = frozenset((
    "orig_state_dict", "state_dict", "s_dict", "sd", "d", "dct", "fairseq_model", "fairseq_dict",
    "original_state_dict", "original_weights", "state_dict_to_convert", "orig_dict", "checkpoint",
    "original_model", "model_state_dict", "pt_weights", "original_param_names",
))  # fmt: skip
_NAME = frozenset(["name", "key", "orig_key", "old_name", "k", "old_key"])
_BRANCHES = 256
_SHORT = 4
"""Texts shorter than this are undone only where they are a whole word."""


def edits(script: Script) -> list[Edit]:
    """The (old, new) texts that the script replaces in names, in its order."""
    found: dict[Edit, None] = {}
    for node in ast.walk(script.tree):
        pairs: list[tuple[ast.expr | None, ast.expr | None]] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 2:
            if node.func.attr == "replace":
                pairs = [(node.args[0], node.args[1])]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add) and isinstance(node.right, ast.Name):
            if isinstance(node.left, ast.Constant) and str(node.left.value).endswith("."):
                found["", str(node.left.value)] = None
        elif isinstance(node, ast.Dict):
            pairs = list(zip(node.keys, node.values, strict=True))
        elif isinstance(node, ast.Tuple | ast.List) and len(node.elts) == 2:
            pairs = [(node.elts[0], node.elts[1])]
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
            first = node.body[0]
            if isinstance(node.test.ops[0], ast.Eq) and isinstance(first, ast.Assign):
                pairs = [(node.test.comparators[0], first.value)]
        for old, new in pairs:
            a, b = _text(old), _text(new)
            if a and b and a != b and " " not in a + b and _holes(old) == _holes(new):
                found[a, b] = None
    return list(found)


def counts_anew(script: Script) -> bool:
    """Whether the script replaces numbers by others, which cannot be undone by putting texts back."""
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
            old, *new = node.args
            if isinstance(old, ast.JoinedStr) and any(_holes(old) != _holes(other) for other in new):
                return True
    return False


def _text(node: ast.expr | None) -> str:
    """A text, with a star for what an f-string fills in; nothing if it is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
    return ""


def _holes(node: ast.expr | None) -> list[str]:
    if not isinstance(node, ast.JoinedStr):
        return []
    return [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]


def literals(script: Script) -> list[str]:
    """The texts that the script looks for in names."""
    found: dict[str, None] = {}
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In) and isinstance(node.left, ast.Constant):
            text = node.left.value
            if isinstance(text, str) and re.fullmatch(r"\.?[a-z]\w*(\.[a-z]\w*)*\.?", text):
                found[text.strip(".")] = None
    return list(found)


def forwards(script: Script) -> Iterator[Forward]:
    """The script's ways of renaming a state dict: by name, by dict, and as a whole."""
    for name, function in script.functions().items():
        parameters = [argument.arg for argument in function.args.args]
        if not parameters or name.startswith(("remove", "validate", "get_", "count")):
            continue
        if parameters[0] in _NAME:
            yield _by_name(script, name, parameters[0])
        for state in parameters:
            if state in _STATE:
                yield _by_dict(script, name, state)
                break


def _by_name(script: Script, function: str, parameter: str) -> Forward:
    space, _, _ = script.namespace()
    rest = script.arguments(function, {parameter: ""}, None)

    def forward(names: list[str]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name in names:
            try:
                new = space[function](**{**rest, parameter: name})
            except Exception:
                continue
            if isinstance(new, str):
                out.setdefault(new, Source(name))
        return out

    return forward


def _by_dict(script: Script, function: str, parameter: str) -> Forward:
    space, _, _ = script.namespace()

    def forward(names: list[str]) -> dict[str, Any]:
        state = Source()
        state.update({name: Source(name) for name in names})
        given = script.arguments(function, {parameter: state}, None)
        try:
            result = space[function](**given)
        except Exception:
            result = None
        written: dict[str, Any] = {}
        for argument in given.values():
            if isinstance(argument, Target):
                written.update(argument._log)
        if written:
            return written
        for candidate in (result, *(result if isinstance(result, tuple) else ()), state):
            if isinstance(candidate, Source | Mapping) and candidate.items():
                return {k: v for k, v in candidate.items() if isinstance(k, str) and isinstance(v, Source)}
        return {}

    return forward


@dataclass(frozen=True)
class Preimage:
    """What may have become a name, how much of that name the undone edits explain, and which edits they are."""

    old: str
    score: int
    used: frozenset[Edit]


def preimages(name: str, steps: list[Edit]) -> list[Preimage]:
    states = {name: Preimage(name, 0, frozenset())}
    for old, new in reversed(steps):
        for state in list(states.values()):
            again = any(new in later for _, later in state.used)
            undone = _undo(state.old, old, new, whole=again or len(new) < _SHORT)
            if undone is not None and undone != state.old and len(states) < _BRANCHES:
                other = Preimage(undone, state.score + len(new), state.used | {(old, new)})
                if undone not in states or states[undone].score < other.score:
                    states[undone] = other
    return list(states.values())


def _undo(state: str, old: str, new: str, whole: bool) -> str | None:
    if not old:
        return state.removeprefix(new) if state.startswith(new) else None
    if whole and "*" not in new:
        return re.sub(rf"(?<![A-Za-z0-9_]){re.escape(new)}(?![A-Za-z0-9_])", lambda _: old, state)
    if "*" not in new:
        return state.replace(new, old) if new in state else None
    pattern = re.escape(new).replace(r"\*", r"(\d+)")
    match = re.search(rf"(?<![^.]){pattern}(?![^.])", state)
    if match is None:
        return None
    filled = old
    for number in match.groups():
        filled = filled.replace("*", number, 1)
    if "*" not in old:
        filled = new[: new.index("*")] + match.group(1) + "." + old
    return state[: match.start()] + filled + state[match.end() :]


def _numbered(name: str) -> Iterator[str]:
    """`name` with the module after an index called by a number, as in a sequential container."""
    parts = name.split(".")
    for i in range(1, len(parts) - 1):
        if parts[i - 1].isdigit() and not parts[i].isdigit():
            for number in "012":
                yield ".".join([*parts[:i], number, *parts[i + 1 :]])


def invert(script: Script, forward: Forward, names: list[str], base: str) -> tuple[int, dict[str, Any]]:
    """For each of `names` that has one best preimage, the source it comes from; and how much the edits explain.

    A name that two edits could have made is left out when one of them makes no other name: that edit is there for
    something, and this may be it.
    """
    steps = edits(script)
    if not steps or counts_anew(script):
        return 0, {}
    sequential = "load_conv_layer" in script.functions()
    options: dict[str, list[Preimage]] = {}
    for name in names:
        found = preimages(name, steps)
        if sequential:
            if "conv_layers" in name:
                found += [Preimage(other, len(name), frozenset()) for other in _numbered(name)]
            found += [
                Preimage(o.old.removeprefix(base), o.score + len(base), o.used) for o in found if o.old.startswith(base)
            ]
        found = list({option.old: option for option in sorted(found, key=lambda option: option.score)}.values())
        options[name] = sorted(found, key=lambda option: (-option.score, len(option.old), option.old))
    verified = {name: _verified(forward, name, found) for name, found in options.items()}
    verified = {name: found for name, found in verified.items() if found}
    best = {name: found[0] for name, found in verified.items()}
    used = frozenset(edit for option in best.values() for edit in option.used)
    foreign = [new for _, new in steps if len(new) > 9 and "." in new and not any(new in old for old, _ in steps)]
    plain: dict[str, Any] = {}
    for name, found in verified.items():
        tied = [o for o in found[1:] if o.score == found[0].score and len(o.old) == len(found[0].old)]
        unexplained = [other for other in found[1:] if other.used - used]
        if not tied and not unexplained and not any(text in found[0].old for text in foreign):
            plain[name] = Source(found[0].old)
    if len({"/" in value._path for value in plain.values()}) > 1:
        return 0, {}  # some are undone to the foreign spelling of a path and others not
    fused = _fused(script, forward, names, {name: option.old for name, option in best.items()})
    if _builds_names(script):
        plain = {name: value for name, value in plain.items() if _tail(name) != _tail(value._path)}
    for part in re.findall(r"\bload_(\w+)_layer\b", " ".join(script.functions())):
        plain = {n: v for n, v in plain.items() if part not in n or _tail(n) != _tail(v._path)}
    return sum(best[name].score for name in plain) + sum(map(len, fused)), plain | fused


def _verified(forward: Forward, name: str, found: list[Preimage]) -> list[Preimage]:
    out: list[Preimage] = []
    for option in found:
        value = forward([option.old]).get(name)
        if isinstance(value, Source) and not isinstance(value, Joined) and value._path == option.old:
            out.append(option)
        if len(out) > 12:
            break
    return out


def _tail(name: str) -> str:
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])


def prefix_only(pairs: Mapping[str, Any]) -> bool:
    """Whether only what stands before the layers' numbers differs."""
    return all(_tail(name) == _tail(value._path) for name, value in pairs.items() if re.search(r"\.\d+\.", name))


def _builds_names(script: Script) -> bool:
    """Whether the script makes names by other means than replacing text in them."""
    for node in ast.walk(script.tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            if isinstance(node.targets[0].slice, ast.JoinedStr):
                return True
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "sub" and isinstance(node.func.value, ast.Name) and node.func.value.id == "re":
                return True
            if node.func.attr == "replace" and any(isinstance(argument, ast.JoinedStr) for argument in node.args):
                return True
    return False


def _fused(script: Script, forward: Forward, names: list[str], plain: Mapping[str, str]) -> dict[str, Any]:
    """Sources that the script splits: a text it looks for, put beside the names that are known.

    `nn.MultiheadAttention` spells its own `in_proj_weight`.
    """
    wanted = set(names)
    found: dict[str, Any] = {}
    tried: set[str] = set()
    texts = [text for text in literals(script) if re.search("qkv|in_proj|query_key|kv", text)]
    for text in texts:
        for new, old in plain.items():
            *before, _, last = old.split(".") if old.count(".") else ("", "", "")
            filled = f"{'.'.join([*before, text])}{'_' if text.endswith('in_proj') else '.'}{last}"
            if not before or filled in tried:
                continue
            made = {k: v for k, v in forward([filled]).items() if v._path == filled}
            if new in made or any(_head(name) != _head(new) for name in made):
                continue
            tried.add(filled)
            if len(made) > 1 and set(made) <= wanted and all("P" in v._ops for v in made.values()):
                found |= made
                wanted -= set(made)
    return found


def _head(name: str) -> str:
    """The name up to the module after its last number: the attention that queries and their output are in."""
    tail = _tail(name)
    return name[: len(name) - len(tail)] + tail.split(".")[0]
