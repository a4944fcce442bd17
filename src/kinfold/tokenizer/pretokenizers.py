"""How byte-level BPE tokenizers cut a text before they merge, by the name that GGUF calls it (`tokenizer.ggml.pre`).

Each is a list of steps: cut off every single digit, or cut by a regular expression whose matches are the pieces.
The expressions are those that the models' own tokenizer.json files have.
"""

from __future__ import annotations

from collections.abc import Mapping

DIGITS = "digits"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

PRE_TOKENIZERS: Mapping[str, tuple[str, ...]] = {
    "default": (_GPT2,),
    "gpt-2": (_GPT2,),
    "smollm": (DIGITS, _GPT2),
    "starcoder": (DIGITS, _GPT2),
    "refact": (DIGITS, _GPT2),
    "command-r": (DIGITS, _GPT2),
    "codeshell": (DIGITS, _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "qwen2": (_QWEN2,),
}
