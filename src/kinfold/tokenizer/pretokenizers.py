"""How byte-level BPE tokenizers cut a text before they merge, by the name that GGUF gives it (`tokenizer.ggml.pre`).

The names, and what belongs to each, are those of llama.cpp's `src/llama-vocab.cpp`, which defines them. Where it had to
rewrite an expression for its own engine, the one of the model's tokenizer.json stands here; the regular expressions are
Oniguruma's. Left out are encoders, what regular expressions alone do not cut, and a few rare names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to cut a text.

    Attributes:
        splits: Regular expressions, each applied to the pieces that the ones before it left. What one matches is a
            piece of its own, and so is what lies between.
        whole_tokens: A piece that is a token as it stands is taken without merging, as in tiktoken.
        adds_bos: Whether a text starts with the bos token where the file does not say.
    """

    splits: tuple[str, ...]
    whole_tokens: bool = False
    adds_bos: bool = False


def _either(*expressions: str) -> str:
    return "|".join(expressions)


def _character_class(ranges: str) -> str:
    """The class of characters given as code points and ranges of them, in hexadecimal."""
    ends = (part.split("-") for part in ranges.split())
    return "[" + "".join("-".join(rf"\x{{{end}}}" for end in pair) for pair in ends) + "]"


_DIGIT = r"\p{N}"
_UP_TO_3_DIGITS = r"\p{N}{1,3}"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_OR_PATH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_LINE_ENDS = r"\s*[\r\n]+"
_SPACES = r"\s+(?!\S)|\s+"
_CHINESE_OR_JAPANESE = r"[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+"
_EAST_ASIAN = r"[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+"


def _cased_word(*, end: str = "", but: str = "") -> str:
    """A word in which small letters may follow capitals, but not the other way round."""
    capital, small = rf"[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]", rf"[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}{but}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    return _either(f"{start}{capital}*{small}+{end}", f"{start}{capital}+{small}*{end}")


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = _either(_CONTRACTION, _WORD, _UP_TO_3_DIGITS, _SIGNS, _LINE_ENDS, _SPACES)
_QWEN2 = _either(_CONTRACTION, _WORD, _DIGIT, _SIGNS, _LINE_ENDS, _SPACES)
_QWEN35_WORD, _QWEN35_SIGNS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
_QWEN35 = _either(_CONTRACTION, _QWEN35_WORD, _DIGIT, _QWEN35_SIGNS, _LINE_ENDS, _SPACES)
_TEKKEN = _either(_cased_word(), _DIGIT, _SIGNS_OR_PATH, _LINE_ENDS, _SPACES)
_GPT4O_WORD = _cased_word(end=f"{_CONTRACTION}?")
_GPT4O = _either(_GPT4O_WORD, _UP_TO_3_DIGITS, _SIGNS_OR_PATH, _LINE_ENDS, _SPACES)
_KIMI_WORD = _cased_word(end=f"{_CONTRACTION}?", but=r"&&[^\p{Han}]")
_KIMI_K2 = _either(r"\p{Han}+", _KIMI_WORD, _UP_TO_3_DIGITS, _SIGNS, _LINE_ENDS, _SPACES)
_BAILING = _either(_CONTRACTION, _WORD, _DIGIT, _SIGNS, r"\s*[\r\n]", _SPACES)
_SEED_CODER = _either(_CONTRACTION, _WORD, _DIGIT, r" ?[^\s\p{L}\p{N}\r\n]+", _LINE_ENDS, _SPACES)
_EXAONE_MOE_WORD = r"[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+"
_EXAONE_MOE = _either(_CONTRACTION, _EXAONE_MOE_WORD, _DIGIT, r" ?[^\s\p{L}\p{N}]+[\r\n/]?", r"\s*[\r\n]", _SPACES)
_JAIS2_SPACES = _either(
    *(rf"\s{{{count}}}(?!\S)" for count in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
)
_JAIS2 = _either(_CONTRACTION, _WORD, _UP_TO_3_DIGITS, _SIGNS, _LINE_ENDS, _JAIS2_SPACES, r"\s")
_MINICPM5 = _either(_CONTRACTION, _WORD, r"\p{N}+", _SIGNS, _LINE_ENDS, _SPACES)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DEEPSEEK_V3 = _either(
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
    r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
    r" ?[\p{P}\p{S}]+[\r\n]*",
    _LINE_ENDS,
    _SPACES,
)
_DEEPSEEK_LLM_LETTER = _character_class(
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_LLM_SIGNS = r"\s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+"
_DEEPSEEK_LLM = (r"[\r\n]", rf"\s?{_DEEPSEEK_LLM_LETTER}+", _DEEPSEEK_LLM_SIGNS, r"\s+$", _EAST_ASIAN, r"\p{N}+")
_FALCON_DIGITS = r"[0-9][0-9][0-9]"

_NAMES: tuple[tuple[PreTokenizer, str], ...] = (
    (PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", _FALCON_DIGITS)), "default"),
    (PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, _FALCON_DIGITS)), "falcon"),
    (PreTokenizer((_GPT2,)), "gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat a.x-4.0 mellum exaone4"),
    (PreTokenizer((_DIGIT, _GPT2)), "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    (
        PreTokenizer((_LLAMA3,), whole_tokens=True, adds_bos=True),
        "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    ),
    (PreTokenizer((_LLAMA3,)), "dbrx smaug-bpe glm4 chatglm-bpe"),
    (PreTokenizer((_QWEN2,)), "qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan solar-open grok-2"),
    (PreTokenizer((_QWEN35,)), "qwen35"),
    (PreTokenizer((_TEKKEN,), whole_tokens=True, adds_bos=True), "tekken"),
    (PreTokenizer((_GPT4O,)), "gpt-4o llama4 kanana2 talkie minimax-m2"),
    (PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)), "tiny_aya cohere2moe"),
    (PreTokenizer((_KIMI_K2,)), "kimi-k2"),
    (PreTokenizer((_BAILING,)), "bailingmoe bailingmoe2 llada-moe"),
    (PreTokenizer((_SEED_CODER,)), "seed-coder"),
    (PreTokenizer((_EXAONE_MOE,)), "exaone-moe"),
    (PreTokenizer((_JAIS2,)), "jais-2"),
    (PreTokenizer((_UP_TO_3_DIGITS, _MINICPM5), whole_tokens=True), "minicpm5"),
    (PreTokenizer((r"[^\n]+|\n+", _QWEN2)), "laguna"),
    (PreTokenizer((_BLOOM,)), "bloom poro-chat gpt3-finnish"),
    (PreTokenizer((_BLOOM, _DIGIT)), "viking"),
    (PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")), "superbpe"),
    (PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, _DIGIT)), "deepseek-coder"),
    (PreTokenizer(_DEEPSEEK_LLM), "deepseek-llm"),
    (
        PreTokenizer((_UP_TO_3_DIGITS, _CHINESE_OR_JAPANESE, _DEEPSEEK_V3)),
        "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    ),
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {name: pre for pre, names in _NAMES for name in names.split()}
"""Every name that is known."""
