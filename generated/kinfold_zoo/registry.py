"""The families shipped with Kinfold.

`scaffold new-family` adds to this table and keeps it sorted.
"""

FAMILIES: dict[str, str] = {
    "llama": "kinfold_zoo.llama",
    "mistral": "kinfold_zoo.mistral",
    "nllb": "kinfold_zoo.nllb",
    "transformer": "kinfold_zoo.transformer",
}
