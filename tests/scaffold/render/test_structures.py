"""Every structure that a spec can say becomes a decoder that computes, decodes and converts as it should."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from structures import LATENT, STRUCTURES, spec_of
from torch import Tensor, nn

from kinfold import generate
from kinfold.keymap import certify
from kinfold.loader import load_model, model_manifest
from kinfold.nn import PassState, Rotary
from kinfold.registry import model_factories
from kinfold.scaffold.keymap.parameters import native_parameters
from kinfold.scaffold.render.fields import config_fields
from kinfold.scaffold.render.memory import FamilyInMemory, load_family
from kinfold.scaffold.spec.schema import parse_spec
from kinfold.scaffold.spec.structure import Activation


def a_model(family: FamilyInMemory, arch: str | None = None) -> nn.Module:
    """A model in float64 in which everything has an effect: all weights are random, and large."""
    torch.manual_seed(0)
    model = family.create(family.archs.get(arch), dtype=torch.float64).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, mean=0.5 if parameter.dim() < 2 else 0.0, std=0.3)
    return model


def some_tokens(length: int = 9) -> Tensor:
    return torch.randint(61, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", STRUCTURES)
def test_cached_decoding_equals_uncached(name: str) -> None:
    family = load_family(name, spec_of(STRUCTURES[name]))
    for arch in family.archs.names():
        model, token_ids = a_model(family, arch), some_tokens()
        generated = generate(model, token_ids, max_new_tokens=5)
        for _ in range(5):
            logits = model(token_ids)
            assert logits.isfinite().all()
            token_ids = torch.cat([token_ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert torch.equal(generated, token_ids)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_key_map_holds_and_loses_nothing(name: str) -> None:
    spec = spec_of(STRUCTURES[name])
    family = load_family(name, spec)
    patterns = set()
    for arch in family.archs.names():
        config, model = family.archs.get(arch), a_model(family, arch)
        target, bound = model_manifest(model), family.converter.key_maps["hf"].bind(config)
        certify(bound, bound.source_manifest(target), target).raise_for_faults(name)
        assert_kept(family, model.state_dict(), config)
        patterns |= {re.sub(r"\.\d+\.", ".{layer}.", key) for key in target}
    assert patterns == set(native_parameters(spec))


def assert_kept(family: FamilyInMemory, state_dict: Mapping[str, Tensor], config: object) -> None:
    """Parameters come back, bit for bit, from the names of Hugging Face."""
    exported = family.converter.export(state_dict, config, layout="hf")
    again = family.converter.load(exported, config, layout="hf")
    assert again.keys() == state_dict.keys()
    assert all(torch.equal(again[key], state_dict[key]) for key in state_dict)


@pytest.mark.parametrize("name", [name for name in STRUCTURES if name != "plain"])
def test_every_structure_computes_something_else(name: str) -> None:
    """With the plain decoder's weights, where both have them."""
    plain = a_model(load_family("plain", spec_of({})))
    model = a_model(load_family(name, spec_of(STRUCTURES[name])))
    own = model.state_dict()
    shared = {key: value for key, value in plain.state_dict().items() if key in own and own[key].shape == value.shape}
    model.load_state_dict({**own, **shared})
    plain.load_state_dict({**plain.state_dict(), **{key: own[key] for key in own.keys() & shared.keys()}}, strict=True)
    logits = model(some_tokens(20))
    assert logits.shape == (2, 20, 61)
    assert (logits - plain(some_tokens(20))).abs().max() > 1e-6


ABSENT = (
    "window", "tied", "Tied", "scal", "Scal", "norm=", "_norm:", "bias=True", "permute", "cap", "clip", "sinks",
    "gate_bias", "in_turns", "layer:", "Identity", "residual_", "_residual", "depth", "project", "transform", "offset",
    "heads=", "reversed", "rotary_dim", "latent", "lambda", "Alibi", "logits =", "None)",
)  # fmt: skip


def test_a_plain_decoder_has_nothing_of_all_this() -> None:
    sources = load_family("plain", spec_of({})).sources
    source = "".join(sources.values()).replace("layer_norm=", "").replace("layer_norm:", "")
    assert {word for word in ABSENT if word in source} == set()


@pytest.mark.parametrize("activation", Activation.__args__)
@pytest.mark.parametrize("kind", ["gated", "plain"])
def test_every_activation_is_there(activation: str, kind: str) -> None:
    family = load_family("x", spec_of({"ffn": {"kind": kind, "activation": activation}, "num_layers": 1}))
    assert a_model(family)(some_tokens()).isfinite().all()


def test_layers_that_turn_alike_share_their_positions() -> None:
    model = a_model(load_family("x", spec_of({**STRUCTURES["scaled_where_full"], "num_layers": 8})))
    layers = list(model.get_submodule("decoder.layers").children())
    turning = [layer.get_submodule("self_attn").get_submodule("position") for layer in layers]
    assert [(part.theta, part.scaling is None) for part in turning if isinstance(part, Rotary)] == [
        (10000.0, True), (1000000.0, False),
    ] * 4  # fmt: skip
    assert len({id(part) for part in turning}) == 2


def test_layers_have_windows_and_no_positions_in_turns() -> None:
    said = {**STRUCTURES["windows_in_turns"], "rope_theta": [10000.0, 0], "num_layers": 5}
    model = a_model(load_family("x", spec_of(said)))
    layers = [layer.get_submodule("self_attn") for layer in model.get_submodule("decoder.layers").children()]
    assert [attention.window for attention in layers] == [3, 3, None, 3, 3]
    assert [attention.position is None for attention in layers] == [False, True, False, True, False]


def test_an_encoder_and_decoder_has_what_both_kinds_can_have() -> None:
    text = """
    model: encoder_decoder
    attention: {qkv_bias: [q], output_bias: true}
    ffn: {activation: relu2}
    norm: {kind: layer, weight: offset, bias: false, final: false}
    position: {kind: sinusoidal, frequencies: paper}
    archs: {a: {model_dim: 32, num_encoder_heads: 4, num_decoder_heads: 2, ffn_inner_dim: 48, vocab_size: 61}}
    """
    family = load_family("x", parse_spec(text, place="spec"))
    model = a_model(family)
    assert model(some_tokens(), some_tokens()).isfinite().all()
    assert_kept(family, model.state_dict(), family.archs.get())


INTERLEAVED: dict[str, dict[str, Any]] = {
    "biases": {"attention": {"qkv_bias": True}},
    "partial": {"rotary_dim": 4},
    "norms_per_head": {"attention": {"qk_norm": True}},
    "norms_over_width": {"attention": {"qk_norm": {"over": "width", "kind": "layer", "bias": True}}, "rotary_dim": 6},
    "norms_by_head": {"attention": {"qk_norm": {"over": "each_head"}}},
    "norms_after": {"attention": {"qk_norm": {"weight": "offset", "after_position": True}}},
    "latent": {**LATENT, "q_latent_dim": 12},
    "latent_without_latent_queries": LATENT,
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_what_is_permuted_turns_as_neighbours_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    permuting, plain = (
        load_family(name, spec_of({**INTERLEAVED[name], "key_maps": {"hf": {"rotary_pairs": pairs}}}))
        for pairs in ("interleaved", "halves")
    )
    config, model = plain.archs.get(), a_model(plain)
    stored = plain.converter.export(model.state_dict(), config, layout="hf")
    assert_kept(permuting, model.state_dict(), config)
    loaded = a_model(permuting)
    loaded.load_state_dict(permuting.converter.load(stored, config, layout="hf"))
    expected = loaded(some_tokens())
    assert (model(some_tokens()) - expected).abs().max() > 1e-6
    by_halves = Rotary.forward

    def by_neighbours(self: Rotary, x: Tensor, state: PassState, **options: Any) -> Tensor:
        turning, rest = x[..., : self.dim], x[..., self.dim :]
        turning = turning.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
        turning = by_halves(self, turning, state, **options)
        return torch.cat([turning.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2), rest], dim=-1)

    monkeypatch.setattr(Rotary, "forward", by_neighbours)
    torch.testing.assert_close(model(some_tokens()), expected)


def test_the_rules_of_a_spec_are_the_key_map() -> None:
    q_proj = "decoder.layers.{layer}.self_attn.q_proj.weight"
    others = [name for name in native_parameters(spec_of({})) if name != q_proj]
    rules = [
        *(f"rename('x.{name}', \"{name}\")" for name in others),
        f"chain(offset('q.{{layer}}', 'more.{{layer}}', by=0.0), transpose('more.{{layer}}', '{q_proj}'))",
    ]
    family = load_family("x", spec_of({"key_maps": {"hf": {"rules": rules}}}))
    model = a_model(family)
    exported = family.converter.export(model.state_dict(), family.archs.get(), layout="hf")
    assert torch.equal(exported["q.3"], model.state_dict()[q_proj.format(layer=3)].T)
    assert "import KeyMap, chain, offset, rename, transpose" in family.sources["loader"]


def test_a_family_in_memory_is_registered_nowhere() -> None:
    known = model_factories.get("llama"), load_model.get("llama")
    family = load_family("llama", spec_of({}))
    assert family.config_class.__name__ == "LlamaConfig"
    assert (model_factories.get("llama"), load_model.get("llama")) == known


def test_what_null_means_is_said_where_an_arch_says_null() -> None:
    for other, doc in ((0.25, "."), (None, "; None: one over the square root of `head_dim`.")):
        fields = config_fields(spec_of({"attention_scale": 0.5, "b": {"attention_scale": other}}))
        docs = {field.name: field.doc for field in fields}
        assert docs["attention_scale"] == f"What scores are multiplied by{doc}"
