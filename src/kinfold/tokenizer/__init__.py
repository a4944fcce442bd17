"""The tokenizer that a checkpoint comes with."""

from kinfold.tokenizer.load import load_tokenizer
from kinfold.tokenizer.tokenizer import Tokenizer

__all__ = ["Tokenizer", "load_tokenizer"]
