"""What stands before and behind the layers: embeddings, the last norm, the output projection."""

from __future__ import annotations

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.reading.facts import Findings
from kinfold.scaffold.reading.roles import Module, Roles
from kinfold.scaffold.reading.tensors import Leaf


def settle_ends(roles: Roles) -> None:
    """Give the modules outside the layers whose names do not say enough the roles that their shapes say."""
    top = roles.others.pop("top", []) + roles.others.pop("output", []) + roles.others.pop("embed", [])
    width = _width(roles)
    if "embed" not in roles.modules:
        tables = [module for module in top if len(module.weight.shape) == 2 and "weight" in module.leaves]
        if tables:
            table = max(tables, key=lambda module: module.weight.shape[0])
            top.remove(table)
            roles.take("embed", table)
    embed = roles.leaf("embed")
    output = roles.modules.get("output")
    if output and embed and output.weight.shape[0] not in (embed.shape[0], *_padded(embed)) and width:
        top.append(roles.modules.pop("output"))
    for module in list(top):
        role = _role_at_end(module, roles, width)
        if role == "output" and role in roles.modules:
            roles.modules["output"].leaves.update(module.leaves)
        elif role and role not in roles.modules:
            roles.take(role, module)
        else:
            roles.leftovers += [f"tensor {leaf.evidence}: not understood" for leaf in module.leaves.values()]


def note_ends(roles: Roles, checkpoint: Checkpoint, findings: Findings) -> None:
    """Note the sizes of vocabulary and model, norms at the ends, and how logits are made."""
    embed = roles.leaf("embed")
    if embed is None:
        findings.faults.append("no tensor is an embedding of tokens")
        return
    vocab_size, width = embed.shape
    findings.note("vocab_size", vocab_size, embed.evidence)
    inner = roles.leaf("project_in")
    if inner is not None:
        findings.note("model_dim", inner.shape[0], inner.evidence)
        findings.note("embedding_dim", width, embed.evidence)
    else:
        findings.note("model_dim", width, embed.evidence)
    for role, name in (("embed_norm", "embedding.norm"), ("transform", "output.transform")):
        module = roles.modules.get(role)
        if module is not None:
            findings.note(name, True, module.weight.evidence)
    if roles.leaf("transform", "bias"):
        findings.note("output.transform_bias", True, roles.modules["transform"].leaves["bias"].evidence)
    bias = roles.leaf("output", "bias")
    if bias is not None:
        findings.note("output.bias", True, bias.evidence)
    final = roles.modules.get("final_norm")
    findings.note("norm.final", final is not None, final.weight.evidence if final else "no norm after the layers")
    _note_tying(roles, checkpoint, findings)


def _note_tying(roles: Roles, checkpoint: Checkpoint, findings: Findings) -> None:
    """Note whether the output projection is the embedding."""
    embed, output = roles.leaf("embed"), roles.leaf("output")
    if embed is None:
        return
    if output is None:
        findings.note("tied_embeddings", True, "no output projection among the tensors")
        return
    said = checkpoint.config.get("tie_word_embeddings")
    if said is not False and embed.shape == output.shape and _same_values(checkpoint, embed.pattern, output.pattern):
        findings.note("tied_embeddings", True, f"{output.pattern} repeats {embed.pattern}")
        findings.note("repeats_embedding", True, f"{output.pattern} repeats {embed.pattern}")
    else:
        findings.note("tied_embeddings", False, output.evidence)


def _role_at_end(module: Module, roles: Roles, width: int) -> str:
    """The role of a module outside the layers, by its shape."""
    embed = roles.leaf("embed")
    leaf = module.weight
    if embed is None:
        return ""
    if list(module.leaves) == ["bias"] and leaf.shape == (embed.shape[0],):
        return "output"
    if len(leaf.shape) != 2:
        return ""
    if leaf.shape == (width, width):
        return "transform"
    if embed.shape[1] != width:
        return {(width, embed.shape[1]): "project_in", (embed.shape[1], width): "project_out"}.get(leaf.shape, "")
    return "output" if leaf.shape[0] == embed.shape[0] else ""


def _width(roles: Roles) -> int:
    """The width of the residual stream, by the projections into it."""
    for role in ("layer.down", "layer.o"):
        bias = roles.leaf(role, "bias")
        if bias is not None:
            return bias.shape[-1]
    for norm in (*roles.norms, *(m for r, m in roles.modules.items() if r == "final_norm")):
        return norm.weight.shape[-1]
    down, up = roles.leaf("layer.down"), roles.leaf("layer.up") or roles.leaf("layer.gate_up")
    if down is not None and up is not None:
        return next((size for size in down.shape if size in up.shape and size != max(down.shape)), down.shape[0])
    embed = roles.leaf("embed")
    return embed.shape[1] if embed else 0


def _padded(embed: Leaf) -> tuple[int, ...]:
    """Numbers of rows that an output projection with a filled-up vocabulary has."""
    return tuple(-(-embed.shape[0] // multiple) * multiple for multiple in (64, 128, 256))


def _same_values(checkpoint: Checkpoint, *names: str) -> bool:
    import torch

    return torch.equal(*(checkpoint.tensor(name) for name in names))
