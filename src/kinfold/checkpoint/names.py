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
