"""The certificate: what is not explained is a fault, and every fault is found."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.errors import CertificateError, KeyMapError
from kinfold.keymap import KeyMap, Rule, certify, concat, drop, permute_rotary, rename, split, stack, tie, transpose

CONFIG = SimpleNamespace(num_heads=4, num_kv_heads=2, q_dim=16, kv_dim=8, ffn_dim=6)
LAYERS, EXPERTS = 3, 11

RULES = [
    rename("tok.weight", "embed.weight"),
    permute_rotary("layers.{layer}.q.weight", "decoder.{layer}.q.weight", heads="num_heads"),
    split(
        "layers.{layer}.kv.weight",
        into=("decoder.{layer}.k.weight", "decoder.{layer}.v.weight"),
        sizes=("kv_dim", "kv_dim"),
    ),
    rename("layers.{layer}.norm1.weight", "decoder.{layer}.norm.weight"),
    transpose("layers.{layer}.router.weight", "decoder.{layer}.router.weight"),
    concat(
        ("layers.{layer}.gate.weight", "layers.{layer}.up.weight"),
        into="decoder.{layer}.gate_up.weight",
        sizes=("ffn_dim", "ffn_dim"),
    ),
    stack("layers.{layer}.experts.{expert}.w2.weight", "decoder.{layer}.experts", over="expert"),
    rename("layers.{layer}.moe_bias", "decoder.{layer}.moe_bias"),
    rename("out.weight", "final.weight"),
    tie("head.weight", to="tok.weight"),
    drop("layers.{layer}.inv_freq", reason="recomputed"),
]


def info(*shape: int, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(shape, dtype, dtype)


def manifests() -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """A checkpoint and a model that the rules explain to each other."""
    source = {"tok.weight": info(20, 12), "head.weight": info(20, 12), "out.weight": info(20, 14)}
    target = {"embed.weight": info(20, 12), "final.weight": info(20, 14)}
    for n in range(LAYERS):
        source |= {f"layers.{n}.q.weight": info(16, 12), f"layers.{n}.kv.weight": info(16, 12)}
        source |= {f"layers.{n}.norm1.weight": info(12), f"layers.{n}.router.weight": info(12, EXPERTS)}
        source |= {f"layers.{n}.gate.weight": info(6, 12), f"layers.{n}.up.weight": info(6, 12)}
        source |= {f"layers.{n}.experts.{e}.w2.weight": info(12, 6) for e in range(EXPERTS)}
        source |= {f"layers.{n}.inv_freq": info(4), f"layers.{n}.moe_bias": info(EXPERTS)}
        target |= {f"decoder.{n}.q.weight": info(16, 12), f"decoder.{n}.k.weight": info(8, 12)}
        target |= {f"decoder.{n}.v.weight": info(8, 12), f"decoder.{n}.norm.weight": info(12)}
        target |= {f"decoder.{n}.router.weight": info(EXPERTS, 12), f"decoder.{n}.gate_up.weight": info(12, 12)}
        target |= {f"decoder.{n}.experts": info(EXPERTS, 12, 6), f"decoder.{n}.moe_bias": info(EXPERTS)}
    return source, target


def faults(source: Manifest, target: Manifest, rules: list[Rule] = RULES) -> str:
    return "\n".join(certify(KeyMap(*rules).bind(CONFIG), source, target).faults)


def test_a_complete_map_holds() -> None:
    source, target = manifests()
    certificate = certify(KeyMap(*RULES).bind(CONFIG), source, target)
    assert certificate.faults == ()
    assert str(certificate) == (
        f"{2 + LAYERS * (7 + EXPERTS)} tensors used once, 1 that repeat others, 3 dropped by name; "
        f"{len(target)} parameters filled once"
    )


def test_loading_and_exporting_give_back_every_tensor() -> None:
    source, target = manifests()
    tensors = {name: torch.randn(info.shape) for name, info in source.items()}
    tensors["head.weight"] = tensors["tok.weight"].clone()
    plan = certify(KeyMap(*RULES).bind(CONFIG), source, target).plan
    native = dict(plan.load(tensors.__getitem__))
    assert {name: tuple(tensor.shape) for name, tensor in native.items()} == {n: i.shape for n, i in target.items()}
    assert torch.equal(native["decoder.1.experts"][10], tensors["layers.1.experts.10.w2.weight"])
    back = dict(plan.export(native.__getitem__))
    assert back.keys() == {name for name in source if "inv_freq" not in name}
    assert all(torch.equal(back[name], tensors[name]) for name in back)


def test_a_copy_that_differs_is_refused() -> None:
    source, target = manifests()
    plan = certify(KeyMap(*RULES).bind(CONFIG), source, target).plan
    tensors = {name: torch.randn(info.shape) for name, info in source.items()}
    with pytest.raises(KeyMapError, match=r"head\.weight should repeat tok\.weight"):
        list(plan.load(tensors.__getitem__))


def change(side: dict[str, TensorInfo], **shapes: TensorInfo | None) -> dict[str, TensorInfo]:
    changed = dict(side)
    for name, value in shapes.items():
        key = name.replace("__", ".")
        if value is None:
            del changed[key]
        else:
            changed[key] = value
    return changed


@pytest.mark.parametrize(
    ("of_source", "of_target", "said"),
    [
        ({"new__weight": info(3)}, {}, "new.weight (3,) is taken by no rule"),
        ({}, {"new__weight": info(3)}, "new.weight (3,) is filled by no tensor"),
        ({"out__weight": None}, {}, "final.weight (20, 14) is filled by no tensor"),
        ({}, {"final__weight": None}, "the model has no final.weight"),
        ({"out__weight": info(20, 13)}, {}, "gives (20, 13), the model has (20, 14)"),
        ({"out__weight": info(20, 14, dtype="int64")}, {}, "int64 there and float32 here"),
        ({"layers__1__q__weight": info(15, 12)}, {}, "no multiple of 2 * 4 heads"),
        ({"layers__1__up__weight": None}, {}, "layers.1.up.weight is missing"),
        ({"layers__1__experts__3__w2__weight": None}, {}, "layers.1.experts.3.w2.weight is missing"),
        ({"layers__1__experts__3__w2__weight": info(6, 12)}, {}, "equal shapes were expected"),
        ({"head__weight": info(20, 13)}, {}, "cannot repeat tok.weight"),
        ({"tok__weight": None}, {}, "should repeat tok.weight, which is not there"),
    ],
)
def test_each_kind_of_fault(of_source: dict, of_target: dict, said: str) -> None:
    source, target = manifests()
    assert said in faults(change(source, **of_source), change(target, **of_target))


def test_layers_with_a_gap() -> None:
    source = {f"layers.{n}.norm1.weight": info(12) for n in (0, 1, 3)}
    target = {f"decoder.{n}.norm.weight": info(12) for n in (0, 1, 3)}
    assert "layer 2 is missing between 0 and 3" in faults(source, target)


def test_two_rules_for_one_tensor_and_two_tensors_for_one_parameter() -> None:
    source, target = manifests()
    again = rename("layers.{layer}.norm1.weight", "decoder.{layer}.other.weight")
    assert "is taken by more than one rule" in faults(source, target, [*RULES, again])
    source["extra.weight"] = info(20, 14)
    second = rename("extra.weight", "final.weight")
    assert "final.weight (20, 14) is filled more than once" in faults(source, target, [*RULES, second])


def test_a_rule_that_applies_to_neither_side_is_no_fault() -> None:
    source, target = manifests()
    assert faults(source, target, [*RULES, rename("absent.weight", "also_absent.weight")]) == ""


def test_faults_of_many_layers_are_one_line() -> None:
    source, target = manifests()
    source |= {f"layers.{n}.extra.bias": info(2) for n in range(LAYERS)}
    assert faults(source, target) == "layers.0.extra.bias (2,) is taken by no rule (and 2 more like it)"


def test_faults_raise_one_error() -> None:
    certificate = certify(KeyMap().bind(CONFIG), *manifests())
    with pytest.raises(CertificateError) as error:
        certificate.raise_for_faults("Nothing fits:")
    assert error.value.faults == certificate.faults


def misspelt(text: str, rng: random.Random) -> str:
    """A name with one letter outside the holes exchanged."""
    places = [i for i, letter in enumerate(text) if letter.isalpha() and "{" not in text[text.rfind("}", 0, i) + 1 : i]]
    place = rng.choice(places)
    return text[:place] + ("z" if text[place] != "z" else "y") + text[place + 1 :]


def mutant(rng: random.Random) -> tuple[str, list[Rule]]:
    """The right rules with one mistake."""
    rules = list(RULES)
    number = rng.randrange(len(rules))
    rule = rules[number]
    how = rng.choice(["drop", "duplicate", "misspell source", "swap targets", "wrong size"])
    if how == "drop":
        del rules[number]
    elif how == "duplicate":
        rules.append(rule)
    elif how == "misspell source":
        name = rule.sources[0].text
        rules[number] = Rule(
            rule.kind,
            (type(rule.sources[0])(misspelt(name, rng)), *rule.sources[1:]),
            rule.targets,
            rule.make_op,
            rule.over,
            rule.repeats,
            rule.reason,
        )
    elif how == "swap targets":
        rules[0], rules[8] = rename("tok.weight", "final.weight"), rename("out.weight", "embed.weight")
    else:
        rules[2] = split(
            "layers.{layer}.kv.weight",
            into=("decoder.{layer}.k.weight", "decoder.{layer}.v.weight"),
            sizes=("q_dim", rng.choice([4, 8])),
        )
    return how, rules


def test_no_mutant_survives() -> None:
    source, target = manifests()
    rng = random.Random(0)
    for _ in range(1000):
        how, rules = mutant(rng)
        assert faults(source, target, rules), how


def test_both_manifests_follow_from_each_other() -> None:
    source, target = manifests()
    bound = KeyMap(*RULES).bind(CONFIG)
    wanted = {name: info for name, info in source.items() if "inv_freq" not in name}
    assert dict(bound.source_manifest(target)) == wanted
    assert dict(bound.target_manifest(source)) == target


def test_a_size_that_the_config_does_not_have() -> None:
    key_map = KeyMap(*RULES, permute_rotary("a", "b", heads="num_head"), permute_rotary("c", "d", heads="zzz"))
    with pytest.raises(KeyMapError) as error:
        key_map.bind(CONFIG)
    assert len(error.value.faults) == 2
    assert "Did you mean 'num_heads'" in error.value.faults[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rename("a.{layer}", "b"),
        lambda: rename("a", "b.{layer}"),
        lambda: stack("a.{layer}", "b.{layer}", over="expert"),
        lambda: split("a", into=("b", "c"), sizes=(1,)),
        lambda: concat(("a", "b"), into="c", sizes=(1,)),
        lambda: tie("a.{layer}", to="b"),
    ],
)
def test_rules_whose_sides_do_not_go_together_are_refused(make) -> None:
    with pytest.raises(KeyMapError):
        make()
