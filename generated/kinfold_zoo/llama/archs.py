"""Published sizes of Llama."""

from __future__ import annotations

from kinfold import ConfigRegistry
from kinfold.nn import Llama3Scaling

from kinfold_zoo.llama.factory import LlamaConfig

llama_archs = ConfigRegistry[LlamaConfig]()
llama_arch = llama_archs.decorator


@llama_arch("7b")
def _7b() -> LlamaConfig:
    """Llama 7B; its feed-forward network is two thirds of 4 x 4096 wide, ..."""
    return LlamaConfig()


@llama_arch("13b")
def _13b() -> LlamaConfig:
    """Llama 13B."""
    config = _7b()
    config.model_dim = 5120
    config.num_layers = 40
    config.num_heads = 40
    config.num_kv_heads = 40
    config.ffn_inner_dim = 13653
    return config


@llama_arch("33b")
def _33b() -> LlamaConfig:
    """Llama 33B."""
    config = _7b()
    config.model_dim = 6656
    config.num_layers = 60
    config.num_heads = 52
    config.num_kv_heads = 52
    config.ffn_inner_dim = 17749
    return config


@llama_arch("65b")
def _65b() -> LlamaConfig:
    """Llama 65B."""
    config = _7b()
    config.model_dim = 8192
    config.num_layers = 80
    config.num_heads = 64
    config.num_kv_heads = 64
    config.ffn_inner_dim = 21845
    config.norm_eps = 1e-05
    return config


@llama_arch("llama2_7b")
def _llama2_7b() -> LlamaConfig:
    """Llama 2 7B, trained on longer sequences."""
    config = _7b()
    config.max_seq_len = 4096
    config.norm_eps = 1e-05
    return config


@llama_arch("llama2_13b")
def _llama2_13b() -> LlamaConfig:
    """Llama 2 13B."""
    config = _7b()
    config.model_dim = 5120
    config.num_layers = 40
    config.num_heads = 40
    config.num_kv_heads = 40
    config.ffn_inner_dim = 13653
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
    config.ffn_inner_dim = 21845
    config.ffn_inner_dim_multiplier = 1.3
    config.ffn_inner_dim_to_multiple = 4096
    config.max_seq_len = 4096
    config.norm_eps = 1e-05
    return config


@llama_arch("llama3_8b")
def _llama3_8b() -> LlamaConfig:
    """Llama 3 8B."""
    config = _7b()
    config.num_kv_heads = 8
    config.ffn_inner_dim_multiplier = 1.3
    config.ffn_inner_dim_to_multiple = 1024
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 8192
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    return config


@llama_arch("llama3_70b")
def _llama3_70b() -> LlamaConfig:
    """Llama 3 70B."""
    config = _7b()
    config.model_dim = 8192
    config.num_layers = 80
    config.num_heads = 64
    config.num_kv_heads = 8
    config.ffn_inner_dim = 21845
    config.ffn_inner_dim_multiplier = 1.3
    config.ffn_inner_dim_to_multiple = 4096
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 8192
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    return config


@llama_arch("llama3_1_8b")
def _llama3_1_8b() -> LlamaConfig:
    """Llama 3.1 8B, its positions stretched to 131,072 tokens."""
    config = _7b()
    config.num_kv_heads = 8
    config.ffn_inner_dim_multiplier = 1.3
    config.ffn_inner_dim_to_multiple = 1024
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=8.0, original_max_seq_len=8192)
    return config


@llama_arch("llama3_1_70b")
def _llama3_1_70b() -> LlamaConfig:
    """Llama 3.1 70B."""
    config = _7b()
    config.model_dim = 8192
    config.num_layers = 80
    config.num_heads = 64
    config.num_kv_heads = 8
    config.ffn_inner_dim = 21845
    config.ffn_inner_dim_multiplier = 1.3
    config.ffn_inner_dim_to_multiple = 4096
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=8.0, original_max_seq_len=8192)
    return config


@llama_arch("llama3_1_405b")
def _llama3_1_405b() -> LlamaConfig:
    """Llama 3.1 405B."""
    config = _7b()
    config.model_dim = 16384
    config.num_layers = 126
    config.num_heads = 128
    config.num_kv_heads = 8
    config.ffn_inner_dim = 43690
    config.ffn_inner_dim_multiplier = 1.2
    config.ffn_inner_dim_to_multiple = 4096
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
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
    config.ffn_inner_dim = 5461
    config.ffn_inner_dim_multiplier = 1.5
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=32.0, original_max_seq_len=8192)
    config.tied_embeddings = True
    return config


@llama_arch("llama3_2_3b")
def _llama3_2_3b() -> LlamaConfig:
    """Llama 3.2 3B, with tied embeddings."""
    config = _7b()
    config.model_dim = 3072
    config.num_layers = 28
    config.num_heads = 24
    config.num_kv_heads = 8
    config.ffn_inner_dim = 8192
    config.vocab_size = 128256
    config.unk_idx = None
    config.bos_idx = 128000
    config.eos_idx = 128001
    config.max_seq_len = 131072
    config.norm_eps = 1e-05
    config.rope_theta = 500000.0
    config.rope_scaling = Llama3Scaling(factor=32.0, original_max_seq_len=8192)
    config.tied_embeddings = True
    return config
