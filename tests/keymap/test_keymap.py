"""Key maps: bound to the sizes of a config, looked up by name, and read in both directions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from example import CONFIG, RULES, info, manifests

from kinfold.errors import KeyMapError
from kinfold.keymap import KeyMap, certify, drop, permute_rotary, rename, split, stack, tie, transpose, unstack
from kinfold.keymap.ops import PermuteRotary, Split


def test_sizes_that_the_config_does_not_have_come_all_at_once() -> None:
    key_map = KeyMap(*RULES, permute_rotary("a", "b", heads="num_head"), permute_rotary("c", "d", heads="zzz"))
    with pytest.raises(KeyMapError) as error:
        key_map.bind(CONFIG)
    assert len(error.value.faults) == 2
    assert error.value.faults[0].startswith("permute_rotary(a -> b): 'num_head' is no number of the config.")
    assert "Did you mean 'num_heads'" in error.value.faults[0]


@pytest.mark.parametrize("value", [0, -2, True, None, 2.0, "2"])
def test_a_size_is_a_positive_number(value: object) -> None:
    with pytest.raises(KeyMapError) as error:
        KeyMap(permute_rotary("a", "b", heads="heads")).bind(SimpleNamespace(heads=value))
    assert error.value.faults == (
        f"permute_rotary(a -> b): 'heads' is {value!r} in the config, which is no positive number.",
    )


def test_a_size_that_is_written_out_is_a_positive_number_too() -> None:
    with pytest.raises(KeyMapError, match="0 is no positive number"):
        KeyMap(split("a", into=("b", "c"), sizes=(4, 0))).bind()


def test_sizes_that_are_written_out_need_no_config() -> None:
    assert KeyMap(permute_rotary("a", "b", heads=4)).bind().target_manifest({"a": info(8, 3)}) == {"b": info(8, 3)}


def test_a_size_may_be_a_product() -> None:
    fused = split("qkv", into=("q", "kv"), sizes=("heads * dim", "2 * kv_heads * dim"))
    bound = KeyMap(fused).bind(SimpleNamespace(heads=4, kv_heads=2, dim=8))
    assert bound.op(fused, 1) == Split((32, 32))
    with pytest.raises(KeyMapError, match="'depth' is no number of the config"):
        KeyMap(split("a", into=("b", "c"), sizes=("2 * depth", 3))).bind(SimpleNamespace(heads=4))


def test_a_size_may_be_a_difference() -> None:
    rule = permute_rotary("a", "b", heads="2 * heads - 1", rotary_dim="turning", start="dim - turning")
    bound = KeyMap(rule).bind(SimpleNamespace(heads=2, dim=8, turning=6))
    assert bound.op(rule, 1) == PermuteRotary(3, "halves", 6, 2)
    with pytest.raises(KeyMapError, match="'dim - turning' is -2 in the config, which is below 0"):
        KeyMap(rule).bind(SimpleNamespace(heads=2, dim=4, turning=6))


def test_names_are_looked_up_on_both_sides() -> None:
    rule, literal = rename("h.{n}.w1", "layers.{n}.x"), rename("h.7.w2", "layers.7.y")
    bound = KeyMap(rule, literal).bind()
    matching = bound.match(["h.3.w1", "h.7.w2"], "source")
    assert [(use.rule, use.holes, use.found) for use in matching.applications] == [
        (rule, {"n": 3}, {(0, 0): "h.3.w1"}),
        (literal, {}, {(0, 0): "h.7.w2"}),
    ]
    assert bound.match(["layers.3.x"], "target").applications[0].rule is rule
    unknown = ["h.3.w2", "h.03.w1", "h.{}.w{}", "h.{}.w1", "h.{n}.w1", "layers.3.x"]
    assert bound.match(unknown, "source").applications == []
    assert sorted(bound.match(unknown, "source").unmatched) == sorted(unknown)
    assert bound.lookup([*unknown, "h.12.w1", "h.7.w2"]) == {"h.12.w1": "layers.12.x", "h.7.w2": "layers.7.y"}


def test_what_a_name_is_called_here() -> None:
    bound = KeyMap(*RULES, unstack("big", "small.{e}", over="e", count=2)).bind(CONFIG)
    wanted = {
        "layers.2.kv.weight": "decoder.2.k.weight",
        "layers.0.experts.7.w2.weight": "decoder.0.experts",
        "big": "small.0",
    }
    assert bound.lookup([*wanted, "head.weight", "layers.0.inv_freq"]) == wanted


def test_numbers_come_in_their_order_whatever_that_of_the_names() -> None:
    bound = KeyMap(stack("h.{n}.e.{e}", "layers.{n}.e", over="e")).bind()
    names = sorted(f"h.0.e.{e}" for e in range(11))  # as strings: 10 before 2
    (application,) = bound.match(names, "source").applications
    assert application.count == 11
    assert application.rule.names(application.rule.sources, application.holes, 11) == [f"h.0.e.{e}" for e in range(11)]


def test_a_map_between_the_same_names_is_refused_if_it_changes_values() -> None:
    rules = [rename("a", "b"), rename("b", "a"), transpose("c", "c")]
    with pytest.raises(KeyMapError, match="could not be told"):
        KeyMap(*rules)
    KeyMap(*rules[:2])
    KeyMap(*rules, rename("d", "e"))


def test_both_manifests_follow_from_each_other() -> None:
    source, target = manifests()
    bound = KeyMap(*RULES).bind(CONFIG)
    wanted = {name: info for name, info in source.items() if "inv_freq" not in name}
    assert dict(bound.source_manifest(target)) == wanted  # what was dropped does not come back, what was tied does
    assert dict(bound.target_manifest(source)) == target


def test_a_tie_in_every_layer_comes_back_in_every_layer() -> None:
    bound = KeyMap(rename("h.{n}.a", "layers.{n}.x"), tie("h.{n}.b", to="h.{n}.a")).bind()
    assert list(bound.source_manifest({"layers.0.x": info(2), "layers.1.x": info(3)})) == [
        "h.0.a",
        "h.1.a",
        "h.0.b",
        "h.1.b",
    ]


SWITCHED = KeyMap(
    rename("embed", "embed"),
    rename("output", "final_proj", unless="tied"),
    tie("output", to="embed", when="tied"),
    drop("freqs", reason="recomputed", when="scaling"),
)


@pytest.mark.parametrize("tied", [False, True])
def test_a_rule_may_hold_only_where_a_switch_of_the_config_is_on_or_off(tied: bool) -> None:
    bound = SWITCHED.bind(SimpleNamespace(tied=tied, scaling=None))
    source = {"embed": info(4, 2), "output": info(4, 2)}
    target = {"embed": info(4, 2)} if tied else {"embed": info(4, 2), "final_proj": info(4, 2)}
    assert certify(bound, source, target).faults == ()
    assert bound.source_manifest(target).keys() == source.keys()
    assert bound.target_manifest(source).keys() == target.keys()


def test_a_switch_may_be_a_part_that_is_there_or_none() -> None:
    source, target = {"embed": info(4, 2), "freqs": info(8)}, {"embed": info(4, 2)}
    with_part, without = (SWITCHED.bind(SimpleNamespace(tied=True, scaling=part)) for part in (object(), None))
    assert certify(with_part, source, target).holds
    assert certify(without, source, target).faults == ("freqs (8,) is taken by no rule",)


def test_switches_that_the_config_does_not_have_come_with_the_sizes() -> None:
    config = SimpleNamespace(tide=True, scaling=3)
    with pytest.raises(KeyMapError) as error:
        SWITCHED.bind(config)
    assert [fault.split(": ", 1)[1] for fault in error.value.faults] == [
        "'tied' is no switch of the config. Did you mean 'tide'?",
        "'tied' is no switch of the config. Did you mean 'tide'?",
        "'scaling' is no switch of the config. Known: tide.",
    ]


def test_a_copy_may_be_taken_without_being_written() -> None:
    bound = KeyMap(rename("a", "b"), tie("copy", to="a", written=False)).bind()
    source, target = {"a": info(2), "copy": info(2)}, {"b": info(2)}
    assert certify(bound, source, target).holds
    assert bound.source_manifest(target).keys() == {"a"}
