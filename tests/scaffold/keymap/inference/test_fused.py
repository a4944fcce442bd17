"""Which tensors are several of the other side, and when that is no more than a guess."""

from __future__ import annotations

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.scaffold.keymap.inference.infer import Decision, infer

D = 8


def manifest(*names: str, shape: tuple[int, ...]) -> Manifest:
    """Tensors of one shape, for each of three layers where a name has `#`."""
    layers = range(3)
    return {
        name.replace("#", str(layer)): TensorInfo(shape, "float32", "float32") for name in names for layer in layers
    }


def fused(source: Manifest, target: Manifest) -> list[Decision]:
    """What was taken for several tensors in one."""
    return [d for d in infer(source, target).decisions if len(d.sources) + len(d.targets) > 2]


def local_names(decision: Decision) -> tuple[list[str], list[str]]:
    """What the groups of both sides are called behind the number of their layer."""
    there, here = ([group.parts[-1] for group in side] for side in (decision.sources, decision.targets))
    return there, here


def test_a_name_that_says_nothing_of_parts_and_their_order_leaves_them_open() -> None:
    source = manifest("layers.#.self_attn.att_proj.weight", shape=(3 * D, D))
    target = manifest(*(f"layers.#.self_attn.{name}_proj.weight" for name in "qkv"), shape=(D, D))
    (decision,) = fused(source, target)
    assert not decision.sure
    assert {*local_names(decision)[1]} == {f".self_attn.{name}_proj.weight" for name in "qkv"}


def test_parts_there_that_are_one_here_are_joined_in_the_order_of_its_name() -> None:
    source = manifest("layers.#.mlp.up_proj.weight", "layers.#.mlp.gate_proj.weight", shape=(D, 6))
    target = manifest("blocks.#.ffn.gate_up_proj.weight", shape=(2 * D, 6))
    (decision,) = fused(source, target)
    assert decision.sure
    assert decision.dim == 0
    assert local_names(decision) == ([".mlp.gate_proj.weight", ".mlp.up_proj.weight"], [".ffn.gate_up_proj.weight"])


def test_up_may_come_before_gate() -> None:
    source = manifest("layers.#.mlp.up_gate_proj.weight", shape=(2 * D, 6))
    target = manifest("blocks.#.ffn.gate_proj.weight", "blocks.#.ffn.up_proj.weight", shape=(D, 6))
    (decision,) = fused(source, target)
    assert local_names(decision)[1] == [".ffn.up_proj.weight", ".ffn.gate_proj.weight"]


def test_a_transposed_whole_is_joined_in_the_dimension_that_it_has_here() -> None:
    source = manifest("h.#.attn.c_attn.weight", shape=(6, 3 * D))
    target = manifest(*(f"layers.#.self_attn.{name}_proj.weight" for name in "qkv"), shape=(D, 6))
    (decision,) = fused(source, target)
    assert decision.sure
    assert (decision.relation.kind, decision.dim) == ("transpose", 0)


def test_each_of_two_attentions_gets_its_own_parts() -> None:
    places = {"self_attn": "self_attn", "multihead_attn": "encoder_attn"}
    source = manifest(*(f"decoder.layers.#.{place}.in_proj_weight" for place in places), shape=(3 * D, D))
    parts = [f"decoder.layers.#.{place}.{name}_proj.weight" for place in places.values() for name in "qkv"]
    found = fused(source, manifest(*parts, shape=(D, D)))
    assert all(decision.sure for decision in found)
    assert {local_names(d)[0][0]: local_names(d)[1][0] for d in found} == {
        f".{there}.in_proj_weight": f".{here}.q_proj.weight" for there, here in places.items()
    }


def test_of_sixty_alike_parameters_of_a_module_no_four_are_tried() -> None:
    """They could be chosen in half a million ways, of which none is better than another."""
    source = {**manifest("odd.weight", shape=(2 * D, 5))}
    names = [f"model.{first}{second}" for first in "abcdefghij" for second in "klmnop"]
    inference = infer(source, manifest(*names, shape=(D, 5)))
    assert inference.decisions == ()
    assert len(inference.unfilled) == len(names)
