"""What a layer is put together from, by the modules that it has and by their shapes."""

from __future__ import annotations

from kinfold.scaffold.reading.config import Config, heads_said
from kinfold.scaffold.reading.facts import Findings
from kinfold.scaffold.reading.roles import Roles
from kinfold.scaffold.reading.tensors import Leaf

_MATRICES = {"q": 1, "k": 1, "v": 1, "qkv": 1, "up": 1, "ffn_gate": 1, "gate_up": 1, "up_gate": 1, "o": 0, "down": 0}
"""Matrices of a layer, and the dimension in which they have the width of the model if they are not transposed."""


def settle_layers(roles: Roles) -> None:
    """Give the modules in layers whose names do not say enough the roles that their places and shapes say."""
    _settle_feed_forward(roles)
    _settle_norms(roles)
    gates = [
        *roles.others.pop("layer.gate", []),
        *([roles.modules["layer.gate"]] if "layer.gate" in roles.modules else []),
    ]
    for module in gates:
        roles.take("layer.gate" if len(module.weight.shape) == 2 else "layer.gate_bias", module)
    for modules in roles.others.values():
        for module in modules:
            roles.leftovers += [f"tensor {leaf.evidence}: not understood" for leaf in module.leaves.values()]


def note_layers(roles: Roles, config: Config, findings: Findings) -> None:
    """Note everything that modules and shapes say about the layers."""
    findings.note("num_layers", len(roles.layers), f"layers 0 to {max(roles.layers, default=-1)}")
    missing = _missing(roles)
    if missing:
        findings.faults += [f"no tensor in the layers is {what}" for what in missing]
        return
    transposed = _transposed(roles, findings)
    if "layer.kv_down" in roles.modules:
        _note_latent(roles, config, findings)
    else:
        _note_attention(roles, config, findings, transposed=transposed)
    _note_attention_parts(roles, findings)
    _note_feed_forward(roles, findings, transposed=transposed)
    _note_norm_parts(roles, findings)


def _settle_feed_forward(roles: Roles) -> None:
    """Matrices in a feed-forward network that only a number tells apart: the first goes in, the last comes out."""
    modules = sorted(roles.others.pop("ffn", []), key=lambda module: module.pattern)
    matrices = [module for module in modules if len(module.weight.shape) == 2]
    if "layer.down" not in roles.modules and "layer.up" not in roles.modules and len(matrices) in (2, 3):
        names = ("up", "down") if len(matrices) == 2 else ("ffn_gate", "up", "down")
        for name, module in zip(names, matrices, strict=True):
            roles.take(f"layer.{name}", module)
            modules.remove(module)
    if modules:
        roles.others["ffn"] = modules


def _settle_norms(roles: Roles) -> None:
    """Norms that lie in the module of a projection out of it are norms before that projection."""
    for role, inner in (("layer.o", "attn"), ("layer.down", "ffn")):
        projection = roles.modules.get(role)
        place = projection.pattern.rpartition(".")[0] if projection else ""
        found = [norm for norm in roles.norms if norm.pattern.rpartition(".")[0] == place and "}." in norm.pattern]
        beside = any(norm.pattern.rpartition(".")[0] != place for norm in roles.norms)
        if len(found) == 1 and beside and place.count(".") > found[0].pattern.split("{layer}")[0].count("."):
            roles.inner_norms[inner] = found[0]
            roles.norms.remove(found[0])


def _missing(roles: Roles) -> list[str]:
    has = {role.removeprefix("layer.") for role, module in roles.modules.items() if "weight" in module.leaves}
    missing = []
    if not ("qkv" in has or {"q", "k", "v"} <= has or {"kv_down", "kv_up"} <= has):
        missing.append("a projection to queries, keys and values")
    if "o" not in has:
        missing.append("an output projection of attention")
    if not ({"up", "down"} <= has or ({"gate_up", "down"} <= has) or ({"up_gate", "down"} <= has)):
        missing.append("a feed-forward network")
    return missing


def _transposed(roles: Roles, findings: Findings) -> bool:
    """Whether matrices are (in, out), as in GPT-2's Conv1D, by those that are not square."""
    width = findings.value("model_dim")
    said: dict[bool, Leaf] = {}
    for name, dim in _MATRICES.items():
        leaf = roles.leaf(f"layer.{name}")
        if leaf is not None and len(leaf.shape) == 2 and leaf.shape[0] != leaf.shape[1] and width in leaf.shape:
            said.setdefault(leaf.shape[dim] != width, leaf)
    if len(said) > 1:
        findings.faults.append(f"{said[True].evidence} is (in, out), but {said[False].evidence} is (out, in)")
    elif True in said:
        findings.note("transposed", True, f"{said[True].evidence}: (in, out)")
    return findings.value("transposed", False)


def sides(leaf: Leaf, *, transposed: bool) -> tuple[int, int]:
    """What a matrix gives and takes."""
    out, into = leaf.shape[-2:]
    return (into, out) if transposed else (out, into)


def _note_attention(roles: Roles, config: Config, findings: Findings, *, transposed: bool) -> None:
    output = roles.leaf("layer.o")
    fused = roles.leaf("layer.qkv")
    if output is None:
        return
    if fused is not None:
        q_dim = sides(output, transposed=transposed)[1]
        rows = sides(fused, transposed=transposed)[0]
        if rows <= q_dim or (rows - q_dim) % 2:
            findings.faults.append(f"{fused.evidence} and {output.evidence} do not go together")
            return
        dims = {"q": (q_dim, output), "k": ((rows - q_dim) // 2, fused)}
    else:
        dims = {
            name: (sides(leaf, transposed=transposed)[0], leaf)
            for name in ("q", "k")
            if (leaf := roles.leaf(f"layer.{name}"))
        }
    _note_heads(roles, dims, config, findings)


def _note_heads(roles: Roles, dims: dict[str, tuple[int, Leaf]], config: Config, findings: Findings) -> None:
    """The width of a head, which shapes alone give only where each head has something; then the numbers of heads."""
    (q_dim, q), (kv_dim, kv) = dims["q"], dims["k"]
    norm = roles.leaf("layer.q_norm")
    if norm is not None and norm.shape[-1] < q_dim:
        findings.note("head_dim", norm.shape[-1], norm.evidence)
    lambdas = roles.leaf("layer.lambda_q1")
    if lambdas is not None:
        findings.note("head_dim", lambdas.shape[0], lambdas.evidence)
    for role in ("layer.sinks", "layer.gate_bias"):
        leaf = roles.modules[role].weight if role in roles.modules else None
        if leaf is not None and q_dim % leaf.shape[0] == 0:
            findings.note("head_dim", q_dim // leaf.shape[0], f"{leaf.evidence}, {q.evidence}")
    heads_said(config, q_dim, q.evidence, findings)
    head_dim = findings.value("head_dim")
    if head_dim is None:
        findings.faults.append("head_dim: neither shapes nor config say")
        return
    for name, rows, leaf in (("num_heads", q_dim, q), ("num_kv_heads", kv_dim, kv)):
        if rows % head_dim:
            findings.faults.append(f"{name}: head_dim {head_dim} does not divide the {rows} rows of {leaf.evidence}")
        else:
            findings.note(name, rows // head_dim, f"{leaf.evidence}, head_dim {head_dim}")


def _note_latent(roles: Roles, config: Config, findings: Findings) -> None:
    """Multi-head latent attention, of which the widths of a head's parts stand in the config."""
    down, up = roles.leaf("layer.kv_down"), roles.leaf("layer.kv_up")
    query, output = roles.leaf("layer.q_up") or roles.leaf("layer.q"), roles.leaf("layer.o")
    norm = roles.leaf("layer.kv_latent_norm")
    if down is None or up is None or query is None or output is None or norm is None:
        findings.faults.append("latent attention is not complete: kv_a, kv_b, q, o and a norm of the latent vectors")
        return
    findings.note("attention.kind", "latent", down.evidence)
    findings.note("kv_latent_dim", norm.shape[0], norm.evidence)
    findings.note("rotary_dim", down.shape[0] - norm.shape[0], f"{down.evidence}, {norm.evidence}")
    latent = roles.leaf("layer.q_up")
    if latent is not None:
        findings.note("q_latent_dim", latent.shape[1], latent.evidence)
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int) or heads <= 0 or query.shape[0] % heads or output.shape[1] % heads:
        findings.faults.append(f"num_attention_heads = {heads!r} does not fit {query.evidence} and {output.evidence}")
        return
    findings.note("num_heads", heads, f"num_attention_heads = {heads}")
    findings.note("head_dim", query.shape[0] // heads, f"{query.evidence}, num_attention_heads = {heads}")
    findings.note("value_head_dim", output.shape[1] // heads, f"{output.evidence}, num_attention_heads = {heads}")


def _note_attention_parts(roles: Roles, findings: Findings) -> None:
    """Biases, norms, gates and sinks."""
    fused = roles.leaf("layer.qkv", "bias")
    biased = ("q", "k", "v") if fused else tuple(n for n in ("q", "k", "v") if roles.leaf(f"layer.{n}", "bias"))
    evidence = fused or (roles.leaf(f"layer.{biased[0]}", "bias") if biased else None)
    findings.note(
        "attention.qkv_bias", (len(biased) == 3) or biased or False, evidence.evidence if evidence else "no such bias"
    )
    bias = roles.leaf("layer.o", "bias")
    if bias is None or set(bias.shapes) == roles.layers:
        findings.note("attention.output_bias", bias is not None, bias.evidence if bias else "no such bias")
    elif set(bias.shapes) == {max(roles.layers)}:
        findings.note("attention.output_bias", "last", f"{bias.evidence}, in no other layer")
    else:
        findings.leftovers.append(f"tensor {bias.evidence}: only layers {sorted(bias.shapes)} have it")
    for role, name in (("sinks", "attention.sinks"), ("gate_bias", "attention.gate_bias")):
        if f"layer.{role}" in roles.modules:
            findings.note(name, True, roles.modules[f"layer.{role}"].weight.evidence)
    gate = roles.leaf("layer.gate")
    if gate is not None:
        per_head = gate.shape[0] == findings.value("num_heads")
        findings.note("attention.gate", "headwise" if per_head else "elementwise", gate.evidence)
    if "layer.cross_q" in roles.modules:
        findings.note("attention.to_encoder", True, roles.modules["layer.cross_q"].weight.evidence)
    if "layer.mask_proj" in roles.modules and "layer.mask_rate" in roles.modules:
        findings.note("attention.dynamic_mask", True, roles.modules["layer.mask_proj"].weight.evidence)
    latent = roles.leaf("layer.kv_down", "bias") or roles.leaf("layer.q_down", "bias")
    if "layer.kv_down" in roles.modules:
        findings.note("attention.latent_bias", latent is not None, latent.evidence if latent else "no such bias")
    if "attn" in roles.inner_norms:
        findings.note("attention.output_norm", True, roles.inner_norms["attn"].weight.evidence)
    if roles.leaf("layer.lambda_q1") is not None:
        findings.note("attention.kind", "differential", roles.modules["layer.lambda_q1"].weight.evidence)
    elif findings.value("attention.kind") is None:
        findings.note("attention.kind", "dot_product", "projections to queries, keys and values")


def _note_feed_forward(roles: Roles, findings: Findings, *, transposed: bool) -> None:
    down, up = roles.leaf("layer.down"), roles.leaf("layer.up")
    fused = roles.leaf("layer.gate_up") or roles.leaf("layer.up_gate")
    if down is None:
        return
    inner = sides(down, transposed=transposed)[1]
    findings.note("ffn_inner_dim", inner, down.evidence)
    gate = roles.leaf("layer.ffn_gate")
    if up is not None and gate is None and sides(up, transposed=transposed)[0] == 2 * inner:
        fused = up  # a fused projection whose name does not say so
        roles.take("layer.gate_up", roles.modules.pop("layer.up"))
    gated = gate or fused
    findings.note("ffn.kind", "gated" if gated else "plain", gated.evidence if gated else f"{down.evidence}, no gate")
    biases = [leaf for role in ("up", "gate_up", "up_gate", "down") if (leaf := roles.leaf(f"layer.{role}", "bias"))]
    findings.note("ffn.bias", bool(biases), biases[0].evidence if biases else "no such bias")
    if len(biases) == 1:
        findings.faults.append(f"ffn.bias: there is only {biases[0].evidence}")
    if "ffn" in roles.inner_norms:
        findings.note("ffn.inner_norm", True, roles.inner_norms["ffn"].weight.evidence)
    alpha = roles.leaf("layer.alpha_p")
    if alpha is not None:
        findings.note("ffn.activation", "xielu", alpha.evidence)


def _note_norm_parts(roles: Roles, findings: Findings) -> None:
    """What norms have, and where they stand as far as their number says."""
    count = len(roles.norms)
    first = roles.norms[0] if roles.norms else None
    if first is None:
        findings.note("norm.weight", "none", "no norm in any layer has a parameter")
    else:
        bias = first.leaves.get("bias")
        findings.note("norm.bias", bias is not None, bias.evidence if bias else f"{first.weight.evidence}, no bias")
        if first.layers != roles.layers and first.layers == roles.layers - {0} and len(roles.layers) > 1:
            findings.note("norm.first", False, f"{first.pattern} is missing in layer 0")
        elif first.layers != roles.layers:
            findings.leftovers.append(f"{first.pattern}: only layers {sorted(first.layers)} have it")
    if count > 4 or count == 3:
        findings.faults.append(f"{count} norms in a layer: {', '.join(norm.pattern for norm in roles.norms)}")
    residual = roles.leaf("layer.attn_residual")
    if residual is not None:
        findings.note("residual.weights", "learned", residual.evidence)
