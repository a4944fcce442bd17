"""What others' key maps say, where it is known, and that the cases hold together."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gguf")
pytest.importorskip("transformers")

import torch
from gguf.constants import MODEL_ARCH
from safetensors.torch import load_file
from transformers import GPTNeoXForCausalLM, MixtralForCausalLM, PreTrainedModel, RadioModel, Wav2Vec2Model

from truth import conversion_mapping, gguf_names
from truth.case import Case

ARCHS = {
    "llama": MODEL_ARCH.LLAMA, "gpt2": MODEL_ARCH.GPT2, "qwen3_moe": MODEL_ARCH.QWEN3MOE,
    "deepseek_v3": MODEL_ARCH.DEEPSEEK2, "gpt_oss": MODEL_ARCH.GPT_OSS,
}  # fmt: skip
CONVENTIONS = ("internlm2", "Grok", "rwkv7", "plamo2")
CONVERTED: dict[str, type[PreTrainedModel]] = {
    "mixtral": MixtralForCausalLM, "gpt_neox": GPTNeoXForCausalLM, "radio": RadioModel, "wav2vec2": Wav2Vec2Model,
}  # fmt: skip


def case_of(family: str) -> Case:
    with conversion_mapping.quiet():
        if family in ARCHS:
            return gguf_names.case_of_model(ARCHS[family], family)
        if family in CONVENTIONS:
            return gguf_names.case_of_names(family, gguf_names.comments()[family])
        [model] = conversion_mapping.tiny_models([CONVERTED[family]])
        case = conversion_mapping.case_of(family, model)
        assert case is not None
        return case


@pytest.mark.parametrize("family", [*ARCHS, *CONVENTIONS, *CONVERTED])
def test_every_name_of_the_truth_is_on_its_side(family: str):
    case = case_of(family)

    assert list(case.truth) == list(case.target)
    assert frozenset().union(*case.truth.values()) == case.source.keys()


@pytest.mark.parametrize("family", [*ARCHS, *CONVENTIONS, *CONVERTED])
def test_the_values_of_both_sides_are_as_many(family: str):
    case = case_of(family)

    uses = [name for parts in case.truth.values() for name in parts]
    for name, parts in case.truth.items():
        there = sum(case.source[part].numel for part in parts)
        if all(uses.count(part) == 1 for part in parts):
            assert there == case.target[name].numel, name
        else:
            assert there > case.target[name].numel, name
    assert sum(i.numel for i in case.source.values()) == sum(i.numel for i in case.target.values())


@pytest.mark.parametrize(
    ("family", "name", "parts"),
    [
        ("llama", "blk.0.attn_q.weight", {"model.layers.0.self_attn.q_proj.weight"}),
        ("llama", "output_norm.weight", {"model.norm.weight"}),
        ("gpt2", "blk.2.attn_qkv.bias", {"transformer.h.2.attn.c_attn.bias"}),
        (
            "qwen3_moe",
            "blk.1.ffn_gate_exps.weight",
            {f"model.layers.1.mlp.experts.{expert}.gate_proj.weight" for expert in range(4)},
        ),
        ("deepseek_v3", "blk.0.attn_kv_a_mqa.weight", {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight"}),
        ("internlm2", "blk.2.attn_output.weight", {"model.layers.2.attention.wo.weight"}),
        (
            "Grok",
            "blk.0.ffn_up_exps.weight",
            {f"transformer.decoder_layer.0.moe.{expert}.linear_v.weight" for expert in range(4)},
        ),
        ("rwkv7", "blk.0.time_mix_w0", {"model.layers.0.attention.w0"}),
        (
            "mixtral",
            "model.layers.0.mlp.experts.gate_up_proj",
            {
                f"model.layers.0.block_sparse_moe.experts.{expert}.{half}.weight"
                for expert in range(4)
                for half in ("w1", "w3")
            },
        ),
        ("gpt_neox", "lm_head.weight", {"embed_out.weight"}),
        (
            "radio",
            "encoder.layer.0.attention.k_proj.weight",
            {"radio_model.model.blocks.0.attn.qkv.weight"},
        ),
        (
            "wav2vec2",
            "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
            {"encoder.pos_conv_embed.conv.weight_g"},
        ),
    ],
)
def test_known_pairs(family: str, name: str, parts: set[str]):
    assert case_of(family).truth[name] == parts


def test_experts_that_gguf_stacks_come_first_in_the_shape():
    case = case_of("qwen3_moe")

    part = case.source["model.layers.1.mlp.experts.0.gate_proj.weight"]
    assert case.target["blk.1.ffn_gate_exps.weight"].shape == (4, *part.shape)


@pytest.mark.parametrize("cls", [MixtralForCausalLM, GPTNeoXForCausalLM, RadioModel])
def test_what_is_saved_has_the_values_of_what_is_in_memory(cls: type[PreTrainedModel], tmp_path: Path):
    with conversion_mapping.quiet():
        torch.manual_seed(0)
        model = cls(conversion_mapping.tiny_config(cls.config_class))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        case = conversion_mapping.case_of("family", model)
        model.save_pretrained(tmp_path)
    assert case is not None
    saved = {name: value for file in tmp_path.glob("*.safetensors") for name, value in load_file(file).items()}

    assert saved.keys() == case.source.keys()
    for name, parts in case.truth.items():
        values = torch.cat([saved[part].flatten() for part in parts])
        inside = model.state_dict()[name].flatten()
        if values.numel() == inside.numel():
            assert torch.equal(values.sort().values, inside.sort().values), name
        else:
            assert torch.isin(inside, values).all(), name


def test_the_comments_of_the_tables_are_read_as_names_and_families():
    llama, mixtral = gguf_names.comments()["llama-hf"], gguf_names.comments()["mixtral"]

    assert gguf_names.Use("ATTN_Q", "model.layers.{bid}.self_attn.q_proj", merged=False) in llama
    assert gguf_names.Use("FFN_UP_EXP", "layers.{bid}.feed_forward.experts.w3", merged=True) in mixtral
