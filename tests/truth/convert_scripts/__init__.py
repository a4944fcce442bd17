"""Key maps read from the convert scripts that transformers once shipped."""

from truth.convert_scripts.collect import SKIPPED, cases
from truth.convert_scripts.wheel import fetch_wheel

__all__ = ["SKIPPED", "cases", "fetch_wheel"]
