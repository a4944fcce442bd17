"""The certificate: what is not explained is a fault, and every fault is found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from example import CONFIG, EXPERTS, LAYERS, RULES, info, manifests
from hypothesis import given, settings
from hypothesis import strategies as st

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.errors import CertificateError
from kinfold.keymap import (
    KeyMap,
    Pattern,
    Rule,
    certify,
    concat,
    drop,
    permute_rotary,
    rename,
    tie,
)
from kinfold.keymap.ops import Identity, Index, Op, Shape, Source


def faults(source: Manifest, target: Manifest, rules: list[Rule] = RULES) -> str:
    return "\n".join(certify(KeyMap(*rules).bind(CONFIG), source, target).faults)


def test_a_complete_map_holds() -> None:
    source, target = manifests()
    certificate = certify(KeyMap(*RULES).bind(CONFIG), source, target)
    assert certificate.faults == ()
    assert certificate.holds
    assert str(certificate) == (
        f"{2 + LAYERS * (7 + EXPERTS)} tensors used once, 1 that repeat others, 3 dropped by name; "
        f"{len(target)} parameters filled once"
    )


@given(st.permutations(sorted(manifests()[0])), st.permutations(RULES))
@settings(max_examples=30, deadline=None)
def test_the_order_of_names_and_of_rules_does_not_matter(names: list[str], rules: list[Rule]) -> None:
    source, target = manifests()
    plan = certify(KeyMap(*rules).bind(CONFIG), {name: source[name] for name in names}, target).plan
    assert [name for step in plan.steps for name in step.targets] == list(target)
    experts = plan.step_of_target["decoder.1.experts"].sources
    assert experts == tuple(f"layers.1.experts.{e}.w2.weight" for e in range(EXPERTS))


def change(side: dict[str, TensorInfo], changes: dict[str, TensorInfo | None]) -> dict[str, TensorInfo]:
    changed = {**side, **changes}
    return {name: value for name, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("of_source", "of_target", "said"),
    [
        ({"new.weight": info(3)}, {}, "new.weight (3,) is taken by no rule"),
        ({"layers.01.q.weight": info(16, 12)}, {}, "layers.01.q.weight (16, 12) is taken by no rule"),
        ({"layers.{}.q.weight": info(16, 12)}, {}, "layers.{}.q.weight (16, 12) is taken by no rule"),
        ({"layers.٢.q.weight": info(16, 12)}, {}, "layers.٢.q.weight (16, 12) is taken by no rule"),
        ({"layers.1.norm2.weight": info(12)}, {}, "layers.1.norm2.weight (12,) is taken by no rule"),
        ({}, {"new.weight": info(3)}, "new.weight (3,) is filled by no tensor"),
        ({"out.weight": None}, {}, "final.weight (20, 14) is filled by no tensor"),
        ({}, {"final.weight": None}, "the model has no final.weight"),
        ({"out.weight": info(20, 13)}, {}, "gives (20, 13), the model has (20, 14)"),
        ({"out.weight": info(20, 14, dtype="int64")}, {}, "int64 there and float32 here"),
        ({}, {"final.weight": info(20, 14, dtype="bool")}, "float32 there and bool here"),
        ({"layers.1.q.weight": info(15, 12)}, {}, "no multiple of 2 * 4 heads"),
        ({"layers.1.kv.weight": info(15, 12)}, {}, "(15, 12) has not 8 + 8 in dimension 0"),
        ({"layers.1.router.weight": info(12)}, {}, "(12,) has no dimensions 0 and 1"),
        ({"layers.1.up.weight": None}, {}, "layers.1.up.weight is missing beside layers.1.gate.weight"),
        ({"layers.1.up.weight": info(6, 13)}, {}, "(6, 12), (6, 13) differ outside dimension 0"),
        ({"layers.1.up.weight": info(6, 12, dtype="bfloat16")}, {}, "float32 and bfloat16 cannot be joined"),
        ({"layers.1.experts.3.w2.weight": None}, {}, "layers.1.experts.3.w2.weight is missing"),
        ({"layers.1.experts.10.w2.weight": None}, {}, "gives (10, 12, 6), the model has (11, 12, 6)"),
        ({"layers.1.experts.11.w2.weight": info(12, 6)}, {}, "gives (12, 12, 6), the model has (11, 12, 6)"),
        ({"layers.1.experts.3.w2.weight": info(6, 12)}, {}, "equal shapes were expected"),
        ({"head.weight": info(20, 13)}, {}, "head.weight (20, 13) float32 cannot repeat tok.weight (20, 12) float32"),
        ({"head.weight": info(20, 12, dtype="float16")}, {}, "head.weight (20, 12) float16 cannot repeat"),
        ({"tok.weight": None}, {}, "should repeat tok.weight, which is not there"),
    ],
)
def test_each_kind_of_fault(of_source: dict, of_target: dict, said: str) -> None:
    source, target = manifests()
    assert said in faults(change(source, of_source), change(target, of_target))


@given(st.data())
def test_any_one_tensor_too_few_or_misshapen_is_a_fault(data: st.DataObject) -> None:
    sides = manifests()
    side = data.draw(st.integers(0, 1))
    optional = {name for name in sides[0] if "inv_freq" in name or name == "head.weight"}  # neither has to be there
    name = data.draw(st.sampled_from(sorted(sides[side].keys() - optional)))
    shape = sides[side][name].shape
    sides[side].update({name: info(*shape[:-1], shape[-1] + 1)})
    assert faults(*sides)
    del sides[side][name]
    assert faults(*sides)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((0, 1, 3), "layer 2 is missing between 0 and 3"),
        ((1, 2), "layer 0 is missing between 0 and 2"),
        ((0, 10**15), "layer 1, 2, 3, 4, 5, 6, 7, 8 and 999999999999991 more is missing between 0 and 1" + "0" * 15),
    ],
)
def test_layers_with_a_gap(found: tuple[int, ...], said: str) -> None:
    source = {f"layers.{n}.norm1.weight": info(12) for n in found}
    target = {f"decoder.{n}.norm.weight": info(12) for n in found}
    assert faults(source, target) == said


def test_layers_of_two_kinds_have_no_gap_together() -> None:
    rules = [rename("h.{layer}.mlp", "h.{layer}.dense"), rename("h.{layer}.moe", "h.{layer}.sparse")]
    source = {f"h.{n}.{'moe' if n % 2 else 'mlp'}": info(2) for n in range(6)}
    target = {f"h.{n}.{'sparse' if n % 2 else 'dense'}": info(2) for n in range(6)}
    assert faults(source, target, rules) == ""


def test_two_rules_for_one_tensor() -> None:
    source, target = manifests()
    again = rename("layers.{layer}.norm1.weight", "decoder.{layer}.other.weight")
    assert (
        "layers.0.norm1.weight is taken by more than one rule: "
        "rename(layers.{layer}.norm1.weight -> decoder.{layer}.norm.weight), "
        "rename(layers.{layer}.norm1.weight -> decoder.{layer}.other.weight) (and 2 more like it)"
    ) in faults(source, target, [*RULES, again])


def test_two_tensors_for_one_parameter() -> None:
    source, target = manifests()
    source["extra.weight"] = info(20, 14)
    second = rename("extra.weight", "final.weight")
    assert faults(source, target, [*RULES, second]) == "final.weight (20, 14) is filled more than once"


class Halve(Op):
    """An operation of somebody's own, whose inverse does not give back what was there."""

    def apply(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [tensor[: len(tensor) // 2] for tensor in tensors]

    def shapes(self, shapes: Sequence[Shape]) -> list[Shape]:
        return [(shape[0] // 2, *shape[1:]) for shape in shapes]

    def read(self, output: int, index: Index, sources: Sequence[Source]) -> torch.Tensor:
        return sources[output].read(index)

    def inverse(self) -> Op:
        return Identity()


def test_an_operation_that_its_inverse_does_not_take_back() -> None:
    rule = Rule("halve", (Pattern("a"),), (Pattern("b"),), lambda size, count: Halve())
    assert faults({"a": info(4)}, {"b": info(2)}, [rule]) == "halve(a -> b): exporting would give (2,), not (4,)"


def test_a_copy_of_what_is_not_loaded() -> None:
    rules = [rename("a", "x"), drop("b", reason="not needed"), tie("c", to="b"), tie("d", to="c")]
    assert faults({name: info(2) for name in "abcd"}, {"x": info(2)}, rules) == (
        "c should repeat b, which no rule loads\nd should repeat c, which no rule loads"
    )


@pytest.mark.parametrize(
    "rule",
    [rename("lm_head.weight", "lm_head.weight"), tie("copy.weight", to="tok.weight"), drop("masks", reason="constant")],
    ids=str,
)
def test_a_rule_that_applies_to_neither_side_is_no_fault(rule: Rule) -> None:
    source, target = manifests()
    assert faults(source, target, [*RULES, rule]) == ""


def test_faults_of_many_layers_are_one_line() -> None:
    layers = range(61)
    rules = [
        rename("h.{n}.a", "l.{n}.a"),
        rename("h.{n}.b", "l.{n}.misspelt"),
        permute_rotary("h.{n}.c", "l.{n}.c", heads=4),
        concat(("h.{n}.d", "h.{n}.e"), into="l.{n}.d", sizes=(2, 2)),
        tie("h.{n}.f", to="h.{n}.a"),
    ]
    source = {f"h.{n}.{what}": info(3) for n in layers for what in "abcdfg"}
    target = {f"l.{n}.{what}": info(4) for n in layers for what in "abcd"} | {f"l.{n}.a": info(3) for n in layers}
    assert faults(source, target, rules).splitlines() == [
        "h.0.g (3,) is taken by no rule (and 60 more like it)",
        "rename(h.{n}.b -> l.{n}.misspelt): the model has no l.0.misspelt (and 60 more like it)",
        "permute_rotary(h.{n}.c -> l.{n}.c) with {'n': 0}: the rows of (3,) are no multiple of 2 * 4 heads "
        "(and 60 more like it)",
        "concat(h.{n}.d, h.{n}.e -> l.{n}.d): h.0.e is missing beside h.0.d (and 60 more like it)",
        "l.0.b (4,) is filled by no tensor (and 60 more like it)",
        "l.0.d (4,) is filled by no tensor (and 60 more like it)",
    ]


def test_faults_raise_one_error() -> None:
    certificate = certify(KeyMap().bind(CONFIG), *manifests())
    with pytest.raises(CertificateError) as error:
        certificate.raise_for_faults("Nothing fits:")
    assert error.value.faults == certificate.faults


def test_a_plan_of_a_certificate_that_holds_reads_every_tensor_and_gives_every_parameter() -> None:
    source, target = manifests()
    plan = certify(KeyMap(*RULES).bind(CONFIG), source, target).plan
    read = [name for step in plan.steps for name in step.sources]
    assert sorted([*read, *(name for name, _ in (*plan.copies, *plan.dropped))]) == sorted(source)
    assert plan.copies == (("head.weight", "tok.weight"),)
    assert plan.dropped == tuple((f"layers.{n}.inv_freq", "recomputed") for n in range(LAYERS))
    tensors = {name: torch.zeros(info.shape) for name, info in source.items()}
    native = dict(plan.load(tensors.__getitem__))
    assert {name: tuple(tensor.shape) for name, tensor in native.items()} == {n: i.shape for n, i in target.items()}
