"""Which list of modules is which on the other side, and what numbers in names tell where there is none."""

from __future__ import annotations

from kinfold.checkpoint import Manifest, TensorInfo
from kinfold.scaffold.keymap.inference.groups import group_tensors
from kinfold.scaffold.keymap.inference.infer import infer
from kinfold.scaffold.keymap.inference.lists import Alignment, align_lists
from kinfold.scaffold.keymap.inference.words import standard_vocabulary

D, F = 8, 12


def manifest(shapes: dict[str, tuple[int, ...]], numbers: range = range(3)) -> dict[str, TensorInfo]:
    """The tensors of these patterns, `#` standing for each number."""
    return {
        pattern.replace("#", str(number)): TensorInfo(shape, "float32", "float32")
        for pattern, shape in shapes.items()
        for number in (numbers if "#" in pattern else range(1))
    }


def aligned(source: Manifest, target: Manifest) -> Alignment:
    return align_lists(group_tensors(source), group_tensors(target), standard_vocabulary())


def decided(source: Manifest, target: Manifest) -> dict[str, str]:
    """For each native tensor that is decided the foreign one."""
    return {
        d.targets[0].name(place): d.sources[0].name(place)
        for d in infer(source, target).decisions
        if d.sure
        for place in d.targets[0].places
    }


def test_names_tell_an_encoder_from_a_decoder_of_as_many_layers() -> None:
    source = manifest({"enc.blocks.#.fc1.weight": (F, D), "dec.blocks.#.fc1.weight": (F, D)})
    target = manifest({"decoder.layers.#.up.weight": (F, D), "encoder.layers.#.up.weight": (F, D)})
    assert aligned(source, target).there == {"enc.blocks.": "encoder.layers.", "dec.blocks.": "decoder.layers."}


ONE = {
    "layers.#.attn.q_proj.weight": (D, D), "layers.#.attn.k_proj.weight": (D, D),
    "layers.#.fc1.weight": (F, D), "layers.#.fc2.weight": (D, F),
}  # fmt: skip
SEVERAL = {
    "attns.#.q_proj.weight": (D, D), "attns.#.k_proj.weight": (D, D),
    "ffns.#.fc1.weight": (F, D), "ffns.#.fc2.weight": (D, F),
}  # fmt: skip


def test_what_is_in_several_lists_there_may_be_in_one_here() -> None:
    source, target = manifest(SEVERAL), manifest(ONE)
    assert aligned(source, target).there == {"attns.": "layers.", "ffns.": "layers."}
    assert decided(source, target)["layers.1.fc2.weight"] == "ffns.1.fc2.weight"


def test_and_what_is_in_one_list_there_in_several_here() -> None:
    assert decided(manifest(ONE), manifest(SEVERAL))["ffns.2.fc1.weight"] == "layers.2.fc1.weight"


def test_a_list_of_another_length_is_no_partner() -> None:
    source = manifest({"blocks.#.fc1.weight": (F, D), "blocks.#.fc2.weight": (D, F)}, range(4))
    target = manifest({"layers.#.fc1.weight": (F, D), "layers.#.fc2.weight": (D, F)}, range(3))
    assert aligned(source, target).there == {}


def test_numbers_that_start_elsewhere_may_also_run_backwards_and_stay_open() -> None:
    source = manifest({"head.refine#.out.weight": (D, D)}, range(1, 5))
    target = manifest({"neck.stage#.proj.weight": (D, D)}, range(4))
    assert decided(source, target) == {}


def test_shapes_show_that_they_run_upwards() -> None:
    """Where `conv1` is known to be `layer.0`, and `conv2` `layer.1`, `bn1` is what stands beside them."""
    norms = (
        manifest({"stem.bn#.weight": (D,)}, range(1, 3)),
        manifest({"stem.layer.#.normalization.weight": (D,)}, range(2)),
    )
    source = norms[0] | manifest({"stem.conv1.weight": (D, D, 1), "stem.conv2.weight": (D, D, 3)})
    target = norms[1] | manifest({f"stem.layer.{n}.convolution.weight": (D, D, 1 + 2 * n) for n in range(2)})
    assert decided(source, target) == {
        "stem.layer.0.convolution.weight": "stem.conv1.weight",
        "stem.layer.1.convolution.weight": "stem.conv2.weight",
        "stem.layer.0.normalization.weight": "stem.bn1.weight",
        "stem.layer.1.normalization.weight": "stem.bn2.weight",
    }
