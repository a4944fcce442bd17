"""DeepSeek-V3 in FP8 by its names and shapes alone: the checkpoint, a model of ours, and the key map between them.

The checkpoint has the 90,427 tensors of layers 0 to 60 and of what is around them. Layer 61, which predicts a second
token and takes no part in decoding, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kinfold.checkpoint import TensorInfo
from kinfold.keymap import KeyMap, rename, stack

LAYERS, DENSE_LAYERS, EXPERTS = 61, 3, 256
DIM, FFN_DIM, EXPERT_DIM, VOCABULARY = 7168, 18432, 2048, 129280
HEADS, HEAD_DIM, ROTARY_DIM, Q_RANK, KV_RANK = 128, 128, 64, 1536, 512
BLOCK = 128
"""A weight in FP8 has a scale for each block of 128 x 128 of its values."""

ALL, DENSE, SPARSE = range(LAYERS), range(DENSE_LAYERS), range(DENSE_LAYERS, LAYERS)


@dataclass(frozen=True)
class Module:
    """A module of the checkpoint, or alike ones, and what becomes of it.

    Attributes:
        there: Its pattern in the checkpoint.
        here: Its pattern in the model; experts are stacked.
        shape: Of its weight.
        fp8: Whether its weight is in FP8, and has scales.
        bias: The shape of what is added to the router's scores.
        layers: Which layers have it: all, the first ones, which are dense, or the others.
    """

    there: str
    here: str
    shape: tuple[int, ...]
    fp8: bool = False
    bias: tuple[int, ...] = ()
    layers: range = ALL

    @property
    def stacked(self) -> bool:
        """Whether it is of one of many experts."""
        return "{expert}" in self.there

    def tensors(self) -> Iterator[tuple[str, TensorInfo]]:
        """What stands after its name in the checkpoint, and what there is."""
        dtype = "float8_e4m3fn" if self.fp8 else "bfloat16"
        yield ".weight", TensorInfo(self.shape, dtype, dtype)
        if self.fp8:
            blocks = tuple(-(-size // BLOCK) for size in self.shape)
            yield ".weight_scale_inv", TensorInfo(blocks, "float32", "float32")
        if self.bias:
            yield ".e_score_correction_bias", TensorInfo(self.bias, "float32", "float32")

    def leaf(self, suffix: str) -> str:
        """What stands after its name in the model: stacked tensors are parameters themselves, without a module each."""
        return suffix.removeprefix(".weight") if self.stacked else suffix


def modules(experts: int = EXPERTS) -> list[Module]:
    """The 22 kinds of modules, in the order of the checkpoint."""
    there, here = "model.layers.{layer}.", "decoder.layers.{layer}."
    attn, our_attn, mlp, our_ffn = f"{there}self_attn.", f"{here}self_attn.", f"{there}mlp.", f"{here}ffn."
    expert, our_expert = f"{mlp}experts.{{expert}}.", f"{our_ffn}experts."
    shared, our_shared = f"{mlp}shared_experts.", f"{our_ffn}shared_expert."
    up, down, up_expert, down_expert = (FFN_DIM, DIM), (DIM, FFN_DIM), (EXPERT_DIM, DIM), (DIM, EXPERT_DIM)
    return [
        Module("model.embed_tokens", "decoder_frontend.embed", (VOCABULARY, DIM)),
        Module(f"{there}input_layernorm", f"{here}self_attn_layer_norm", (DIM,)),
        Module(f"{attn}q_a_proj", f"{our_attn}q_a_proj", (Q_RANK, DIM), fp8=True),
        Module(f"{attn}q_a_layernorm", f"{our_attn}q_a_layer_norm", (Q_RANK,)),
        Module(f"{attn}q_b_proj", f"{our_attn}q_b_proj", (HEADS * (HEAD_DIM + ROTARY_DIM), Q_RANK), fp8=True),
        Module(f"{attn}kv_a_proj_with_mqa", f"{our_attn}kv_a_proj", (KV_RANK + ROTARY_DIM, DIM), fp8=True),
        Module(f"{attn}kv_a_layernorm", f"{our_attn}kv_a_layer_norm", (KV_RANK,)),
        Module(f"{attn}kv_b_proj", f"{our_attn}kv_b_proj", (HEADS * 2 * HEAD_DIM, KV_RANK), fp8=True),
        Module(f"{attn}o_proj", f"{our_attn}output_proj", (DIM, HEADS * HEAD_DIM), fp8=True),
        Module(f"{there}post_attention_layernorm", f"{here}ffn_layer_norm", (DIM,)),
        Module(f"{mlp}gate_proj", f"{our_ffn}gate_proj", up, fp8=True, layers=DENSE),
        Module(f"{mlp}up_proj", f"{our_ffn}inner_proj", up, fp8=True, layers=DENSE),
        Module(f"{mlp}down_proj", f"{our_ffn}output_proj", down, fp8=True, layers=DENSE),
        Module(f"{mlp}gate", f"{our_ffn}router", (experts, DIM), bias=(experts,), layers=SPARSE),
        Module(f"{expert}gate_proj", f"{our_expert}gate_proj", up_expert, fp8=True, layers=SPARSE),
        Module(f"{expert}up_proj", f"{our_expert}inner_proj", up_expert, fp8=True, layers=SPARSE),
        Module(f"{expert}down_proj", f"{our_expert}output_proj", down_expert, fp8=True, layers=SPARSE),
        Module(f"{shared}gate_proj", f"{our_shared}gate_proj", up_expert, fp8=True, layers=SPARSE),
        Module(f"{shared}up_proj", f"{our_shared}inner_proj", up_expert, fp8=True, layers=SPARSE),
        Module(f"{shared}down_proj", f"{our_shared}output_proj", down_expert, fp8=True, layers=SPARSE),
        Module("model.norm", "decoder.layer_norm", (DIM,)),
        Module("lm_head", "final_proj", (VOCABULARY, DIM)),
    ]


def checkpoint(*, layers: int = LAYERS, experts: int = EXPERTS) -> dict[str, TensorInfo]:
    """What is in the checkpoint."""
    found = {}
    for layer in range(layers):
        for module in modules(experts):
            if layer in module.layers and (layer == 0 or "{layer}" in module.there):
                for suffix, info in module.tensors():
                    for expert in range(experts if module.stacked else 1):
                        found[module.there.format(layer=layer, expert=expert) + suffix] = info
    return found


def key_map() -> KeyMap:
    """The rules, which number 37: a weight and its scales are tensors of their own."""
    rules = []
    for module in modules():
        for suffix, _ in module.tensors():
            there, here = module.there + suffix, module.here + module.leaf(suffix)
            rules.append(stack(there, here, over="expert") if module.stacked else rename(there, here))
    return KeyMap(*rules)


def regular_expressions() -> dict[str, str]:
    """The same as fairseq2 has it: 22 regular expressions, each for a whole module, and what is put for them."""
    table = {}
    for module in modules():
        there = re.escape(module.there).replace(r"\{layer\}", "([0-9]+)").replace(r"\{expert\}", "[0-9]+")
        ending = r"\.weight" if module.stacked else r"\."
        here = module.here.replace("{layer}", r"\1")
        table[f"^{there}{ending}"] = here if module.stacked else f"{here}."
    return table
