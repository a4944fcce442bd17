"""Published sizes of Transformer."""

from __future__ import annotations

from kinfold import ConfigRegistry

from kinfold_zoo.transformer.factory import TransformerConfig

transformer_archs = ConfigRegistry[TransformerConfig]()
transformer_arch = transformer_archs.decorator


@transformer_arch("base")
def _base() -> TransformerConfig:
    """The base model of the paper's table 3."""
    return TransformerConfig()


@transformer_arch("big")
def _big() -> TransformerConfig:
    """The big model of the paper's table 3."""
    config = _base()
    config.model_dim = 1024
    config.num_encoder_heads = 16
    config.num_decoder_heads = 16
    config.ffn_inner_dim = 4096
    config.dropout_p = 0.3
    return config
