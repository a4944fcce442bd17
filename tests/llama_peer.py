"""A tiny llama of ours and the same one of transformers, in float64."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedModel

from kinfold_zoo.llama.factory import LlamaConfig, create_llama_model
from kinfold_zoo.llama.loader import convert_llama_checkpoint
from kinfold_zoo.llama.model import LlamaModel

transformers.logging.set_verbosity_error()

SIZES: dict[str, Any] = {
    "model_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "ffn_inner_dim": 48,
    "ffn_inner_dim_to_multiple": 1,
    "vocab_size": 64,
    "max_seq_len": 64,
}


def tiny_llama(*, dtype: torch.dtype = torch.float64, seed: int = 0, **values: Any) -> LlamaModel:
    """A llama with random weights, norms included, large enough for its logits to be far apart.

    Args:
        dtype: Of its weights.
        seed: Of its weights.
        values: Fields of its config that differ from `SIZES`.
    """
    torch.manual_seed(seed)
    model = create_llama_model(LlamaConfig(**{**SIZES, "init_std": 0.3, **values}), device="cpu", dtype=dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def peer_of(model: LlamaModel, peer: type[PreTrainedModel] = LlamaForCausalLM, **values: Any) -> Any:
    """What transformers makes of the weights of a `tiny_llama`.

    Args:
        model: Ours, of the sizes in `SIZES`.
        peer: The class to make.
        values: Fields of its config, in addition.
    """
    fields: dict[str, Any] = {
        "hidden_size": SIZES["model_dim"],
        "num_hidden_layers": SIZES["num_layers"],
        "num_attention_heads": SIZES["num_heads"],
        "num_key_value_heads": SIZES["num_kv_heads"],
        "head_dim": SIZES["head_dim"],
        "intermediate_size": SIZES["ffn_inner_dim"],
        "vocab_size": SIZES["vocab_size"],
        "max_position_embeddings": SIZES["max_seq_len"],
        "rms_norm_eps": LlamaConfig.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": LlamaConfig.rope_theta},
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    config: Any = peer.config_class
    config = config(**{**fields, **values})
    config._attn_implementation = "eager"
    theirs = peer(config).double().eval()
    ours = LlamaConfig(**SIZES, tied_embeddings=bool(values.get("tie_word_embeddings")))
    state_dict = convert_llama_checkpoint.export(model.state_dict(), ours, layout="hf")
    missing, unexpected = theirs.load_state_dict(state_dict, strict=False)
    assert set(missing) <= {"lm_head.weight"} if ours.tied_embeddings else not missing
    assert not unexpected
    return theirs
