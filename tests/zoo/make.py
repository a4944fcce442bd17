"""Write tiny random checkpoints of transformers' families of decoders, with the logits that transformers computes.

    python tests/zoo/make.py FOLDER [FAMILY ...] [--seed N] [--variations]

Without FAMILY, all families that transformers calls causal are written; `llama+tied` is a FAMILY, too, and a group of
families.yaml, such as `dense`, stands for all of it. Each gets a folder with config.json, safetensors in several
shards, and reference.safetensors with `token_ids` (2, 24), int64, and `logits` (2, 24, vocabulary), float64; and in
unseen/, another one of 40 tokens, which who makes a family does not see. With --variations, so does FAMILY+VARIATION
for each of variations.py that fits. What cannot be built is said, and is in FOLDER/report.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from zoo.families import VARIED, data
from zoo.sizes import FAMILIES, TINY
from zoo.variations import VARIATIONS, Variation

LARGEST = 50_000_000
"""Parameters: a family that cannot be made smaller than this is not built."""

GAIN = 4.0
"""Of every matrix: as families initialise them, a tiny model is so close to linear that no activation shows."""

EAGER: dict[str, Any] = {"attn_implementation": "eager", "experts_implementation": "eager"}
BUILT = "ok"
LOOKS_AHEAD = "ok, but it looks ahead"
"""What the report says of a checkpoint where a token changes what comes before it."""


class NotBuilt(Exception):
    """Why there is no such checkpoint."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variations", action="store_true")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    groups = data()["groups"]
    asked = options.families or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    names = [name for family in asked for name in (groups[family]["families"] if family in groups else [family])]
    if options.variations:
        names = [varied for name in names for varied in (name, *_variations(name))]
    report = {}
    for name in names:
        report[name] = _outcome(name, options.folder, options.seed)
        print(f"{name}: {report[name]}", flush=True)
    (options.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(f"{sum(said.startswith(BUILT) for said in report.values())} of {len(report)} built")
    return 0


def build(name: str, folder: Path, *, seed: int = 0) -> bool:
    """Write one checkpoint and its reference.

    Args:
        name: A model type of transformers, and maybe a variation: `llama`, `llama+tied`.
        folder: Of checkpoints; in it, a folder with this name is made. What it had of an earlier build is removed.
        seed: Of the weights and of the tokens.

    Returns:
        Whether it is causal: a token changes nothing before it.

    Raises:
        NotBuilt: There is no such variation, it is too big, it is not finite, or transformers loads it otherwise.
        Exception: What transformers raises, where it cannot build such a model.
    """
    config = tiny_config(*split_name(name))
    _check_size(config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, **EAGER).float().eval()
    generator = torch.Generator().manual_seed(seed)
    randomize(model, generator)
    most = min(250, config.get_text_config().vocab_size)
    token_ids, unseen = (torch.randint(3, most, (2, length), generator=generator) for length in (24, 40))
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    for old in (*place.glob("model*.safetensors*"), *place.rglob("reference.safetensors")):
        old.unlink()
    model.save_pretrained(place, max_shard_size="200KB")
    logits = logits_of(model, token_ids)
    _check_reloaded(place, token_ids, logits)
    save_file({"token_ids": token_ids, "logits": logits}, place / "reference.safetensors")
    (place / "unseen").mkdir(exist_ok=True)
    save_file({"token_ids": unseen, "logits": logits_of(model, unseen)}, place / "unseen" / "reference.safetensors")
    changed = token_ids.clone()
    changed[:, -1] = 3 + (changed[:, -1] - 2) % 200
    return torch.equal(logits_of(model, changed)[:, :-1], logits[:, :-1])


def split_name(name: str) -> tuple[str, Variation | None]:
    """The family and the variation of a folder's name."""
    kind, _, varied = name.partition(VARIED)
    if not varied:
        return kind, None
    found = next((variation for variation in fitting(kind) if variation.name == varied), None)
    if found is None:
        raise NotBuilt(f"{kind} has no variation {varied!r}: variations.py has none that fits")
    return kind, found


def tiny_config(kind: str, variation: Variation | None = None) -> Any:
    """A config of transformers in the sizes of sizes.py, varied."""
    known = CONFIG_MAPPING[kind]().to_dict()
    values = {key: value for key, value in TINY.items() if known.get(key) is not None or _is_token(key, known)}
    values |= FAMILIES.get(kind, {})
    values = {key: value for key, value in values.items() if value is not None}
    if variation is not None:
        values = _merged({**known, **values}, variation.values, only=values)
    return CONFIG_MAPPING[kind](**values)


def fitting(kind: str) -> Iterator[Variation]:
    """The variations that a family's config knows, and that change something in it."""
    config = tiny_config(kind).to_dict()
    for variation in VARIATIONS:
        if not any(fnmatch(kind, pattern) for pattern in variation.families):
            continue
        known = {key: value for key, value in variation.values.items() if key in config}
        if known and all(_has(config, key) for key in variation.needs) and _merged(config, known) != config:
            yield variation


def randomize(model: nn.Module, generator: torch.Generator) -> None:
    """Make every parameter random, so that one that is skipped or swapped shows in the logits.

    Norms, biases and gains come near what they were; matrices are multiplied by about `GAIN`.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(noise * 0.1)
            elif not parameter.any():
                parameter.copy_(noise * 0.05 * GAIN)
            else:
                parameter.mul_(GAIN * (1 + 0.2 * noise))


@torch.no_grad()
def logits_of(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Logits (batch, seq, vocabulary) as float64; computed in it too, where the family's code can."""
    for dtype in (torch.float64, torch.float32):
        try:
            output = model.to(dtype)(input_ids=token_ids, use_cache=False)
        except RuntimeError:  # a constant that overflows, a kernel of one dtype only
            if dtype is torch.float32:
                raise
        else:
            return getattr(output, "logits", output[0]).double().contiguous()
    raise AssertionError("not reached")


def _variations(kind: str) -> list[str]:
    """The names of what fits a family; of one whose config cannot be made, which `_outcome` reports, none."""
    try:
        return [f"{kind}{VARIED}{variation.name}" for variation in fitting(kind)]
    except Exception:
        return []


def _outcome(name: str, folder: Path, seed: int) -> str:
    """Build one; what came of it, for the report."""
    try:
        return BUILT if build(name, folder, seed=seed) else LOOKS_AHEAD
    except NotBuilt as error:
        return str(error)
    except Exception as error:  # transformers' own, of any kind: it is listed, not hidden
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _check_size(config: Any) -> None:
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise NotBuilt(f"too big: {size} parameters")


def _check_reloaded(folder: Path, token_ids: Tensor, logits: Tensor) -> None:
    """Whether transformers loads what it saved: only then is the checkpoint one of what computed the logits."""
    reloaded = logits_of(AutoModelForCausalLM.from_pretrained(folder, **EAGER).eval(), token_ids)
    if not torch.isfinite(logits).all():
        raise NotBuilt("its logits are not finite")
    gap = float((reloaded - logits).abs().max() / logits.abs().max())
    if not gap <= 1e-6:
        raise NotBuilt(f"transformers loads something else than it saved: {gap:.1e} of the largest logit apart")


def _is_token(key: str, known: Mapping[str, Any]) -> bool:
    return key.endswith("_token_id") and key in known


def _has(config: Mapping[str, Any], path: str) -> bool:
    """Whether a config has a key that is not None; dots lead into dicts."""
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value is not None


def _merged(
    base: Mapping[str, Any], values: Mapping[str, Any], only: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """`only` (by default, all of `base`) with the values that `base` knows, dicts merged into those of `base`."""
    merged = dict(base if only is None else only)
    for key, value in values.items():
        if key not in base:
            continue
        old = base[key]
        merged[key] = {**old, **value} if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


if __name__ == "__main__":
    sys.exit(main())
