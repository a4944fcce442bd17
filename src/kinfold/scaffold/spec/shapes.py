"""What the tensors of a checkpoint say: by their shapes, by their presence and, of tied embeddings, by their values."""

from __future__ import annotations

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.keymap.layouts import LAYOUTS
from kinfold.scaffold.spec.config import Config, note_key
from kinfold.scaffold.spec.config_keys import SPELLINGS
from kinfold.scaffold.spec.facts import Findings
from kinfold.scaffold.spec.tensors import TensorIndex

_LAYER = "decoder.layers.{layer}."
_EMBED = "decoder_frontend.embed.weight"
_OUTPUT = "final_proj.weight"

_REQUIRED = {
    _EMBED: 2,
    "decoder.layer_norm.weight": 1,
    **{f"{_LAYER}{name}.weight": 1 for name in ("self_attn_layer_norm", "ffn_layer_norm")},
    **{f"{_LAYER}self_attn.{name}_proj.weight": 2 for name in ("q", "k", "v", "output")},
    **{f"{_LAYER}ffn.{name}_proj.weight": 2 for name in ("gate", "inner", "output")},
}
"""What every Llama-shaped decoder has, and with how many dimensions."""

_OPTIONAL = {
    "attention.qkv_bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attention.output_bias": ("self_attn.output_proj.bias",),
    "attention.qk_norm": ("self_attn.q_norm.weight", "self_attn.k_norm.weight"),
    "ffn.bias": ("ffn.gate_proj.bias", "ffn.inner_proj.bias", "ffn.output_proj.bias"),
}
"""Facts that stand or fall with the presence of tensors in the layers."""


def note_shapes(index: TensorIndex, config: Config, findings: Findings) -> None:
    """Note the sizes; where tensors are missing or misshapen, only that."""
    faults = []
    for native, dims in _REQUIRED.items():
        found = index.one(native)
        if found is None:
            faults.append(f"no tensor is called {LAYOUTS['decoder'][index.layout][native]}")
        elif len(found[1]) != dims:
            faults.append(f"tensor {found[0]} {found[1]}: {dims} dimensions were expected")
    findings.faults += faults
    if faults:
        return
    evidence, (vocab_size, model_dim) = _shape(index, _EMBED)
    findings.note("vocab_size", vocab_size, evidence)
    findings.note("model_dim", model_dim, evidence)
    evidence, (inner_dim, _) = _shape(index, f"{_LAYER}ffn.inner_proj.weight")
    findings.note("ffn_inner_dim", inner_dim, evidence)
    evidence, _ = _shape(index, f"{_LAYER}ffn.gate_proj.weight")
    findings.note("ffn.kind", "gated", evidence)
    findings.note("num_layers", len(index.layers()), f"layers 0 to {max(index.layers())}, as in {evidence}")
    _note_heads(index, config, findings)
    _note_presence(index, findings)


def note_tying(checkpoint: Checkpoint, index: TensorIndex, findings: Findings) -> None:
    """Note whether the output projection is the embedding."""
    embed, output = index.one(_EMBED), index.one(_OUTPUT)
    said = findings.facts.pop("tied_embeddings", None)
    if embed is None:
        return
    if output is None:
        findings.note("tied_embeddings", True, "no output projection among the tensors")
    elif (said is None or said.value) and embed[1] == output[1] and _same_values(checkpoint, embed[0], output[0]):
        findings.note("tied_embeddings", True, f"{output[0]} repeats {embed[0]}")
        findings.note("repeats_embedding", True, f"{output[0]} repeats {embed[0]}")
    else:
        findings.note("tied_embeddings", False, f"{output[0]} {output[1]}")
    if said is not None:
        findings.note("tied_embeddings", said.value, said.evidence)


def _note_heads(index: TensorIndex, config: Config, findings: Findings) -> None:
    """The width of a head, which shapes alone give only where there is a norm per head; then the numbers of heads."""
    q_evidence, (q_dim, _) = _shape(index, f"{_LAYER}self_attn.q_proj.weight")
    kv_evidence, (kv_dim, _) = _shape(index, f"{_LAYER}self_attn.k_proj.weight")
    if index.one(f"{_LAYER}self_attn.q_norm.weight"):
        evidence, (width, *_) = _shape(index, f"{_LAYER}self_attn.q_norm.weight")
        findings.note("head_dim", width, evidence)
    for key in SPELLINGS["head_dim"]:
        note_key("head_dim", key, config, findings)
    for key in SPELLINGS["num_heads"]:
        heads = config.get(key)
        if "head_dim" not in findings.facts and isinstance(heads, int) and heads > 0 and q_dim % heads == 0:
            findings.note("head_dim", q_dim // heads, f"{q_evidence}, {key} = {heads}")
    head_dim = findings.value("head_dim")
    if head_dim is None:
        known = ", ".join((*SPELLINGS["head_dim"], *SPELLINGS["num_heads"]))
        findings.faults.append(f"head_dim: neither shapes nor config say (known spellings: {known})")
        return
    for name, rows, evidence in (("num_heads", q_dim, q_evidence), ("num_kv_heads", kv_dim, kv_evidence)):
        if rows % head_dim:
            findings.faults.append(f"{name}: {evidence} has {rows} rows, which head_dim {head_dim} does not divide")
        else:
            findings.note(name, rows // head_dim, f"{evidence}, head_dim {head_dim}")


def _note_presence(index: TensorIndex, findings: Findings) -> None:
    for name, leaves in _OPTIONAL.items():
        present = [leaf for leaf in leaves if index.one(_LAYER + leaf)]
        if present and len(present) < len(leaves):
            findings.faults.append(f"{name}: of {', '.join(leaves)} there is only {', '.join(present)}")
        evidence = _shape(index, _LAYER + present[0])[0] if present else f"no {leaves[0]} in any layer"
        findings.note(name, bool(present), evidence)


def _shape(index: TensorIndex, native: str) -> tuple[str, tuple[int, ...]]:
    """The first tensor of a pattern as evidence, and its shape."""
    name, shape = index.one(native) or ("", ())
    return f"{name} {shape}", shape


def _same_values(checkpoint: Checkpoint, *names: str) -> bool:
    import torch

    return torch.equal(*(checkpoint.tensor(name) for name in names))
