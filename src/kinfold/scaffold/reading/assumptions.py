"""What neither names, shapes nor config say: assumed as is usual, with what else it could be."""

from __future__ import annotations

from kinfold.checkpoint import Checkpoint
from kinfold.scaffold.keymap.settling.conventions import fused_convention, rotary_convention
from kinfold.scaffold.reading.config import Config
from kinfold.scaffold.reading.config_keys import GGUF_ROTARY_PAIRS, INTERLEAVED
from kinfold.scaffold.reading.facts import Findings
from kinfold.scaffold.reading.mapping import GATE_LAYOUTS, QKV_LAYOUTS
from kinfold.scaffold.reading.roles import Roles
from kinfold.scaffold.spec.scaling import PowerQueryScaling
from kinfold.scaffold.spec.sizes import Sizes


def note_assumptions(roles: Roles, checkpoint: Checkpoint, config: Config, findings: Findings) -> None:
    """Assume what is left, and ask about it."""
    findings.ask("who sees whom", {"causal": True}, why="a token sees those before it, as in every decoder")
    _note_rotary_pairs(checkpoint, config, findings)
    _note_fused(roles, findings)
    _note_norms(roles, checkpoint, findings)
    _note_scales(roles, findings)
    _note_norm_of_embeddings(findings)
    _note_growing_queries(findings)
    _note_activation(findings)
    _note_numbers(findings)


def _note_rotary_pairs(checkpoint: Checkpoint, config: Config, findings: Findings) -> None:
    """Which dimensions of a head turn together: in GGUF a property of the architecture's files."""
    if findings.value("position.kind") != "rotary":
        return
    about, halves, pairs = "which dimensions turn together", {"rotary_pairs": "halves"}, {"rotary_pairs": "interleaved"}
    if checkpoint.layout == "gguf":
        architecture = str(config.get("general.architecture"))
        known = ", ".join(GGUF_ROTARY_PAIRS)
        if architecture in GGUF_ROTARY_PAIRS:
            evidence = f"general.architecture = {architecture}"
            findings.note("rotary_pairs", GGUF_ROTARY_PAIRS[architecture], evidence)
        else:
            why = f"how files of general.architecture = {architecture!r} pair them is not known (known: {known})"
            findings.ask(about, halves, pairs, why=why)
        return
    said = rotary_convention(checkpoint.manifest)
    interleave = next((key for key in INTERLEAVED if config.get(key) is True), None)
    if interleave:
        findings.note("rotary_pairs", "interleaved", f"{interleave} = True")
    elif said is not None and said[0] == "interleaved":
        findings.note("rotary_pairs", *said)
    elif "position.reversed" in findings.facts:
        findings.ask(about, halves, why="as Hugging Face writes")
    else:
        turned = {"rotary_pairs": "halves", "position.reversed": True}
        answers = ({**halves, "position.reversed": False}, {**pairs, "position.reversed": False}, turned)
        findings.ask(about, *answers, why="as Hugging Face writes")


def _note_fused(roles: Roles, findings: Findings) -> None:
    """How the parts of fused projections lie."""
    fused = roles.leaf("layer.qkv")
    if fused is not None and findings.value("num_kv_heads") == 1:
        findings.note("qkv_layout", QKV_LAYOUTS[0], f"{fused.evidence}, one key-value head")
    elif fused is not None:
        said = fused_convention(fused.pattern)
        by_heads = said is not None and said[0] != "one after the other"
        first = by_heads or (said is None and "query_key_value" in fused.pattern)
        layouts = (QKV_LAYOUTS[1], QKV_LAYOUTS[0]) if first else QKV_LAYOUTS[:2]
        if isinstance(heads := findings.value("num_heads"), int) and heads % 4 == 0:
            layouts = (*layouts, QKV_LAYOUTS[2])
        why = f"as in {said[1]}" if said else f"by its name {fused.pattern}"
        findings.ask("how q, k and v lie", *({"qkv_layout": layout} for layout in layouts), why=why)
    if "layer.gate_up" in roles.modules or "layer.up_gate" in roles.modules:
        layouts = GATE_LAYOUTS if "layer.gate_up" in roles.modules else GATE_LAYOUTS[::-1]
        findings.ask("how gate and up lie", *({"gate_layout": layout} for layout in layouts), why="by its name")


def _note_norms(roles: Roles, checkpoint: Checkpoint, findings: Findings) -> None:
    """What norms are computed by, and what multiplies."""
    if "norm.kind" not in findings.facts or findings.facts["norm.kind"].assumed:
        if findings.value("norm.bias"):
            findings.note("norm.kind", "layer", "norms have biases")
        else:
            kinds = ("rms", "layer") if roles.norms or roles.leaf("final_norm") else ("layer", "rms")
            findings.ask("the kind of norms", *({"norm.kind": kind} for kind in kinds), why="as most do")
    offset = _often_negative(roles, checkpoint)
    weights = ("offset", "plain") if offset else ("plain", "offset")
    if roles.norms or roles.leaf("final_norm"):
        why = "weights of norms are often negative" if offset else "weights of norms are mostly positive"
        findings.ask("what norms multiply by", *({"norm.weight": weight} for weight in weights), why=why)
    _note_qk_norms(roles, findings)
    if not roles.norms and "embedding.norm" not in findings.facts:
        why = "no norm has a parameter"
        findings.ask("a norm on embeddings", {"embedding.norm": False}, {"embedding.norm": True}, why=why)


def _note_qk_norms(roles: Roles, findings: Findings) -> None:
    """Norms of queries and keys, which without weights no tensor shows."""
    q, k = roles.modules.get("layer.q_norm"), roles.modules.get("layer.k_norm")
    latent = findings.value("attention.kind") == "latent"
    if (q is None) != (k is None) and not latent:
        findings.faults.append("attention.qk_norm: of the norms of q and k there is only one")
    if q is None or latent:
        norm = {"kind": findings.value("norm.kind"), "weight": "none"}
        if not roles.norms and not latent:
            after, before = {**norm, "after_position": True}, {**norm, "after_position": False}
            answers = ({"attention.qk_norm": value} for value in (False, after, before))
            findings.ask("norms of q and k", *answers, why="no such norm has a parameter")
        else:
            findings.note("attention.qk_norm", False, "no norm of q and k in any layer")
        return
    weight = q.weight
    heads, head_dim = findings.value("num_heads", 0), findings.value("head_dim", 0)
    each = len(weight.shape) == 2 or weight.heads > 0
    over = "each_head" if each else "head" if weight.shape[-1] == head_dim else "width"
    if over == "width" and weight.shape[-1] != heads * head_dim:
        findings.faults.append(f"{weight.evidence} is as wide as neither a head ({head_dim}) nor all ({heads} of them)")
    kinds = ["layer"] if "bias" in q.leaves else list(dict.fromkeys([findings.value("norm.kind", "rms"), "rms"]))
    answers = (
        {"kind": kind, "over": over, "bias": "bias" in q.leaves, "after_position": after}
        for after in (False, True)
        for kind in kinds
    )
    findings.ask("norms of q and k", *({"attention.qk_norm": answer} for answer in answers), why=weight.evidence)


def _note_scales(roles: Roles, findings: Findings) -> None:
    """Numbers that some models multiply by, and most do not."""
    about = "the scale of embeddings"
    if "embedding_scale" not in findings.facts:
        offset = findings.value("norm.weight") == "offset" and findings.value("norm.kind") == "rms"  # as in Gemma
        first = offset or findings.value("position.kind") == "sinusoidal"  # as in Vaswani et al. 2017
        answers = [{"embedding.scaled": False}, {"embedding.scaled": True}]
        findings.ask(about, *(answers[::-1] if first else answers), why="the config does not say")
    if "attention_scale" not in findings.facts:
        answers = ({"attention_scale": None}, {"attention_scale": 1.0})
        findings.ask("the scale of scores", *answers, why="Vaswani et al. 2017, section 3.2.1")
    if findings.value("position.kind") == "alibi":
        answers = ({"position.scaled": False}, {"position.scaled": True})
        findings.ask("whether scores are scaled after positions are added", *answers, why="as in the paper")


def _note_numbers(findings: Findings) -> None:
    """Numbers that configs do not say, or that code does not use although they do."""
    usual = ({"norm_eps": 1e-5}, {"norm_eps": 1e-6}, {"norm_eps": 1e-12})
    if "norm_eps" in findings.facts:
        findings.doubt("what norms add", *usual)
    else:
        findings.ask("what norms add", *usual, why="the config does not say")
    for name, without in (("attention_cap", None), ("qkv_clip", None), ("logit_scale", 1.0)):
        if findings.value(name, without) != without and not findings.facts[name].assumed:
            findings.doubt(f"whether {name} is used", {name: findings.value(name)}, {name: without})
    if findings.value("attention.kind") == "latent":
        eps = ({"latent_norm_eps": value} for value in dict.fromkeys((1e-6, findings.value("norm_eps"))))
        findings.ask("what norms of latent vectors add", *eps, why="as in DeepSeek-V2's code")
    if "max_seq_len" not in findings.facts:
        findings.ask("the longest sequence", {"max_seq_len": Sizes().max_seq_len}, why="the config does not say")


def _note_norm_of_embeddings(findings: Findings) -> None:
    """Whether embeddings pass their norm before the vectors of positions are added, as in Blenderbot's small form."""
    if findings.value("embedding.norm") and findings.value("position.kind") in ("learned", "sinusoidal"):
        answers = ({"embedding.norm_first": False}, {"embedding.norm_first": True})
        findings.ask("whether the norm on embeddings comes before positions", *answers, why="as in most")


def _note_growing_queries(findings: Findings) -> None:
    """Layers that turn nothing may have queries that grow with their positions, and residuals that count by depth."""
    all_turn = findings.value("turning_layers", "all") == "all"
    all_turn = all_turn and 0 not in (findings.value("rope_theta"), findings.value("windowed_rope_theta"))
    if "query_scaling" in findings.facts or all_turn:
        return
    grown = {"query_scaling": PowerQueryScaling(exponent=0.1, interval=2048), "attention.scaled_queries": "unturned"}
    plain = {"query_scaling": None, "attention.scaled_queries": "all"}
    findings.ask("whether queries of layers without positions grow", plain, grown, why="as most do not")
    answers = ({"residual.weights": "none"}, {"residual.weights": "depth"})
    if findings.value("norm.order") == "both":
        findings.ask("what residuals are multiplied by", *answers, why="as most do")


def _note_activation(findings: Findings) -> None:
    """The activation, and the two forms of GELU, which configs call by one name."""
    name = findings.value("ffn.activation")
    if name is None:
        gated = findings.value("ffn.kind") == "gated"
        plain = ("gelu", "gelu_tanh", "relu", "relu2")
        if findings.value("position.kind") == "sinusoidal":  # as in Vaswani et al. 2017
            plain = ("relu", "gelu", "gelu_tanh", "relu2")
        found = ("silu", "gelu", "gelu_tanh") if gated else plain
        findings.ask("the activation", *({"ffn.activation": kind} for kind in found), why="the config does not say")
    elif name in ("gelu", "gelu_tanh"):
        evidence = findings.facts.pop("ffn.activation").evidence
        forms = (name, "gelu" if name == "gelu_tanh" else "gelu_tanh")
        findings.ask("the form of GELU", *({"ffn.activation": form} for form in forms), why=evidence)


def _often_negative(roles: Roles, checkpoint: Checkpoint) -> bool:
    """Whether the weights of the last norm are so often negative that something is likely added to them."""
    leaf = roles.leaf("final_norm") or (roles.norms[0].weight if roles.norms else None)
    if leaf is None:
        return False
    name = leaf.pattern.replace("{layer}", str(min(leaf.shapes)))
    return name in checkpoint.manifest and float((checkpoint.tensor(name) < 0).float().mean()) > _OFTEN


_OFTEN = 0.2
