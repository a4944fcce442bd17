"""Both sides of key maps for tests: checkpoints in memory, and the model that they lead to."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kinfold.checkpoint import Checkpoint
from kinfold.checkpoint.manifest import state_dict_manifest
from kinfold.keymap.ops import PermuteRotary
from kinfold.scaffold.keymap.native import FamilySide
from kinfold_zoo.llama import LlamaConfig, create_llama_model

META = {
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
    "model.layers": "layers",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
"""What Meta's code calls the modules that transformers calls otherwise (convert_llama_weights_to_hf.py)."""


class InMemory(Checkpoint):
    """A checkpoint of tensors in memory."""

    layout = "safetensors"

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.path = Path("memory")
        self.config = {}
        self.tensors = dict(tensors)
        self.manifest = state_dict_manifest(self.tensors)

    def tensor(self, name: str, *, mmap: bool = True) -> Tensor:
        return self.tensors[name]

    def close(self) -> None:
        pass


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint in safetensors files."""
    files = [path for path in sorted(folder.glob("*.safetensors")) if path.name != "reference.safetensors"]
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def renamed(tensors: Mapping[str, Tensor], change: Callable[[str], str]) -> InMemory:
    """The tensors under other names."""
    return InMemory({change(name): tensor for name, tensor in tensors.items()})


def scrambled(tensors: Mapping[str, Tensor], seed: int = 0, *, keep: Collection[str] = ("weight", "bias")) -> InMemory:
    """The tensors with every word of their names replaced by a random one, but for numbers and words to keep."""
    rng, words = random.Random(seed), {}

    def word(part: str) -> str:
        if part.isdigit() or part in keep:
            return part
        return words.setdefault(part, "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(4)))

    return renamed(tensors, lambda name: ".".join(map(word, name.split("."))))


def as_meta(tensors: Mapping[str, Tensor], *, heads: int = 4, kv_heads: int = 2) -> InMemory:
    """A Llama that transformers wrote, as Meta's code has it: other names, rotary pairs next to each other."""
    found = {}
    for name, tensor in tensors.items():
        for module, number in (("q_proj", heads), ("k_proj", kv_heads)):
            if module in name:
                (tensor,) = PermuteRotary(number, "interleaved").apply([tensor])
        for theirs, metas in META.items():
            name = name.replace(theirs, metas)
        found[name] = tensor
    return InMemory(found)


def llama_side(**sizes: int | bool | float) -> FamilySide:
    """A tiny Llama, as `tiny.py` has its sizes."""
    usual = {
        "model_dim": 64, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "ffn_inner_dim": 96,
        "ffn_inner_dim_to_multiple": 1, "vocab_size": 256,
    }  # fmt: skip
    return FamilySide(create_llama_model, LlamaConfig(**{**usual, **sizes}))


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of these shapes, all values different."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
