"""Runs a checkpoint in transformers and records what it computes; a process of its own, never imported.

python -m kinfold.scaffold.prove.transformers_oracle CHECKPOINT OUT DTYPE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

BATCH, LENGTH, SOURCE_LENGTH = 2, 24, 19


def main(checkpoint: Path, out: Path, dtype: str) -> None:
    """Write `token_ids`, `logits`, and what modules gave: layers under our names for them, others under their own."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    is_gguf = checkpoint.is_file() and checkpoint.suffix != ".safetensors"
    options: dict[str, object] = {"gguf_file": checkpoint.name} if is_gguf else {}
    options |= {"attn_implementation": "eager", "local_files_only": True, "output_loading_info": True}
    encodes = not is_gguf and AutoConfig.from_pretrained(folder, local_files_only=True).is_encoder_decoder
    classes: Any = AutoModelForSeq2SeqLM if encodes else AutoModelForCausalLM
    model, info = classes.from_pretrained(folder, dtype=getattr(torch, dtype), **options)
    model.eval()
    # A weight that it does not find it leaves at random, with a warning: that is no reference.
    if at_random := sorted(map(str, info["missing_keys"])):
        sys.exit(f"it would leave {len(at_random)} weights at random, such as {at_random[0]}")
    vocab_size = model.get_input_embeddings().get_parameter("weight").shape[0]
    generator = torch.Generator().manual_seed(0)
    inputs = {"token_ids": torch.randint(vocab_size, (BATCH, LENGTH), generator=generator)}
    if encodes:
        inputs["source_ids"] = torch.randint(vocab_size, (BATCH, SOURCE_LENGTH), generator=generator)
    if (pad := getattr(model.config, "pad_token_id", None)) is not None:  # which some models give no position
        for ids in inputs.values():
            ids[ids == pad] += 1 if pad == 0 else -1
    width = getattr(model.config, "hidden_size", model.get_input_embeddings().get_parameter("weight").shape[1])
    with _recorded(model, width) as foreign:
        output, modules = (_of_both if encodes else _of_decoder)(model, inputs)
    tensors = {**inputs, "logits": output.logits, **{f"module.{name}": tensor for name, tensor in modules.items()}}
    tensors |= {f"foreign.{name}": tensor for name, tensor in foreign.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out)


@contextmanager
def _recorded(model: Any, width: int) -> Iterator[dict[str, Tensor]]:
    """What the modules give that have parameters and the width of the model, by their names in transformers."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 3 and output.shape[-1] == width:
                outputs.setdefault(name, output.clone())

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _of_decoder(model: Any, inputs: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    with torch.inference_mode():
        output = model(input_ids=inputs["token_ids"], use_cache=False, output_hidden_states=True)
    return output, _named("decoder", output.hidden_states)


def _of_both(model: Any, inputs: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    ids = {"input_ids": inputs["source_ids"], "decoder_input_ids": inputs["token_ids"]}
    with torch.inference_mode():
        output = model(**ids, use_cache=False, output_hidden_states=True)
    states = {"encoder": output.encoder_hidden_states, "decoder": output.decoder_hidden_states}
    return output, {name: tensor for stack in states for name, tensor in _named(stack, states[stack]).items()}


def _named(stack: str, hidden_states: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The outputs of an encoder or a decoder under the names of our modules."""
    first, *layers, last = hidden_states  # the last has passed the final norm
    return {
        f"{stack}_frontend": first,
        **{f"{stack}.layers.{number}": layer for number, layer in enumerate(layers)},
        stack: last,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
