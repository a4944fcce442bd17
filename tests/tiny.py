"""Tiny random checkpoints of transformers' families, written by transformers itself, with reference logits.

python tests/tiny.py FOLDER KIND ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SIZES: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "sliding_window": 16,
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_checkpoint(folder: Path, kind: str, *, seed: int = 0, **values: Any) -> Path:
    """Write a checkpoint in several shards, and `reference.safetensors` with `token_ids` and `logits`.

    Of an encoder and decoder there are `source_ids`, too.

    Args:
        folder: Where to; made if it is missing.
        kind: A model type of transformers.
        seed: Of the weights and the token ids.
        values: Values of the config that differ from `SIZES`.

    Every parameter is random, norms and biases too, so that one skipped or swapped shows in the logits
    (float64, (2, 24, vocabulary)).
    """
    known = CONFIG_MAPPING[kind]()
    sizes = {name: value for name, value in SIZES.items() if getattr(known, name, None) is not None or name in values}
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](**{**sizes, **values})
    classes: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = classes.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 if parameter.dim() == 1 else 0.2 * parameter.std()
            parameter.add_(torch.randn_like(parameter) * spread)
    model = model.float().eval()
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size="200KB")
    token_ids = torch.randint(3, config.vocab_size, (2, 24))
    inputs = {"input_ids": token_ids}
    if config.is_encoder_decoder:
        inputs = {"input_ids": torch.randint(3, config.vocab_size, (2, 19)), "decoder_input_ids": token_ids}
    with torch.inference_mode():
        logits = model.double()(**inputs, use_cache=False).logits
    recorded = {"token_ids": token_ids, "logits": logits.contiguous()}
    if config.is_encoder_decoder:
        recorded["source_ids"] = inputs["input_ids"]
    save_file(recorded, folder / "reference.safetensors")
    return folder


if __name__ == "__main__":
    for kind in sys.argv[2:]:
        print(write_checkpoint(Path(sys.argv[1], kind), kind))
