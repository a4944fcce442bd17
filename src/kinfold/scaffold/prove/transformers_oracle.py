"""Runs a checkpoint in transformers and records what it computes; a process of its own, never imported.

python -m kinfold.scaffold.prove.transformers_oracle CHECKPOINT OUT DTYPE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

BATCH, LENGTH = 2, 24


def main(checkpoint: Path, out: Path, dtype: str) -> None:
    """Write `token_ids`, `logits` and the output of every layer, under the names of our modules."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    is_gguf = checkpoint.is_file() and checkpoint.suffix != ".safetensors"
    options: dict[str, object] = {"gguf_file": checkpoint.name} if is_gguf else {}
    options |= {"attn_implementation": "eager", "local_files_only": True, "output_loading_info": True}
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
    model, info = loaded
    model.eval()
    # A weight that it does not find it leaves at random, with a warning: that is no reference.
    if at_random := sorted(map(str, info["missing_keys"])):
        sys.exit(f"it would leave {len(at_random)} weights at random, such as {at_random[0]}")
    vocab_size = model.get_input_embeddings().get_parameter("weight").shape[0]
    token_ids = torch.randint(vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        output = model(input_ids=token_ids, use_cache=False, output_hidden_states=True)
    first, *layers, last = output.hidden_states  # the last has passed the final norm
    modules = {
        "decoder_frontend": first,
        **{f"decoder.layers.{number}": layer for number, layer in enumerate(layers)},
        "decoder.layer_norm": last,
    }
    tensors = {"token_ids": token_ids, "logits": output.logits, **{f"module.{n}": t for n, t in modules.items()}}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
