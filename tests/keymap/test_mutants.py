"""A correct map with one mistake, or two, is never certified: thousands of mutants, of which none survives.

A mutant is made of the text of a map, as a person would: a rule too few or too many, names exchanged or misspelt, other
sizes, parts in another order. It is caught if it cannot be built or bound, or has a fault in its certificate. What is
certified all the same has to be the same map: loading and exporting tensors of which all values differ, it gives the
same names and the same bits. Mistakes that shapes cannot tell from what is right are not made, but listed at the end:
they are what a proof of parity is for.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from math import prod
from random import Random
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kinfold import keymap
from kinfold.checkpoint import TensorInfo
from kinfold.errors import KeyMapError
from kinfold.keymap import KeyMap, Plan, Rule, certify

LAYERS, EXPERTS = 2, 3
CONFIG = SimpleNamespace(
    num_heads=7, num_kv_heads=3, q_dim=70, kv_dim=30, ffn_dim=11, num_experts=EXPERTS, vocab=37, padded=40, fused_q=27
)

TEXTS = """
pad("tok.weight", "embed.weight", size="vocab", padded="padded")
rename("norm.weight", "norm.weight")
rename("out.bias", "final.bias")
unpad("out.weight", "final.weight", padded="padded", size="vocab", dim=1)
tie("head.weight", to="tok.weight")
drop("layers.{layer}.inv_freq", reason="recomputed")
rename("layers.{layer}.ids", "decoder.{layer}.ids")
permute_rotary("layers.{layer}.q.weight", "decoder.{layer}.q.weight", heads="num_heads")
permute_rotary("layers.{layer}.k.weight", "decoder.{layer}.k.weight", heads="num_kv_heads", start=4)
permute_rotary("layers.{layer}.c.weight", "decoder.{layer}.c.weight", heads=5, rotary_dim=6)
split("layers.{layer}.qkv", into=("decoder.{layer}.a.q", "decoder.{layer}.a.k", "decoder.{layer}.a.v"), \
sizes=("fused_q", 12, 9), groups="num_kv_heads")
split("layers.{layer}.wide", into=("decoder.{layer}.left", "decoder.{layer}.right"), sizes=(4, 9), dim=1)
concat(("layers.{layer}.gate.weight", "layers.{layer}.up.weight"), into="decoder.{layer}.gate_up", \
sizes=("ffn_dim", 6))
concat(("layers.{layer}.in1", "layers.{layer}.in2"), into="decoder.{layer}.in", sizes=(10, 15), dim=1, groups=5)
transpose("layers.{layer}.router", "decoder.{layer}.router")
transpose("layers.{layer}.conv", "decoder.{layer}.conv", dim0=1, dim1=2)
reshape("layers.{layer}.gain", "decoder.{layer}.gain", there=(1, 1, 13), here=(-1,))
reshape("layers.{layer}.heads", "decoder.{layer}.heads", there=("num_heads", 2, 17), here=(14, 17))
scale("layers.{layer}.scaled", "decoder.{layer}.scaled", by=2.0)
offset("layers.{layer}.norm1", "decoder.{layer}.norm1", by=1.0)
stack("layers.{layer}.experts.{expert}.w2", "decoder.{layer}.experts.w2", over="expert")
stack("layers.{layer}.experts.{expert}.bias", "decoder.{layer}.experts.bias", over="expert", count="num_experts")
unstack("layers.{layer}.adapters", "decoder.{layer}.adapters.{n}", over="n", count=4)
chain(transpose("layers.{layer}.attn", "turned.{layer}"), \
split("turned.{layer}", into=("decoder.{layer}.b.q", "decoder.{layer}.b.kv"), sizes=(5, 16)))
chain(concat(("layers.{layer}.mlp.{e}.w1", "layers.{layer}.mlp.{e}.w3"), into="w13.{layer}.{e}", sizes=(18, 20)), \
stack("w13.{layer}.{e}", "decoder.{layer}.mlp.w13", over="e"))
""".strip().splitlines()
"""A rule of every kind, with sizes of which none can stand for another."""

TABLE = dict(vars(keymap))
SHAPES_THERE = {
    "tok.weight": (37, 19), "head.weight": (37, 19), "norm.weight": (19,), "out.weight": (19, 40), "out.bias": (41,),
    "inv_freq": (3,), "ids": (23,), "q.weight": (70, 19), "k.weight": (30, 19), "c.weight": (35, 19), "qkv": (48, 19),
    "wide": (19, 13), "gate.weight": (11, 19), "up.weight": (6, 19), "in1": (8, 10), "in2": (8, 15),
    "router": (19, 3), "conv": (2, 29, 5), "gain": (1, 1, 13), "heads": (7, 2, 17), "scaled": (31,), "norm1": (19, 1),
    **{f"experts.{e}.w2": (19, 11) for e in range(EXPERTS)}, **{f"experts.{e}.bias": (43,) for e in range(EXPERTS)},
    "adapters": (4, 3, 47), "attn": (19, 21), **{f"mlp.{e}.w1": (18, 53) for e in range(4)},
    **{f"mlp.{e}.w3": (20, 53) for e in range(4)},
}  # fmt: skip


def there() -> dict[str, Tensor]:
    """A checkpoint of which all values differ, but for the copy and the padding."""
    outside = ("tok.weight", "head.weight", "norm.weight", "out.weight", "out.bias")
    shapes = {name: SHAPES_THERE[name] for name in outside}
    for n in range(LAYERS):
        shapes |= {f"layers.{n}.{name}": shape for name, shape in SHAPES_THERE.items() if name not in outside}
    tensors, first = {}, 1
    for name, shape in shapes.items():
        tensors[name] = torch.arange(first, first + prod(shape), dtype=torch.float64).view(shape)
        first += prod(shape)
        if name.endswith(".ids"):
            tensors[name] = tensors[name].long()
    tensors["head.weight"] = tensors["tok.weight"].clone()
    tensors["out.weight"][:, 37:] = 0
    return tensors


def manifest(tensors: dict[str, Tensor]) -> dict[str, TensorInfo]:
    dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    return {name: TensorInfo(tuple(tensor.shape), dtypes[name], dtypes[name]) for name, tensor in tensors.items()}


def built(text: str) -> Rule:
    return eval(text, TABLE)


RULES = [built(text) for text in TEXTS]
THERE = there()
SOURCE = manifest(THERE)
TARGET = KeyMap(*RULES).bind(CONFIG).target_manifest(SOURCE)


@cache
def wanted() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the right map loads, and exports of that."""
    certificate = certify(KeyMap(*RULES).bind(CONFIG), SOURCE, TARGET)
    assert certificate.faults == ()
    return both_ways(certificate.plan)


def both_ways(plan: Plan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    native = dict(plan.load(THERE.__getitem__))
    return native, dict(plan.export(native.__getitem__))


def outcome(rules: list[Rule | str]) -> str:
    """What becomes of a map: "caught", "same", or "survives"."""
    try:
        bound = KeyMap(*[built(rule) if isinstance(rule, str) else rule for rule in rules]).bind(CONFIG)
    except KeyMapError:
        return "caught"
    certificate = certify(bound, SOURCE, TARGET)
    if certificate.faults:
        return "caught"
    try:
        found = both_ways(certificate.plan)
    except KeyMapError:  # the values tell
        return "survives"
    alike = all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)
        for a, b in zip(found, wanted(), strict=True)
    )
    return "same" if alike else "survives"


SIZE_OPTIONS = {"sizes", "heads", "groups", "size", "padded", "count", "there", "here", "rotary_dim", "start"}


def constants(tree: ast.AST, option: str = "") -> Iterator[tuple[ast.Constant, str]]:
    """Every constant of a rule's text, and the option it stands in: "" for a pattern."""
    if isinstance(tree, ast.keyword):
        option = "" if tree.arg in ("into", "to") else tree.arg or ""
    if isinstance(tree, ast.Constant):
        yield tree, option
    for child in ast.iter_child_nodes(tree):
        yield from constants(child, option)


def variants(text: str) -> Iterator[tuple[str, str]]:
    """A rule with one mistake within it: what was done, and its text."""
    tree = ast.parse(text, mode="eval").body
    for node, option in constants(tree):
        if option not in ("by", "reason"):
            for wrong in wrong_values(node.value, option):
                yield f"{node.value!r} becomes {wrong!r}", changed(tree, node, wrong)
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple):
            for i, j in combinations(range(len(node.elts)), 2):
                if ast.dump(node.elts[i]) != ast.dump(node.elts[j]):
                    yield f"{i} and {j} change places", exchanged_elements(tree, node, i, j)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "chain":
            for number in range(len(node.args)):
                shorter = copy.deepcopy(tree)
                assert isinstance(shorter, ast.Call)
                del shorter.args[number]
                yield f"part {number} is missing", ast.unparse(shorter)
    rule = built(text)
    if rule.targets:
        first, target = str(rule.sources[0]), str(rule.targets[0])
        yield "dropped", f"drop({first!r}, reason='a mistake')" if len(rule.sources) == 1 else f"tie({first!r}, to='x')"
        if rule.over is None:
            others = {"rename", "transpose"} - (
                {"rename"} if rule.kind in ("scale", "offset", "permute_rotary") else set()
            )
            yield from ((f"a {kind}", f"{kind}({first!r}, {target!r})") for kind in others - {rule.kind})


def wrong_values(value: object, option: str) -> Iterator[object]:
    """What could stand there by mistake."""
    if isinstance(value, int):
        yield from (value - 1, value + 1)
    elif isinstance(value, str):
        yield from misspelt(value)
        if option in SIZE_OPTIONS:
            right = getattr(CONFIG, value)
            yield from (name for name, number in vars(CONFIG).items() if number != right)
        elif option == "over":
            yield "layer"
        else:
            yield from (
                value.replace(hole, "{other}") for hole in ("{layer}", "{expert}", "{e}", "{n}") if hole in value
            )
            if "{layer}" in value and value.count("{") == 2:
                hole = next(hole for hole in ("{expert}", "{e}", "{n}") if hole in value)
                yield value.replace(hole, "{x}").replace("{layer}", hole).replace("{x}", "{layer}")
                yield value.replace(hole, "0")


def misspelt(text: str) -> Iterator[str]:
    """One character exchanged, left out, doubled, or swapped with the next."""
    for place, character in enumerate(text):
        for wrong in ("7" if character == "z" else "z", "9", "", character * 2):
            yield text[:place] + wrong + text[place + 1 :]
        if text[place + 1 : place + 2] not in ("", character):
            yield text[:place] + text[place + 1] + character + text[place + 2 :]


def changed(tree: ast.AST, node: ast.Constant, value: object) -> str:
    """The text of a rule with another constant."""
    right, node.value = node.value, value  # type: ignore[assignment]
    text = ast.unparse(tree)
    node.value = right
    return text


def exchanged_elements(tree: ast.AST, node: ast.Tuple, i: int, j: int) -> str:
    node.elts[i], node.elts[j] = node.elts[j], node.elts[i]
    text = ast.unparse(tree)
    node.elts[i], node.elts[j] = node.elts[j], node.elts[i]
    return text


def shape_of(pattern: str) -> tuple[int, ...] | None:
    """The shape of what a pattern stands for in the checkpoint or the model; None for what a chain hands on."""
    name = keymap.Pattern(pattern).format(dict.fromkeys(keymap.Pattern(pattern).holes, 0))
    return SOURCE[name].shape if name in SOURCE else TARGET[name].shape if name in TARGET else None


def exchanges() -> Iterator[tuple[str, list[Rule | str]]]:
    """Any two names of the whole map exchanged: of sources, of targets, or of one and the other."""
    trees = [ast.parse(text, mode="eval").body for text in TEXTS]
    patterns = [(number, node) for number, tree in enumerate(trees) for node, option in constants(tree) if not option]
    patterns = [(number, node) for number, node in patterns if isinstance(node.value, str)]
    for (i, a), (j, b) in combinations(patterns, 2):
        assert isinstance(a.value, str)
        assert isinstance(b.value, str)
        if a.value != b.value and (shape_of(a.value) != shape_of(b.value) or shape_of(a.value) is None):
            a.value, b.value = b.value, a.value
            mutant: list[Rule | str] = list(RULES)
            mutant[i], mutant[j] = ast.unparse(trees[i]), ast.unparse(trees[j])
            yield f"{a.value} and {b.value} change places", mutant
            a.value, b.value = b.value, a.value


def put(*instead: Rule | str, at: int) -> list[Rule | str]:
    return [*RULES[:at], *instead, *RULES[at + 1 :]]


def mutants() -> Iterator[tuple[str, list[Rule | str]]]:
    """The right map with one mistake."""
    for at, (rule, text) in enumerate(zip(RULES, TEXTS, strict=True)):
        yield f"{rule}: missing", put(at=at)
        yield f"{rule}: twice", put(rule, rule, at=at)
        yield from ((f"{rule}: {how}", put(wrong, at=at)) for how, wrong in variants(text))
    yield from exchanges()


def test_there_is_a_rule_of_every_kind() -> None:
    made = {name for name, value in TABLE.items() if getattr(value, "__annotations__", {}).get("return") == "Rule"}
    assert made == {node.func.id for text in TEXTS for node in calls(text) if isinstance(node.func, ast.Name)}


def calls(text: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def test_the_right_map_is_the_same_map() -> None:
    assert outcome(list(TEXTS)) == "same"


def test_no_mutant_survives() -> None:
    outcomes: dict[str, list[str]] = {"caught": [], "same": [], "survives": []}
    for how, mutant in mutants():
        outcomes[outcome(mutant)].append(how)
    assert outcomes["survives"] == []
    assert len(outcomes["caught"]) > 8000
    assert all(how.startswith("drop(") for how in outcomes["same"])  # whose hole, named once, may have any name


def test_no_mutant_with_two_mistakes_survives() -> None:
    random = Random(0)
    wrong = [[*variants(text), ("missing", "")] for text in TEXTS]
    survivors = []
    for _ in range(2000):
        (i, j) = random.sample(range(len(TEXTS)), 2)
        mutant: list[Rule | str] = list(RULES)
        done = []
        for number in (i, j):
            how, mutant[number] = random.choice(wrong[number])
            done.append(f"{RULES[number]}: {how}")
        if outcome([rule for rule in mutant if rule]) == "survives":
            survivors.append(done)
    assert survivors == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('heads="num_heads"', "heads=1"),
        ("start=4", "start=2"),
        (', groups="num_kv_heads"', ""),
        ("by=2.0", "by=4.0"),
        ('tie("head.weight", to="tok.weight")', 'drop("head.weight", reason="a mistake")'),
    ],
)
def test_what_only_values_tell(right: str, wrong: str) -> None:
    texts = [text.replace(right, wrong) for text in TEXTS]
    assert sum(a != b for a, b in zip(texts, TEXTS, strict=True)) == 1
    assert outcome(list(texts)) == "survives"
