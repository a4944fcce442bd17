"""What the files of checkpoints are called."""

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
REFERENCE = "reference.safetensors"
PICKLE_INDEX = "pytorch_model.bin.index.json"
PICKLE_SINGLE = "pytorch_model.bin"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
META_RANKS = "consolidated.*.pth"
CONFIGS = ("config.json", "params.json")
DCP_METADATA = ".metadata"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip
