"""Reading the spec of a Llama-shaped family out of a checkpoint, each fact with its evidence.

Shapes outrank config keys, config keys outrank assumptions; a contradiction, a tensor that nothing explains
and a config key that is not understood are errors, listed all at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kinfold.checkpoint import Checkpoint
from kinfold.errors import UnsupportedError
from kinfold.scaffold.keymap.layouts import LAYOUTS
from kinfold.scaffold.keymap.settling.conventions import ROTARY
from kinfold.scaffold.spec.config import Config, left_over, note_config, plain_config
from kinfold.scaffold.spec.config_keys import GGUF_ROTARY_PAIRS
from kinfold.scaffold.spec.facts import ASSUMED, Fact, Findings
from kinfold.scaffold.spec.rope import note_rope
from kinfold.scaffold.spec.schema import Attention, FeedForward, KeyMapSpec, Layout, Spec, check_spec
from kinfold.scaffold.spec.shapes import note_shapes, note_tying
from kinfold.scaffold.spec.sizes import Arch, Sizes
from kinfold.scaffold.spec.tensors import TensorIndex, index_tensors


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
    config = plain_config(checkpoint)
    findings = Findings(faults=list(index.faults))
    note_shapes(index, config, findings)
    note_config(config, findings)
    note_rope(config, findings)
    note_tying(checkpoint, index, findings)
    _note_rotary_pairs(index.layout, config, findings)
    _note_assumptions(findings)
    findings.faults += left_over(config)
    if findings.faults:
        raise UnsupportedError(f"{checkpoint.path} is not understood in full:", faults=findings.faults)
    arch = size_label(sum(info.numel for info in checkpoint.manifest.values()))
    spec = _spec(findings, index, arch, description=str(config.get("general.name", "")))
    check_spec(spec, place=str(checkpoint.path))
    return Reading(spec, tuple(findings.facts.values()))


def size_label(num_parameters: int) -> str:
    """A number of parameters as archs are called by: 134515008 gives `135m`, 1235814400 gives `1.2b`."""
    for unit, scale in (("b", 1e9), ("m", 1e6), ("k", 1e3)):
        if num_parameters >= scale:
            count = num_parameters / scale
            return f"{count:.1f}".removesuffix(".0") + unit if count < 10 else f"{count:.0f}{unit}"
    return f"{num_parameters}"


def _note_rotary_pairs(layout: Layout, config: Config, findings: Findings) -> None:
    """Which dimensions of a head turn together: in GGUF a property of the architecture's files."""
    if layout == "reference":
        pairs, evidence = ROTARY[LAYOUTS["decoder"][layout]["decoder.layers.{layer}.self_attn.q_proj.weight"]]
        findings.note("rotary_pairs", pairs, evidence)
        return
    if layout != "gguf":
        findings.note("rotary_pairs", "halves", f"{ASSUMED}: as Hugging Face writes")
        return
    architecture = str(config.get("general.architecture"))
    if architecture in GGUF_ROTARY_PAIRS:
        findings.note("rotary_pairs", GGUF_ROTARY_PAIRS[architecture], f"general.architecture = {architecture}")
    else:
        known = ", ".join(GGUF_ROTARY_PAIRS)
        findings.faults.append(
            f"general.architecture = {architecture!r}: how its files pair rotary dimensions is not known "
            f"(known: {known})"
        )


def _note_assumptions(findings: Findings) -> None:
    """What neither shapes nor config of a Llama-shaped checkpoint say."""
    if "max_seq_len" not in findings.facts:
        findings.note("max_seq_len", Sizes().max_seq_len, f"{ASSUMED}: the config does not say")
    findings.note("norm_offset", 0, f"{ASSUMED}: norm weights multiply as they are stored")
    findings.note("embedding_scale", 1, f"{ASSUMED}: embeddings enter the first layer as they are")
    findings.note("attention_scale", "head_dim ** -0.5", f"{ASSUMED}: Vaswani et al. 2017, section 3.2.1")


def _spec(findings: Findings, index: TensorIndex, arch: str, *, description: str) -> Spec:
    sections: dict[str, dict[str, Any]] = {"attention": {}, "ffn": {}}
    sizes = {}
    for name, fact in findings.facts.items():
        section, _, field = name.partition(".")
        if section in sections:
            sections[section][field] = fact.value
        elif name in Sizes.__struct_fields__:
            sizes[name] = fact.value
    key_map = KeyMapSpec(
        rotary_pairs=findings.value("rotary_pairs"),
        repeats_embedding=findings.value("repeats_embedding", False),
        drop={**index.recomputed},
    )
    return Spec(
        description=description,
        attention=Attention(**sections["attention"]),
        ffn=FeedForward(**sections["ffn"]),
        # Hugging Face's layout is written by any family, from whatever kind of file it was made.
        key_maps={index.layout: key_map, **({} if index.layout == "hf" else {"hf": KeyMapSpec()})},
        archs={arch: Arch(**sizes)},
    )
