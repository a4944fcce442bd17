"""Encoders and decoders, with either order of norms and kind of positions, against four models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from kinfold import AssetCard, convert_checkpoint, create_model, load_model, model_factories
from kinfold.conversion.hf_config import make_hf_config
from kinfold.errors import ConfigError, GenerationError
from kinfold.scaffold.new_family import new_family
from kinfold.scaffold.project import Project
from kinfold.scaffold.spec.schema import parse_spec

SPEC = """
model: encoder_decoder
attention: {qkv_bias: true, output_bias: true}
ffn: {kind: plain, activation: %s, bias: true}
norm: {kind: layer, order: %s}
position: {kind: %s, start: %d}
embedding: {scaled: %s}
archs:
  tiny:
    model_dim: 32
    num_encoder_layers: 2
    num_decoder_layers: 3
    num_encoder_heads: 4
    num_decoder_heads: 2
    ffn_inner_dim: 48
    vocab_size: 64
    max_seq_len: 40
    dropout_p: 0.1
    tied_embeddings: true
"""

PEER: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": 64, "max_position_embeddings": 40, "pad_token_id": 1,
    "decoder_start_token_id": 2,
}  # fmt: skip


def fsmt(activation: str) -> Any:
    """fairseq's transformer of WMT 2019: sinusoidal, post-norm."""
    sizes = {
        **PEER,
        "src_vocab_size": 64,
        "tgt_vocab_size": 64,
        "langs": ["en", "de"],
        "activation_function": activation,
    }
    del sizes["vocab_size"]
    return transformers.FSMTForConditionalGeneration(transformers.FSMTConfig(**sizes))


def m2m(activation: str) -> Any:
    """Sinusoidal, pre-norm."""
    config = transformers.M2M100Config(**PEER, activation_function=activation)
    return transformers.M2M100ForConditionalGeneration(config)


def blenderbot(activation: str) -> Any:
    """Learned, pre-norm."""
    config = transformers.BlenderbotConfig(**PEER, activation_function=activation, scale_embedding=True)
    return transformers.BlenderbotForConditionalGeneration(config)


def bart(activation: str) -> Any:
    """Learned, post-norm; without the norm behind its embeddings, which is BART's own."""
    model: Any = transformers.BartForConditionalGeneration(
        transformers.BartConfig(**PEER, activation_function=activation)
    )
    for stack in (model.model.encoder, model.model.decoder):
        stack.layernorm_embedding = nn.Identity()
    return model


CASES = {
    "sinusoidal, post-norm": (("relu", "post", "sinusoidal", 2, "true"), fsmt, torch.float32),  # its masks are float32
    "sinusoidal, pre-norm": (("gelu", "pre", "sinusoidal", 2, "true"), m2m, torch.float64),
    "learned, pre-norm": (("relu", "pre", "learned", 0, "true"), blenderbot, torch.float64),
    "learned, post-norm": (("gelu", "post", "learned", 2, "false"), bart, torch.float64),
}


def random_model(family: str, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    model = create_model(family, dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


@pytest.mark.parametrize("case", CASES)
def test_it_computes_what_transformers_computes(case: str, project: Project) -> None:
    values, make_peer, dtype = CASES[case]
    new_family("mt", project, parse_spec(SPEC % values, place="spec")).transaction.commit()
    project.activate()
    model = random_model("mt", dtype)
    exported = load_model.get("mt").checkpoint_converter.export(
        model.state_dict(), model_factories.get("mt").archs.get(), layout="hf"
    )
    embed = exported["model.shared.weight"]
    names = ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")
    peer = make_peer(values[0]).to(dtype).eval()
    known = peer.state_dict()
    copies = {f"model.{name}.weight": embed for name in names} | {"lm_head.weight": embed}
    computed = {name for name in known if "embed_positions" in name and values[2] == "sinusoidal"}
    given = {**exported, **{name: tensor for name, tensor in copies.items() if name in known}}
    if "model.shared.weight" not in known:
        del given["model.shared.weight"]
    missing, unexpected = peer.load_state_dict(given, strict=False)
    assert set(missing) <= computed | {"final_logits_bias"}, missing
    assert not unexpected

    source_ids, token_ids = (
        torch.randint(3, 64, (2, length), generator=torch.Generator().manual_seed(length)) for length in (9, 7)
    )
    source_ids[0, 6:] = 1
    mask = source_ids != 1
    with torch.inference_mode():
        theirs = peer(input_ids=source_ids, attention_mask=mask.long(), decoder_input_ids=token_ids, use_cache=False)
        ours = model(source_ids, token_ids, mask)
    assert (ours - theirs.logits).abs().max() <= 1e-6 * theirs.logits.abs().max()


def test_a_model_trained_here_becomes_a_checkpoint_of_m2m_100(project: Project, tmp_path: Path) -> None:
    tokens = "    bos_idx: 0\n    pad_idx: 1\n    eos_idx: 2\n"
    values, *_ = CASES["sinusoidal, pre-norm"]
    new_family("mt", project, parse_spec(SPEC % values + tokens, place="spec")).transaction.commit()
    project.activate()
    model = random_model("mt", torch.float64)
    save_file({name: tensor.float() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    card = AssetCard("mt", "mt", Path("none"), checkpoint=tmp_path / "model.safetensors")
    hf = convert_checkpoint(card, tmp_path / "hf", to="hf").path
    peer: Any = transformers.AutoModelForSeq2SeqLM.from_pretrained(hf, attn_implementation="eager").double().eval()
    assert (peer.config.dropout, peer.config.decoder_start_token_id) == (0.1, 2)
    ids = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    theirs = peer(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits
    assert (load_model(card, dtype=torch.float64)(ids, ids) - theirs).abs().max() <= 1e-6 * theirs.abs().max()


def test_what_m2m_100_cannot_say_is_refused_with_all_reasons() -> None:
    model, factory = create_model("transformer", device="meta"), model_factories.get("transformer")
    with pytest.raises(ConfigError) as error:
        make_hf_config(factory.archs.get(), model, create=factory.create, dtype="float32", tokens={})
    assert error.value.faults == (
        "no parameter decoder.layer_norm.bias",
        "no parameter decoder.layer_norm.weight",
        "no parameter encoder.layer_norm.bias",
        "no parameter encoder.layer_norm.weight",
        *(
            f"{side}_frontend: positions that begin at 2, where padding is the token 0: those of M2M-100 begin behind "
            "its number"
            for side in ("encoder", "decoder")
        ),
    )


@pytest.mark.parametrize(("arch", "sizes"), [("base", (512, 8, 6, 6, 2048)), ("big", (1024, 16, 6, 6, 4096))])
def test_the_layers_have_the_parameters_of_torchs_transformer(arch: str, sizes: Any) -> None:
    with torch.device("meta"):
        theirs = nn.Transformer(*sizes)
    last_norms = {f"{stack}.norm.{leaf}" for stack in ("encoder", "decoder") for leaf in ("weight", "bias")}
    ours = create_model("transformer", arch, device="meta")
    embedding = ours.get_parameter("decoder_frontend.embed.weight").numel()
    assert sum(parameter.numel() for parameter in ours.parameters()) - embedding == sum(
        parameter.numel() for name, parameter in theirs.named_parameters() if name not in last_norms
    )


def test_dropout_is_where_training_is(project: Project) -> None:
    model = create_model("transformer", "base")
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.1}
    assert {module.dropout_p for module in model.modules() if hasattr(module, "dropout_p")} == {0.1}
    source_ids, token_ids = torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    model.train()
    assert not torch.equal(model(source_ids, token_ids), model(source_ids, token_ids))
    model.eval()
    assert torch.equal(model(source_ids, token_ids), model(source_ids, token_ids))


def test_a_sequence_longer_than_the_learned_positions_is_refused(project: Project) -> None:
    values, *_ = CASES["learned, pre-norm"]
    new_family("mt", project, parse_spec(SPEC % values, place="spec")).transaction.commit()
    project.activate()
    ids = torch.zeros(1, 41, dtype=torch.int64)
    model = create_model("mt")
    with pytest.raises(GenerationError, match="A sequence of 41 tokens is longer than the 40 learned positions"):
        model(ids, ids)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("model: encoder_decoder", "position.kind = rotary: an encoder and decoder has `sinusoidal` or `learned`"),
        ("attention: {qk_norm: true}\nmodel: encoder_decoder", "attention.qk_norm = true"),
        ("model: encoder_decoder\nkey_maps: {gguf: {}}", "key_maps.gguf: the layout is not known"),
        ("model: encoder_decoder\narchs: {a: {num_layers: 2}}", "archs.a: num_layers is no size of such a model"),
        ("archs: {a: {num_encoder_layers: 2}}", "archs.a: num_encoder_layers is no size of such a model"),
        ("position: {start: 2}", "position.start = 2: rotary positions always begin at 0"),
        ("archs: {a: {pad_idx: 9, vocab_size: 9}}", "pad_idx = 9: must be an int from 0 to below vocab_size = 9"),
        ("archs: {a: {dropout_p: 1.0}}", "dropout_p = 1.0: must be a number from 0 to below 1"),
        ("position: {kind: learned}\narchs: {a: {rope_theta: 1.0}}", "rope_theta is no size of such a model"),
    ],
)
def test_what_does_not_go_together_is_said(text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_spec(text, place="spec")
    assert fault in str(error.value)
