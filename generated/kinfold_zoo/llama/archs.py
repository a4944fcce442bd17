"""Published sizes of Llama."""

from __future__ import annotations

from kinfold import ConfigRegistry
from kinfold.nn import Llama3Scaling

from kinfold_zoo.llama.factory import LlamaConfig

llama_archs = ConfigRegistry[LlamaConfig]()
llama_arch = llama_archs.decorator


@llama_arch("7b")
def _7b() -> LlamaConfig:
    """Llama 7B."""
    return LlamaConfig()


@llama_arch("13b")
def _13b() -> LlamaConfig:
    """Llama 13B."""
    config = _7b()
    config.model_dim = 5120
    config.num_layers = 40
    config.num_heads = 40
    config.num_kv_heads = 40
    config.ffn_inner_dim = 13824
    return config


@llama_arch("llama2_7b")
def _llama2_7b() -> LlamaConfig:
    """Llama 2 7B, trained on longer sequences."""
    config = _7b()
    config.max_seq_len = 4096
    config.norm_eps = 1e-05
    return config


@llama_arch("llama2_70b")
def _llama2_70b() -> LlamaConfig:
    """Llama 2 70B, with grouped queries."""
    config = _7b()
    config.model_dim = 8192
    config.num_layers = 80
    config.num_heads = 64
    config.num_kv_heads = 8
    config.ffn_inner_dim = 28672
    config.max_seq_len = 4096
    config.norm_eps = 1e-05
    return config


@llama_arch("llama3_8b")
def _llama3_8b() -> LlamaConfig:
    """Llama 3 8B."""
    config = _7b()
    config.num_kv_heads = 8
    config.ffn_inner_dim = 14336
    config.vocab_size = 128256
    config.max_seq_len = 8192
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    return config


@llama_arch("llama3_1_8b")
def _llama3_1_8b() -> LlamaConfig:
    """Llama 3.1 8B, its positions stretched to 131,072 tokens."""
    config = _7b()
    config.num_kv_heads = 8
    config.ffn_inner_dim = 14336
    config.vocab_size = 128256
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=8.0, original_max_seq_len=8192)
    return config


@llama_arch("llama3_2_1b")
def _llama3_2_1b() -> LlamaConfig:
    """Llama 3.2 1B, with tied embeddings."""
    config = _7b()
    config.model_dim = 2048
    config.num_layers = 16
    config.num_kv_heads = 8
    config.head_dim = 64
    config.ffn_inner_dim = 8192
    config.vocab_size = 128256
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=32.0, original_max_seq_len=8192)
    config.tied_embeddings = True
    return config
