"""Reading the spec of a Llama-shaped family out of a checkpoint, each fact with its evidence.

Shapes outrank config keys, config keys outrank assumptions; a contradiction, a tensor that nothing explains
and a config key that is not understood are errors, listed all at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from kinfold.checkpoint import Checkpoint
from kinfold.errors import UnsupportedError
from kinfold.scaffold.spec.config_keys import (
    ACTIVATIONS,
    GGUF_ROTARY_PAIRS,
    NEUTRAL,
    NOT_ARCHITECTURE,
    NOT_ARCHITECTURE_PREFIXES,
    SPELLINGS,
)
from kinfold.scaffold.spec.facts import ASSUMED, Fact, Findings
from kinfold.scaffold.spec.rope import CONFIG_KEYS as ROPE_KEYS
from kinfold.scaffold.spec.rope import SCALING_PREFIX, note_rope
from kinfold.scaffold.spec.schema import Arch, Attention, FeedForward, KeyMapSpec, Sizes, Spec, check_spec
from kinfold.scaffold.spec.tensors import TensorIndex, index_tensors

_LAYER = "decoder.layers.{layer}."
_REQUIRED = (
    "decoder_frontend.embed.weight", "decoder.layer_norm.weight",
    *(f"{_LAYER}{name}.weight" for name in (
        "self_attn_layer_norm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.output_proj",
        "ffn_layer_norm", "ffn.gate_proj", "ffn.inner_proj", "ffn.output_proj",
    )),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What a checkpoint says: the spec, and every fact it rests on."""

    spec: Spec
    facts: tuple[Fact, ...]


def read_checkpoint(checkpoint: Checkpoint) -> Reading:
    """The spec of the family that a checkpoint is of.

    Raises:
        UnsupportedError: Lists everything in the checkpoint that is not understood or contradicts itself.
    """
    index = index_tensors(checkpoint)
    findings = Findings(faults=list(index.faults))
    config = _plain_config(checkpoint)
    missing = [f"no tensor is {native}" for native in _REQUIRED if native not in index.tensors]
    findings.faults += missing
    if not missing:
        _note_shapes(index, config, findings)
    _note_config(config, findings)
    note_rope(config, findings)
    _note_tying(checkpoint, index, findings)
    _note_assumptions(index, config, findings)
    findings.faults += _left_over(config)
    if "norm_eps" not in findings.facts:
        findings.faults.append(
            f"norm_eps: the config does not say (known spellings: {', '.join(SPELLINGS['norm_eps'])})"
        )
    if findings.faults:
        raise UnsupportedError(f"{checkpoint.path} is not understood in full:", faults=findings.faults)
    spec = _spec(findings, index, config, sum(prod(info.shape) for info in checkpoint.manifest.values()))
    check_spec(spec, place=str(checkpoint.path))
    return Reading(spec, tuple(findings.facts.values()))


def _plain_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config without the prefix that GGUF puts before an architecture's own keys."""
    prefix = f"{checkpoint.config.get('general.architecture')}."
    return {key.removeprefix(prefix): value for key, value in checkpoint.config.items()}


def _note_shapes(index: TensorIndex, config: Mapping[str, Any], findings: Findings) -> None:
    """What the shapes say."""

    def shape(native: str) -> tuple[str, tuple[int, ...]]:
        name, shape = index.one(native) or ("", ())
        return f"{name} {shape}", shape

    evidence, (vocab_size, model_dim) = shape("decoder_frontend.embed.weight")
    findings.note("vocab_size", vocab_size, evidence)
    findings.note("model_dim", model_dim, evidence)
    q_evidence, (q_dim, _) = shape(f"{_LAYER}self_attn.q_proj.weight")
    kv_evidence, (kv_dim, _) = shape(f"{_LAYER}self_attn.k_proj.weight")
    findings.note("num_layers", len(index.layers()), f"layers 0 to {max(index.layers())}, as in {kv_evidence}")
    evidence, (inner_dim, _) = shape(f"{_LAYER}ffn.inner_proj.weight")
    findings.note("ffn_inner_dim", inner_dim, evidence)
    qk_norm = index.one(f"{_LAYER}self_attn.q_norm.weight")
    if qk_norm:
        findings.note("head_dim", qk_norm[1][0], f"{qk_norm[0]} {qk_norm[1]}")
    _note_head_dim(config, q_dim, q_evidence, findings)
    if head_dim := findings.value("head_dim"):
        for name, rows, evidence in (("num_heads", q_dim, q_evidence), ("num_kv_heads", kv_dim, kv_evidence)):
            if rows % head_dim:
                findings.faults.append(f"{name}: {evidence} has {rows} rows, which head_dim {head_dim} does not divide")
            findings.note(name, rows // head_dim, f"{evidence}, head_dim {head_dim}")
    findings.note("ffn.kind", "gated", shape(f"{_LAYER}ffn.gate_proj.weight")[0])
    for name, leaves in _OPTIONAL.items():
        present = [bool(index.one(_LAYER + leaf)) for leaf in leaves]
        if any(present) != all(present):
            findings.faults.append(f"{name}: only some of {', '.join(leaves)} are there")
        findings.note(
            name, any(present), shape(_LAYER + leaves[0])[0] if any(present) else f"no {leaves[0]} in any layer"
        )


_OPTIONAL = {
    "attention.qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attention.output_bias": ("self_attn.output_proj.bias",),
    "attention.qk_norm": ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    "ffn.bias": ("ffn.gate_proj.bias", "ffn.inner_proj.bias", "ffn.output_proj.bias"),
}
"""Facts that stand or fall with the presence of tensors in the layers."""


def _note_head_dim(config: Mapping[str, Any], q_dim: int, evidence: str, findings: Findings) -> None:
    """The width of a head, which shapes alone give only where there is a norm per head."""
    for key in SPELLINGS["head_dim"]:
        if config.get(key) is not None:
            findings.note("head_dim", config[key], f"{key} = {config[key]}")
    for key in SPELLINGS["num_heads"]:
        heads = config.get(key)
        if "head_dim" not in findings.facts and isinstance(heads, int) and heads > 0 and q_dim % heads == 0:
            findings.note("head_dim", q_dim // heads, f"{evidence}, {key} = {heads}")
    if "head_dim" not in findings.facts:
        known = (*SPELLINGS["head_dim"], *SPELLINGS["num_heads"])
        findings.faults.append(f"head_dim: neither shapes nor config say (known spellings: {', '.join(known)})")


def _note_config(config: Mapping[str, Any], findings: Findings) -> None:
    """What the config says; a contradiction with a shape becomes a fault."""
    for name, keys in SPELLINGS.items():
        for key in keys:
            value = config.get(key)
            if value is None:
                continue
            if name == "ffn.activation":
                value = ACTIVATIONS.get(value, value)
                if value not in ACTIVATIONS.values():
                    findings.faults.append(f"{key} = {value!r}: not understood (known: {', '.join(ACTIVATIONS)})")
            elif name == "norm_eps":
                value = _as_written(value)
            elif name == "sliding_window" and not _window_in_use(config):
                continue
            findings.note(name, value, f"{key} = {value}")
    if "ffn.activation" not in findings.facts:
        findings.note("ffn.activation", "silu", f"{ASSUMED}: the config does not say")


def _window_in_use(config: Mapping[str, Any]) -> bool:
    """Whether the window that a config names is used by the layers; `use_sliding_window` may switch it off."""
    kinds = config.get("layer_types")
    return bool(config.get("use_sliding_window", True)) and (not kinds or "sliding_attention" in kinds)


def _note_tying(checkpoint: Checkpoint, index: TensorIndex, findings: Findings) -> None:
    """Whether the output projection is the embedding: by the tensors that are there, then by their values."""
    embed, output = index.one("decoder_frontend.embed.weight"), index.one("final_proj.weight")
    if embed is None:
        return
    said = findings.facts.pop("tied_embeddings", None)
    if output is None:
        findings.note("tied_embeddings", True, "no output projection among the tensors")
    elif said is not None and said.value:
        import torch

        if torch.equal(checkpoint.tensor(embed[0]), checkpoint.tensor(output[0])):
            findings.note("tied_embeddings", True, f"{output[0]} repeats {embed[0]}")
            findings.note("repeats_embedding", True, f"{output[0]} repeats {embed[0]}")
        else:
            findings.note("tied_embeddings", False, f"{output[0]} {output[1]} differs from {embed[0]}")
    else:
        findings.note("tied_embeddings", False, f"{output[0]} {output[1]}")
    if said is not None:
        findings.note("tied_embeddings", said.value, said.evidence)


def _note_assumptions(index: TensorIndex, config: Mapping[str, Any], findings: Findings) -> None:
    """What neither shapes nor config of a Llama-shaped checkpoint say."""
    if index.layout == "gguf":
        architecture = str(config.get("general.architecture"))
        if architecture in GGUF_ROTARY_PAIRS:
            pairs = GGUF_ROTARY_PAIRS[architecture]
            findings.note("rotary_pairs", pairs, f"general.architecture = {architecture}")
        else:
            findings.faults.append(
                f"general.architecture = {architecture!r}: how its files pair rotary dimensions is not known "
                f"(known: {', '.join(GGUF_ROTARY_PAIRS)})"
            )
    else:
        findings.note("rotary_pairs", "halves", f"{ASSUMED}: as Hugging Face writes")
    findings.note("norm_offset", 0, f"{ASSUMED}: norm weights multiply as they are stored")
    findings.note("embedding_scale", 1, f"{ASSUMED}: embeddings enter the first layer as they are")
    findings.note("attention_scale", "head_dim ** -0.5", f"{ASSUMED}: Vaswani et al. 2017, section 3.2.1")


def _left_over(config: Mapping[str, Any]) -> list[str]:
    """Config keys that may change the computation and that nothing has read."""
    read = {*(key for keys in SPELLINGS.values() for key in keys), *ROPE_KEYS, *NOT_ARCHITECTURE}
    faults = []
    layer_types = set(config.get("layer_types") or ())
    for key, value in config.items():
        if value is None or key in read or key.startswith((*NOT_ARCHITECTURE_PREFIXES, SCALING_PREFIX)):
            continue
        if key in NEUTRAL and value in NEUTRAL[key]:
            continue
        if key == "layer_types" and len(layer_types) <= 1 and layer_types <= {"full_attention", "sliding_attention"}:
            continue
        if key in ("use_sliding_window", "max_window_layers") and not _window_in_use(config):
            continue
        faults.append(f"config key {key} = {value!r}: not understood")
    return faults


def _as_written(value: float) -> float:
    """A float32 of GGUF metadata as the decimal it was written from: 9.999999747e-06 gives 1e-05."""
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def _spec(findings: Findings, index: TensorIndex, config: Mapping[str, Any], num_parameters: int) -> Spec:
    sizes = {name: fact.value for name, fact in findings.facts.items() if name in Sizes.__struct_fields__}
    section = {name: {} for name in ("attention", "ffn")}
    for name, fact in findings.facts.items():
        head, _, field = name.partition(".")
        if head in section:
            section[head][field] = fact.value
    key_map = KeyMapSpec(
        rotary_pairs=findings.value("rotary_pairs"),
        repeats_embedding=findings.value("repeats_embedding", False),
        drop=index.recomputed,
    )
    return Spec(
        description=str(config.get("general.name", "")),
        attention=Attention(**section["attention"]),
        ffn=FeedForward(**section["ffn"]),
        key_maps={index.layout: key_map},
        archs={size_label(num_parameters): Arch(**sizes)},
    )


def size_label(num_parameters: int) -> str:
    """A number of parameters as archs are called by: 134515008 gives `135m`, 1235814400 gives `1.2b`."""
    for unit, scale in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if num_parameters >= scale:
            count = num_parameters / scale
            return f"{count:.1f}".removesuffix(".0") + unit if count < 10 else f"{count:.0f}{unit}"
    return f"{num_parameters}"
