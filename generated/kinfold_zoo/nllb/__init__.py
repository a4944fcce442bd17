"""Nllb: translation between 200 languages (NLLB Team et al. 2022)."""

from kinfold_zoo.nllb.archs import nllb_arch, nllb_archs
from kinfold_zoo.nllb.factory import NllbConfig, create_nllb_model
from kinfold_zoo.nllb.loader import load_nllb_model, shard_nllb_model
from kinfold_zoo.nllb.model import NllbDecoder, NllbDecoderLayer, NllbEncoder, NllbEncoderLayer, NllbModel

__all__ = [
    "NllbConfig",
    "NllbDecoder",
    "NllbDecoderLayer",
    "NllbEncoder",
    "NllbEncoderLayer",
    "NllbModel",
    "create_nllb_model",
    "load_nllb_model",
    "nllb_arch",
    "nllb_archs",
    "shard_nllb_model",
]
