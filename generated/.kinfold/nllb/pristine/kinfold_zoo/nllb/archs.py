"""Published sizes of Nllb."""

from __future__ import annotations

from kinfold import ConfigRegistry

from kinfold_zoo.nllb.factory import NllbConfig

nllb_archs = ConfigRegistry[NllbConfig]()
nllb_arch = nllb_archs.decorator


@nllb_arch("nllb_dense_1b")
def _nllb_dense_1b() -> NllbConfig:
    """NLLB-200 1.3B."""
    return NllbConfig()


@nllb_arch("nllb_dense_600m")
def _nllb_dense_600m() -> NllbConfig:
    """NLLB-200 distilled 600M."""
    config = _nllb_dense_1b()
    config.num_encoder_layers = 12
    config.num_decoder_layers = 12
    config.ffn_inner_dim = 4096
    return config


@nllb_arch("nllb_dense_3b")
def _nllb_dense_3b() -> NllbConfig:
    """NLLB-200 3.3B."""
    config = _nllb_dense_1b()
    config.model_dim = 2048
    return config
