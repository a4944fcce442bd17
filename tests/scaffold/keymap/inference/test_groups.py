"""The structure of a manifest: what counts alike modules, and what only tells names apart."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from deepseek import checkpoint, key_map

from kinfold.checkpoint import TensorInfo
from kinfold.scaffold.keymap.inference.groups import group_tensors


def groups(names: Iterable[str], *, but: tuple[str, ...] = ()) -> dict[str, list[tuple[int, ...]]]:
    """The groups of tensors that all have one shape: their patterns, and the numbers in the holes."""
    found = group_tensors(dict.fromkeys(names, TensorInfo((2,), "float32", "float32")), but=but)
    return {group.text: sorted(group.places) for group in found}


def numbered(*ranges: range) -> list[tuple[int, ...]]:
    places: list[tuple[int, ...]] = [()]
    for numbers in ranges:
        places = [(*place, number) for place in places for number in numbers]
    return places


def test_the_groups_of_deepseek_v3_are_the_patterns_of_its_key_map() -> None:
    source = checkpoint()
    found = group_tensors(source)
    sources = [rule.sources[0].text for rule in key_map()]
    assert {group.text for group in found} == {re.sub(r"\{\w+\}", "{}", text) for text in sources}
    assert {group.name(place): info for group in found for place, info in group.tensors.items()} == source
    places = {group.text.removeprefix("model.layers.{}."): sorted(group.places) for group in found}
    assert places["self_attn.o_proj.weight_scale_inv"] == numbered(range(61))
    assert places["mlp.up_proj.weight"] == numbered(range(3))
    assert places["mlp.experts.{}.up_proj.weight"] == numbered(range(3, 61), range(256))


def test_layers_and_experts_are_counted_and_the_digits_of_words_are_not() -> None:
    names = [f"h.{layer}.experts.{expert}.w{w}" for layer in range(3) for expert in range(2) for w in (1, 2, 3)]
    assert groups(names) == {f"h.{{}}.experts.{{}}.w{w}": numbered(range(3), range(2)) for w in (1, 2, 3)}


def test_modules_of_a_row_that_hold_different_things_are_not_counted() -> None:
    names = [f"h.{layer}.mlp.{name}" for layer in range(2) for name in ("0.weight", "1.running.mean", "2.kernel.a")]
    assert groups(names) == {
        "h.{}.mlp.0.weight": numbered(range(2)),
        "h.{}.mlp.1.running.mean": numbered(range(2)),
        "h.{}.mlp.2.kernel.a": numbered(range(2)),
    }


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 1, 3), (5,)])
def test_a_row_that_does_not_run_from_0_without_gaps_is_not_counted(numbers: tuple[int, ...]) -> None:
    assert groups(f"h.{number}.norm.weight" for number in numbers) == {
        f"h.{number}.norm.weight": [()] for number in numbers
    }


def test_a_list_that_is_not_to_count_does_not() -> None:
    names = [f"a.{a}.b.{b}.w" for a in range(2) for b in range(2)]
    assert groups(names) == {"a.{}.b.{}.w": numbered(range(2), range(2))}
    assert groups(names, but=("a.{}.b.",)) == {f"a.{{}}.b.{b}.w": numbered(range(2)) for b in range(2)}
    assert groups(names, but=("a.",)) == {f"a.{a}.b.{{}}.w": numbered(range(2)) for a in range(2)}


@pytest.mark.parametrize("odd", ["h.02.w", "h.{}.w", "h.{2}.w", "h.2}.w", f"h.{'9' * 5000}.w", "h.٢.w"])
def test_what_is_no_number_is_a_name_of_its_own(odd: str) -> None:
    assert groups(["h.0.w", odd, "h.1.w"]) == {"h.{}.w": numbered(range(2)), odd: [()]}
