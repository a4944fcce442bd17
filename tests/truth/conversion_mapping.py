"""Transformers' own conversion mappings: what a tensor is called on disk, and what it becomes in memory.

Nothing is written by hand: `revert_weight_conversion`, with which transformers saves, is run on tensors whose values
are the number of the tensor in memory, so that each tensor on disk shows what it is made of. A tensor counts only if
the mapping, run forwards as it is when loading, leads from its name on disk back to the tensor in memory.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers import conversion_mapping as mappings
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import remove_tied_weights_from_state_dict
from transformers.models.auto import modeling_auto

from kinfold.checkpoint import Manifest, TensorInfo
from truth.case import Case

SKIPPED: dict[str, str] = {}
"""Families of the mapping that give no case, and why; filled by `cases`."""

LEAST = 0.8
"""The share of a model's tensors that has to lead there and back for it to be a case."""

LARGEST = 100_000_000
"""Values of a model that is still taken: what is fused or split is laid out in memory."""

SIZES: Mapping[str, int] = {
    "vocab_size": 256, "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64,
    "word_embed_proj_dim": 64, "num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "num_layers": 3, "depth": 3,
    "encoder_layers": 3, "decoder_layers": 3, "num_decoder_layers": 3,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 96, "ffn_dim": 96, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "d_ff": 96, "n_inner": 96,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "rotary_dim": 8, "sliding_window": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "moe_topk": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""What a small model's config says, where its family says a number by default."""

LATENT_SIZES: Mapping[str, int] = {**SIZES, "head_dim": 8, "num_key_value_heads": 4}
"""The same where keys and values are compressed."""

LAYERS_ONLY: Mapping[str, int] = {k: v for k, v in SIZES.items() if k.endswith(("layers", "n_layer", "depth"))}
"""The same for families whose other sizes depend on each other."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "beit": {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]},
    "chameleon": {"vocabulary_map": {"<image>": 0}},
    "cosmos3_edge_text": {"head_dim": 128},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "ernie4_5_vl_moe_text": {"head_dim": 128},
    "esm": {"vocab_size": 33},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm5_next_text": {"num_key_value_heads": 4, "qk_rope_head_dim": None},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16},
    "inkling2_vision": {"text_hidden_size": 64},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "ministral": {"head_dim": 16},
    "molmo2_adapter": {"vision_feature_layer": [2, 1]},
    "nemotron": {"num_key_value_heads": 2},
}
"""What the config of a model type needs besides; None is its default."""

HEADS = ("FOR_CAUSAL_LM", "FOR_IMAGE_TEXT_TO_TEXT", "FOR_MULTIMODAL_LM", "FOR_MASKED_LM", "FOR_SEQ_TO_SEQ_CAUSAL_LM")
"""The auto classes that are tried first, in this order."""


def cases() -> Iterator[Case]:
    """A case for each family whose tensors have other names or shapes on disk than in memory."""
    yield from _cases()


@functools.cache
def _cases() -> tuple[Case, ...]:
    found: dict[str, Case] = {}
    first: dict[frozenset[tuple[str, frozenset[str]]], str] = {}
    covered: set[str] = set()
    with quiet():
        known = mappings._build_checkpoint_conversion_mapping()
        kinds = sorted(CONFIG_MAPPING)
        for family in (*kinds, *sorted(known.keys() - set(kinds) - {"legacy"})):
            if family in covered:
                continue
            case, failures = None, []
            try:
                for model in tiny_models(model_classes(family)):
                    covered |= {type(module).__name__ for module in model.modules()}
                    try:
                        case = case_of(family, model)
                    except ValueError as error:
                        failures.append(str(error))
                    if case is not None or family not in known:
                        break
            except ValueError as error:
                failures.append(str(error))
            if case is None and family in known:
                SKIPPED[family] = "; ".join(failures[:1]) or "the same on disk as in memory"
            if case is not None:
                same = first.setdefault(frozenset(case.truth.items()), family)
                if same == family:
                    found[family] = case
                else:
                    SKIPPED[family] = f"the same map as {same}"
    return tuple(found.values())


def case_of(family: str, model: PreTrainedModel) -> Case | None:
    """The case of one model, or None if it is the same on disk as in memory.

    Raises:
        ValueError: The mapping cannot be run backwards and forwards again for most of the tensors.
    """
    memory = saved_state(model)
    all_own = mappings.get_model_conversion_mapping(model, add_legacy=False)
    own = [rule for rule in all_own if not _doubles_prefix(rule, model)]
    legacy = mappings.get_model_conversion_mapping(model, add_legacy=True)[len(all_own) :]
    older = [rule for rule in legacy if len(rule.source_patterns) == 1]  # the others undo one release's defect
    attempts = (own, [rule for rule in own if not isinstance(rule, PrefixChange)], [*own, *older])
    failures = []
    for rules in attempts:
        try:
            disk, truth = _there_and_back(model, memory, rules)
        except ValueError as error:
            failures.append(str(error))
            continue
        source, target = manifest(disk), manifest({name: memory[name] for name in truth})
        if dict(source) != dict(target):
            return Case("conversion_mapping", family, source, target, truth)
    if failures:
        raise ValueError(failures[0])
    return None


def _doubles_prefix(rule: WeightTransform, model: PreTrainedModel) -> bool:
    """Whether reverting the rule puts a prefix in front of names that have it already, as no checkpoint does."""
    if not isinstance(rule, PrefixChange):
        return False
    if rule.scope_prefix:
        return rule.scope_prefix.rsplit(".", 1)[-1] == rule.prefix_to_remove
    return not rule.model_prefix and hasattr(model, model.base_model_prefix)


def _there_and_back(
    model: PreTrainedModel, memory: Mapping[str, Tensor], rules: list[WeightTransform]
) -> tuple[dict[str, Tensor], dict[str, frozenset[str]]]:
    """The tensors on disk, and for each in memory those that it is made of."""
    made_of = on_disk(model, memory, rules)
    leads_to = forwards(model, made_of, memory)
    good = {name for name, (_, parts) in made_of.items() if parts <= leads_to[name]}
    truth = {name: frozenset(disk for disk, (_, parts) in made_of.items() if name in parts) for name in memory}
    truth = {name: parts for name, parts in truth.items() if parts and parts <= good}
    if len(truth) < LEAST * len(memory):
        lost = next(name for name in memory if name not in truth)
        raise ValueError(f"only {len(truth)} of {len(memory)} tensors lead to the disk and back, not {lost}")
    used = frozenset[str]().union(*truth.values())
    return {name: tensor for name, (tensor, _) in made_of.items() if name in used}, truth


def on_disk(
    model: PreTrainedModel, memory: Mapping[str, Tensor], rules: list[WeightTransform]
) -> dict[str, tuple[Tensor, frozenset[str]]]:
    """What transformers would save: each tensor, and the names in memory of those that it is made of."""
    if sum(tensor.numel() for tensor in memory.values()) > LARGEST:
        raise ValueError("too large")
    names = list(memory)
    tagged = {name: torch.tensor(i, dtype=torch.int16).expand(memory[name].shape) for i, name in enumerate(names)}
    model._weight_conversions = rules  # pyright: ignore[reportArgumentType]
    try:
        saved = revert_weight_conversion(model, tagged) if rules else tagged
    except Exception as error:
        raise ValueError(f"cannot be reverted: {_first_line(error)}") from error
    finally:
        del model._weight_conversions
    return {name: (tensor, frozenset(names[i] for i in _values(tensor))) for name, tensor in saved.items()}


def forwards(model: PreTrainedModel, disk: Iterable[str], memory: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """Where loading puts each tensor on disk: the names in memory of what it is part of."""
    rules = mappings.get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    targets = {pattern: rule.target_patterns for rule in converters for pattern in rule.source_patterns}
    leads_to = {}
    for name in sorted(disk, key=dot_natural_key):
        to, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, dict(memory))
        if to not in memory and name in memory:
            leads_to[name] = {name}
        elif pattern is None:
            leads_to[name] = {to}
        else:  # a converter with several targets gives the name of the first
            leads_to[name] = {to.replace(targets[pattern][0], target) for target in targets[pattern]}
    return leads_to


def saved_state(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors, those that are tied once, under the name that is saved."""
    return remove_tied_weights_from_state_dict(dict(model.state_dict()), model)


def saved_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """The model's tensors as `save_pretrained` would write them."""
    return revert_weight_conversion(model, saved_state(model))


def manifest(tensors: Mapping[str, Tensor], dtype: str = "float32") -> Manifest:
    """Names and shapes; no tensor's values matter, so that all have one dtype."""
    return {name: TensorInfo(tuple(tensor.shape), dtype, dtype) for name, tensor in tensors.items()}


def model_classes(family: str) -> tuple[type[PreTrainedModel], ...]:
    """The model classes of a model type, the likeliest first; or the one class of that name."""
    tables = [name for name in dir(modeling_auto) if name.endswith("_MAPPING_NAMES") and "CONFIG" not in name]
    tables.sort(key=lambda table: [f"MODEL_{head}_MAPPING_NAMES" != table for head in HEADS])
    names: list[str] = []
    for table in tables:
        name = getattr(modeling_auto, table).get(family, ())
        names += [name] if isinstance(name, str) else name
    found = (getattr(transformers, name, None) for name in dict.fromkeys((*names, family)))
    return tuple(cls for cls in found if isinstance(cls, type) and issubclass(cls, PreTrainedModel))


def tiny_models(classes: Iterable[type[PreTrainedModel]]) -> Iterator[PreTrainedModel]:
    """Those of the classes that can be built, small, on the meta device.

    Raises:
        ValueError: None can.
    """
    failures: list[str] = []
    built = False
    for cls in classes:
        for sizes in (SIZES, LATENT_SIZES, LAYERS_ONLY):
            try:
                with torch.device("meta"):
                    model = cls(tiny_config(cls.config_class, sizes))
            except Exception as error:
                failures.append(f"{cls.__name__} cannot be built: {_first_line(error)}")
            else:
                built = True
                yield model
                break
    if not built:
        raise ValueError(failures[0] if failures else "transformers has no model class for it")


def tiny_config(cls: Any, sizes: Mapping[str, int] = SIZES) -> PreTrainedConfig:
    """A config with these sizes wherever it, or a config inside it, has a number by default."""
    default, values = cls(), {}
    for key, value in vars(default).items():
        if isinstance(value, PreTrainedConfig):
            values[key] = tiny_config(type(value), sizes)
    for key, size in {**sizes, "tie_word_embeddings": False}.items():
        with contextlib.suppress(Exception):  # a number that differs from layer to layer
            if isinstance(getattr(default, key, None), int):
                values[key] = size
    values |= SETTINGS.get(default.model_type, {})
    return cls(**{key: value for key, value in values.items() if value is not None})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' warnings."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)


def _values(tensor: Tensor) -> list[int]:
    """The different values of a tensor; one that repeats a single value is not laid out for it."""
    if not tensor.numel():
        return []
    return [int(tensor.flatten()[0])] if not any(tensor.stride()) else tensor.unique().tolist()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
