"""GGUF's names: the `gguf` package's tables of which tensor of which family becomes which tensor of a GGUF file.

The tables are read twice. For families that transformers has, `TensorNameMap.get_name` is asked about each tensor of
a real, small model. For the others, the comments in the source of `gguf.tensor_mapping` say which family uses which
name; they give names without a model, and the shapes come from the kind of tensor.
"""

from __future__ import annotations

import functools
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gguf import tensor_mapping
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, MODEL_TENSOR, TENSOR_NAMES
from transformers import CONFIG_MAPPING

from kinfold.checkpoint import TensorInfo
from truth.case import Case
from truth.conversion_mapping import manifest, model_classes, quiet, saved_tensors, tiny_models

SKIPPED: dict[str, str] = {}
"""Families that give no case, and why; filled by `cases`."""

LEAST = 0.8
"""The share of a model's tensors that GGUF has to have names for."""

FEWEST = 6
"""The names that a family needs to have in the comments."""

BLOCKS, EXPERTS = 3, 4
"""How many blocks and experts a family has that there is no model of."""

SUFFIXES = (".weight", ".bias")

COVERS: Mapping[str, tuple[str, ...]] = {
    "llama": ("llama", "mistral", "mixtral", "ministral"),
    "bert": ("bert", "roberta", "distilbert"),
    "gptneox": ("gpt_neox",),
    "starcoder": ("gpt_bigcode",),
    "phi2": ("phi",),
    "command-r": ("cohere",),
    "mamba": ("mamba", "falcon_mamba"),
    "olmo2": ("olmo2", "olmo3"),
    "deepseek2": ("deepseek_v2", "deepseek_v3", "glm4_moe_lite"),
    "chatglm": ("glm",),
    "glm-dsa": ("glm_moe_dsa",),
    "t5": ("t5", "mt5", "umt5"),
    "granitemoe": ("granitemoe", "granitemoeshared"),
    "granitehybrid": ("granitemoehybrid",),
    "hunyuan-moe": ("hunyuan_v1_moe",),
    "hunyuan-dense": ("hunyuan_v1_dense",),
    "mistral3": ("ministral3",),
    "mimo2": ("mimo_v2_flash",),
    "paddleocr": ("paddleocr_vl_text",),
    "qwen2vl": ("qwen2_vl_text", "qwen2_5_vl_text"),
    "step35": ("step3p5",),
    "nemotron_h_moe": (),  # as nemotron_h, whose blocks it has
}
"""The model types of transformers that an architecture of GGUF covers, where their names do not say so."""

D, Q, KV, QKV, F, E, V = 64, 64, 32, 128, 96, 4, 256
LATENT, ROPE, STATE, DT, RANK = 16, 8, 16, 4, 8

SHAPES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("TOKEN_EMBD", "OUTPUT"), (V, D)), "POS_EMBD": (128, D), "TOKEN_TYPES": (2, D),
    **dict.fromkeys((
        "TOKEN_EMBD_NORM", "OUTPUT_NORM", "ENC_OUTPUT_NORM", "DEC_OUTPUT_NORM", "LAYER_OUT_NORM",
        "ATTN_NORM", "ATTN_NORM_2", "ATTN_OUT_NORM", "ATTN_POST_NORM", "ATTN_SUB_NORM", "FFN_NORM", "FFN_PRE_NORM",
        "FFN_PRE_NORM_2", "FFN_POST_NORM", "FFN_POST_NORM_1", "FFN_POST_NORM_2", "ENC_ATTN_NORM", "ENC_FFN_NORM",
        "DEC_ATTN_NORM", "DEC_CROSS_ATTN_NORM", "DEC_FFN_NORM", "TIME_MIX_LN", "CLS_NORM",
    ), (D,)),
    "FFN_SUB_NORM": (F,), "ATTN_Q_NORM": (16,), "ATTN_K_NORM": (16,),
    **dict.fromkeys(("ATTN_Q", "ENC_ATTN_Q", "DEC_ATTN_Q", "DEC_CROSS_ATTN_Q"), (Q, D)),
    **dict.fromkeys(("ATTN_K", "ATTN_V"), (KV, D)),
    **dict.fromkeys((
        "ENC_ATTN_K", "ENC_ATTN_V", "DEC_ATTN_K", "DEC_ATTN_V", "DEC_CROSS_ATTN_K", "DEC_CROSS_ATTN_V",
    ), (Q, D)),
    **dict.fromkeys(("ATTN_QKV", "VISEXP_ATTN_QKV"), (QKV, D)),
    **dict.fromkeys((
        "ATTN_OUT", "ENC_ATTN_OUT", "DEC_ATTN_OUT", "DEC_CROSS_ATTN_OUT", "VISEXP_ATTN_OUT",
    ), (D, Q)),
    **dict.fromkeys(("ENC_ATTN_REL_B", "DEC_ATTN_REL_B", "DEC_CROSS_ATTN_REL_B"), (32, 4)),
    "ATTN_SINKS": (4,), "ATTN_GATE": (Q, D), "ATTN_ROT_EMBD": (8,), "ROPE_FREQS": (8,),
    "ATTN_Q_A": (LATENT, D), "ATTN_Q_B": (Q, LATENT), "ATTN_KV_A_MQA": (LATENT + ROPE, D), "ATTN_KV_B": (QKV, LATENT),
    "ATTN_K_B": (Q, LATENT), "ATTN_V_B": (Q, LATENT), "ATTN_Q_A_NORM": (LATENT,), "ATTN_KV_A_NORM": (LATENT,),
    "INDEXER_K_NORM": (16,), "INDEXER_PROJ": (4, D), "INDEXER_ATTN_K": (16, D), "INDEXER_ATTN_Q_B": (Q, LATENT),
    **dict.fromkeys((
        "FFN_UP", "FFN_GATE", "FFN_UP_SHEXP", "FFN_GATE_SHEXP", "ENC_FFN_UP", "ENC_FFN_GATE", "DEC_FFN_UP",
        "DEC_FFN_GATE", "VISEXP_UP", "VISEXP_GATE", "CHANNEL_MIX_KEY",
    ), (F, D)),
    **dict.fromkeys((
        "FFN_DOWN", "FFN_DOWN_SHEXP", "ENC_FFN_DOWN", "DEC_FFN_DOWN", "VISEXP_DOWN", "CHANNEL_MIX_VALUE",
    ), (D, F)),
    **dict.fromkeys(("FFN_UP_EXP", "FFN_GATE_EXP", "FFN_UP_CHEXP", "FFN_GATE_CHEXP"), (E, F, D)),
    "FFN_GATE_UP_EXP": (E, 2 * F, D), "FFN_DOWN_EXP": (E, D, F), "FFN_DOWN_CHEXP": (E, D, F), "FFN_ACT": (F,),
    "FFN_GATE_INP": (E, D), "FFN_GATE_INP_SHEXP": (1, D),
    "SSM_IN": (256, D), "SSM_CONV1D": (128, 1, 4), "SSM_X": (DT + 2 * STATE, 128), "SSM_DT": (128, DT),
    "SSM_DT_NORM": (DT,), "SSM_A": (128, STATE), "SSM_B_NORM": (STATE,), "SSM_C_NORM": (STATE,), "SSM_D": (128,),
    "SSM_NORM": (128,), "SSM_OUT": (D, 128), "SSM_BETA_ALPHA": (8, D), "SSM_ALPHA": (4, D), "SSM_BETA": (4, D),
    **dict.fromkeys(("SSM_CONV1D_Q", "SSM_CONV1D_K", "SSM_CONV1D_V"), (Q, 1, 4)),
    **dict.fromkeys(("SSM_F_A", "SSM_G_A"), (16, D)), **dict.fromkeys(("SSM_F_B", "SSM_G_B"), (Q, 16)),
    "SHORTCONV_CONV": (D, 1, 3), "SHORTCONV_INPROJ": (3 * D, D), "SHORTCONV_OUTPROJ": (D, D),
    **dict.fromkeys((
        "TIME_MIX_W0", "TIME_MIX_A0", "TIME_MIX_V0", "TIME_MIX_K_K", "TIME_MIX_K_A", "TIME_MIX_LERP_X",
        "TIME_MIX_LERP_K", "TIME_MIX_LERP_V", "TIME_MIX_LERP_R", "TIME_MIX_LERP_G", "TIME_MIX_LERP_W",
        "TIME_MIX_DECAY", "CHANNEL_MIX_LERP_K", "CHANNEL_MIX_LERP_R",
    ), (1, 1, D)),
    **dict.fromkeys((
        "TIME_MIX_W1", "TIME_MIX_A1", "TIME_MIX_V1", "TIME_MIX_G1", "TIME_MIX_DECAY_W1",
    ), (D, RANK)),
    **dict.fromkeys((
        "TIME_MIX_W2", "TIME_MIX_A2", "TIME_MIX_V2", "TIME_MIX_G2", "TIME_MIX_DECAY_W2",
    ), (RANK, D)),
    "TIME_MIX_R_K": (4, 16), "TIME_MIX_FIRST": (4, 16),
    **dict.fromkeys((
        "TIME_MIX_KEY", "TIME_MIX_VALUE", "TIME_MIX_RECEPTANCE", "TIME_MIX_GATE", "TIME_MIX_OUTPUT",
        "CHANNEL_MIX_RECEPTANCE", "CLS", "MOE_LATENT_UP", "MOE_LATENT_DOWN",
    ), (D, D)),
    "CLS_OUT": (2, D),
    "NEXTN_EH_PROJ": (D, 2 * D), "NEXTN_EMBED_TOKENS": (V, D), "NEXTN_ENORM": (D,), "NEXTN_HNORM": (D,),
    "NEXTN_SHARED_HEAD_HEAD": (V, D), "NEXTN_SHARED_HEAD_NORM": (D,),
}  # fmt: skip
"""A plausible shape for each kind of tensor; the experts' with the experts first. Other kinds are left out."""

BARE = frozenset({
    "SSM_A", "SSM_D", "ATTN_SINKS", "ATTN_ROT_EMBD", "ROPE_FREQS", "TIME_MIX_W0", "TIME_MIX_W1", "TIME_MIX_W2",
    "TIME_MIX_A0", "TIME_MIX_A1", "TIME_MIX_A2", "TIME_MIX_V0", "TIME_MIX_V1", "TIME_MIX_V2", "TIME_MIX_G1",
    "TIME_MIX_G2", "TIME_MIX_K_K", "TIME_MIX_K_A", "TIME_MIX_R_K", "TIME_MIX_FIRST", "TIME_MIX_DECAY",
    "TIME_MIX_DECAY_W1", "TIME_MIX_DECAY_W2", "TIME_MIX_LERP_X", "TIME_MIX_LERP_K", "TIME_MIX_LERP_V",
    "TIME_MIX_LERP_R", "TIME_MIX_LERP_G", "TIME_MIX_LERP_W", "CHANNEL_MIX_LERP_K", "CHANNEL_MIX_LERP_R",
})  # fmt: skip
"""Kinds that are parameters of their block, not of a module in it: their names have no suffix."""


def cases() -> Iterator[Case]:
    """A case for each family that transformers can build, then one for each other that the comments name."""
    yield from _cases()


@functools.cache
def _cases() -> tuple[Case, ...]:
    found = {}
    with quiet():
        for arch, families in covered_families().items():
            for family in families:
                try:
                    found[family] = case_of_model(arch, family)
                except ValueError as error:
                    SKIPPED[family] = str(error)
    distinct: dict[str, Case] = {}
    for family, case in found.items():
        same = next((name for name, other in distinct.items() if case.truth == other.truth), None)
        if same is None:
            distinct[family] = case
        else:
            SKIPPED[family] = f"the same map as {same}"
    taken = {_plain(name) for family in found for name in (family, family.removesuffix("_text"))}
    for family, uses in comments().items():
        if len(uses) < FEWEST or _plain(family) in taken:
            continue
        case = case_of_names(family, uses)
        same = next((name for name, other in distinct.items() if case.truth.items() <= other.truth.items()), None)
        if sum(use.kind in SHAPES for use in uses) < FEWEST:
            SKIPPED.setdefault(family, "too few names of kinds that have a shape here")
        elif same is not None:
            SKIPPED[family] = f"nothing besides the map of {same}"
        else:
            distinct[family] = case
    return tuple(distinct.values())


def covered_families() -> dict[MODEL_ARCH, tuple[str, ...]]:
    """The model types of transformers that belong to each architecture."""
    by_name = {_plain(kind.removesuffix("_text")): kind for kind in sorted(CONFIG_MAPPING)}  # the text model, if both
    found = {}
    for arch, name in MODEL_ARCH_NAMES.items():
        if arch is not MODEL_ARCH.MMPROJ:
            kind = by_name.get(_plain(name))
            found[arch] = COVERS.get(name, () if kind is None else (kind,))
    return found


def case_of_model(arch: MODEL_ARCH, family: str) -> Case:
    """The tensors of a small model as transformers saves them, under GGUF's names.

    Raises:
        ValueError: It cannot be built, or GGUF does not know most of its tensors.
    """
    failures = []
    for model in tiny_models(model_classes(family)):
        saved = manifest(saved_tensors(model))
        truth, target = _gguf_side(arch, saved)
        known = sum(map(len, truth.values()))
        if known >= LEAST * len(saved):
            used = frozenset[str]().union(*truth.values())
            source = {name: info for name, info in saved.items() if name in used}
            return Case("gguf", family, source, target, truth)
        unknown = next(name for name in saved if not any(name in parts for parts in truth.values()))
        failures.append(f"GGUF knows only {known} of {len(saved)} tensors of {type(model).__name__}, not {unknown}")
    raise ValueError(failures[0])


def _gguf_side(
    arch: MODEL_ARCH, source: Mapping[str, TensorInfo]
) -> tuple[dict[str, frozenset[str]], dict[str, TensorInfo]]:
    name_map = tensor_mapping.get_tensor_name_map(arch, 32)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for name in source:
        merged = re.sub(r"\.experts\.\d+\.", ".experts.", name)
        spelled = re.sub(r"_bias$", ".bias", merged)  # `e_score_correction_bias`, which the tables take for a bias
        to = name_map.get_name(merged, SUFFIXES) or name_map.get_name(spelled, SUFFIXES)
        if to is not None:
            parts[to].append(name)
    truth, target = {}, {}
    for to, names in parts.items():
        stacked = all(re.search(r"\.experts\.\d+\.", name) for name in names)
        shapes = {source[name].shape for name in names}
        if len(shapes) == 1 and (stacked or len(names) == 1):
            info, shape = source[names[0]], shapes.pop()
            truth[to] = frozenset(names)
            target[to] = TensorInfo((len(names), *shape) if stacked else shape, info.dtype, info.stored)
    return truth, target


@dataclass(frozen=True)
class Use:
    """A name that a family has for a kind of tensor; `merged` if each expert has one."""

    kind: str
    name: str
    merged: bool


@functools.cache
def comments() -> dict[str, tuple[Use, ...]]:
    """What the comments in the source of `gguf.tensor_mapping` say: for each family the names that it uses."""
    found: defaultdict[str, dict[str, Use]] = defaultdict(dict)
    with tokenize.open(str(tensor_mapping.__file__)) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    kind = name = None
    for i, token in enumerate(tokens):
        if token.type == tokenize.NAME and tokens[i - 2].string == "MODEL_TENSOR" and tokens[i + 1].string == ":":
            kind, name = token.string, None
        elif token.type == tokenize.STRING:
            name = (token.string.strip('"'), token.start[0])
        elif token.type == tokenize.COMMENT and kind and name and name[1] == token.start[0]:
            words = re.sub(r"\(.*?\)|#.*", "", token.string[1:])
            for family in re.findall(r"[\w.-]*[a-zA-Z][\w.-]+", words):
                found[family].setdefault(kind, Use(kind, name[0], "merged" in token.string))
    return {family: tuple(uses.values()) for family, uses in found.items()}


def case_of_names(family: str, uses: tuple[Use, ...]) -> Case:
    """The names in three blocks, each with the shape of its kind."""
    source, target, truth = {}, {}, {}
    taken: set[str] = set()
    for use in uses:
        if use.kind not in SHAPES or use.name in taken:
            continue
        taken.add(use.name)
        shape, gguf = SHAPES[use.kind], TENSOR_NAMES[MODEL_TENSOR[use.kind]]
        for block in range(BLOCKS if "{bid}" in gguf else 1):
            suffix = "" if use.kind in BARE else ".weight"
            name, to = (text.removesuffix(".weight").format(bid=block) + suffix for text in (use.name, gguf))
            parts = [name]
            if use.merged and len(shape) == 3:
                head, leaf = use.name.format(bid=block).rsplit(".", 1)
                parts = [f"{head}.{expert}.{leaf}.weight" for expert in range(EXPERTS)]
            part = shape if len(parts) == 1 else shape[1:]
            source |= dict.fromkeys(parts, TensorInfo(part, "float32", "float32"))
            target[to] = TensorInfo(shape, "float32", "float32")
            truth[to] = frozenset(parts)
    return Case("gguf", family, source, target, truth)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower()
