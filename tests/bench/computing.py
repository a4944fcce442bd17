"""The rows about what models compute: training steps, forward passes, decoding.

All sides have the same sizes, and random weights: no time here depends on their values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from textwrap import dedent

from fixtures import TOP, litgpt_python
from measure import Command, Row, timed

KINFOLD = """
    import torch
    from kinfold import generate
    from kinfold_zoo.llama import LlamaConfig, create_llama_model
    model = create_llama_model(LlamaConfig(model_dim={dim}, num_layers={layers}, num_heads={heads},
        num_kv_heads={kv_heads}, head_dim={head_dim}, ffn_inner_dim={inner}, vocab_size={vocab}, max_seq_len=512,
        tied_embeddings={tied}), dtype={dtype})
    predict = model
"""

TRANSFORMERS = """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_default_dtype({dtype})
    model = LlamaForCausalLM(LlamaConfig(hidden_size={dim}, num_hidden_layers={layers}, num_attention_heads={heads},
        num_key_value_heads={kv_heads}, intermediate_size={inner}, vocab_size={vocab}, max_position_embeddings=512,
        tie_word_embeddings={tied}))
    model.generation_config.eos_token_id = None
    def predict(token_ids):
        return model(token_ids, use_cache=False).logits
"""

LITGPT = """
    import torch
    from litgpt.config import Config
    from litgpt.generate.base import generate
    from litgpt.model import GPT
    torch.set_default_dtype({dtype})
    model = GPT(Config(n_embd={dim}, n_layer={layers}, n_head={heads}, n_query_groups={kv_heads},
        intermediate_size={inner}, padded_vocab_size={vocab}, block_size=512, rotary_percentage=1.0,
        parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP"))
    if {tied}:
        model.lm_head.weight = model.transformer.wte.weight
    predict = model
"""

LLAMA_44M = {
    "dim": 512, "layers": 8, "heads": 8, "kv_heads": 8, "head_dim": 64, "inner": 1536, "vocab": 16000, "tied": False,
}  # fmt: skip
"""43,655,680 parameters."""

SMOLLM2 = {
    "dim": 576, "layers": 30, "heads": 9, "kv_heads": 3, "head_dim": 64, "inner": 1536, "vocab": 49152, "tied": True,
}  # fmt: skip
"""SmolLM2-135M."""

# The fused AdamW is what transformers' own Trainer takes.
TRAINING = """
    from torch.nn.functional import cross_entropy
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint({vocab}, (2, 257))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
    def step():
        cross_entropy(predict(inputs).flatten(0, 1), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    for _ in range(2):
        step()
"""

FORWARD = """
    model.eval()
    torch.set_grad_enabled(False)
    inputs = torch.randint({vocab}, {shape})
    for _ in range(2):
        predict(inputs)
"""

DECODING = """
    model.eval()
    prompt = torch.tensor([[504, 3575, 282, 4649, 314]])
    {before}
    def continued(count):
        return {call}
    continued(4)
"""

CONTINUED = {
    "kinfold": {"before": "", "call": "generate(model, prompt, max_new_tokens=count)"},
    "transformers": {"before": "", "call": "model.generate(prompt, max_new_tokens=count, do_sample=False)"},
    "litgpt": {
        "before": "model.max_seq_length = 5 + 64; model.set_kv_cache(batch_size=1)",
        "call": "generate(model, prompt[0], 5 + count, temperature=0.0, top_p=0.0)[None]",
    },
}
"""How each side decodes, greedily and with its cache."""


def train_step() -> Row:
    """Forward, loss, backward and the optimizer's step."""
    return _row("training step of a 44M Llama, float32, 2 x 256 tokens", LLAMA_44M, TRAINING, "step()", repeat=7)


def forward() -> Row:
    """The forward pass of a training step, without gradients."""
    setup = FORWARD.replace("{shape}", "(2, 256)")
    return _row("forward pass of the same, without gradients", LLAMA_44M, setup, "predict(inputs)", repeat=15)


def prefill() -> Row:
    """The forward pass over a prompt."""
    setup = FORWARD.replace("{shape}", "(1, 256)")
    return _row("forward pass of SmolLM2-135M, float32, 1 x 256 tokens", SMOLLM2, setup, "predict(inputs)", repeat=7)


def decode() -> Row:
    """64 tokens in float32, batch 1, greedy, with the cache."""
    return _decode("float32", ">= 1.5 x transformers")


def decode_bfloat16() -> Row:
    """The same in bfloat16."""
    return _decode("bfloat16", "at least as fast")


def _decode(dtype: str, goal: str) -> Row:
    return _row(
        f"decode 64 tokens of SmolLM2-135M, {dtype}, batch 1",
        SMOLLM2,
        DECODING,
        "assert continued(64).shape == (1, 69)",
        dtype=dtype,
        goal=goal,
        repeat=3,
    )


def _row(
    what: str,
    sizes: dict[str, int | bool],
    setup: str,
    work: str,
    *,
    repeat: int,
    dtype: str = "float32",
    goal: str = "at least as fast as the faster",
) -> Row:
    """A row in which each side makes a model, prepares by `setup` and is timed at `work`."""

    def command(name: str, model: str, python: str) -> Command:
        holes = {**sizes, **CONTINUED[name], "dtype": f"torch.{dtype}"}
        code = (dedent(model) + dedent(setup)).format(**holes)
        return timed(name, TOP, code, work, python=python, repeat=repeat)

    return Row(
        what,
        command("kinfold", KINFOLD, sys.executable),
        [command("transformers", TRANSFORMERS, sys.executable), command("litgpt", LITGPT, litgpt_python())],
        goal,
    )


ROWS: dict[str, Callable[[], Row]] = {
    "train-step": train_step,
    "forward": forward,
    "prefill": prefill,
    "decode": decode,
    "decode-bfloat16": decode_bfloat16,
}
