"""Spreading a model over several devices: gangs of ranks, shard plans, and what is done with them.

Every public name is resolved when it is first used: a family that has a plan imports nothing of torch.distributed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kinfold.parallel.data import shard_data_parallel
    from kinfold.parallel.export import save_sharded_model
    from kinfold.parallel.fresh import fresh_model
    from kinfold.parallel.gangs import Gang, Gangs, pretended_gangs, setup_gangs
    from kinfold.parallel.joined import joined_shards
    from kinfold.parallel.layers import checkpoint_activations
    from kinfold.parallel.loss import cross_entropy, spread_logits
    from kinfold.parallel.pipeline import Pipeline
    from kinfold.parallel.plan import ShardPlan
    from kinfold.parallel.stages import keep_stage
    from kinfold.parallel.tensor import shard_model, shard_transformer_decoder_model

__all__ = [
    "Gang",
    "Gangs",
    "Pipeline",
    "ShardPlan",
    "checkpoint_activations",
    "cross_entropy",
    "fresh_model",
    "joined_shards",
    "keep_stage",
    "pretended_gangs",
    "save_sharded_model",
    "setup_gangs",
    "shard_data_parallel",
    "shard_model",
    "shard_transformer_decoder_model",
    "spread_logits",
]

_HOMES = {
    "Gang": "gangs",
    "Gangs": "gangs",
    "Pipeline": "pipeline",
    "ShardPlan": "plan",
    "checkpoint_activations": "layers",
    "cross_entropy": "loss",
    "fresh_model": "fresh",
    "joined_shards": "joined",
    "keep_stage": "stages",
    "pretended_gangs": "gangs",
    "save_sharded_model": "export",
    "setup_gangs": "gangs",
    "shard_data_parallel": "data",
    "shard_model": "tensor",
    "shard_transformer_decoder_model": "tensor",
    "spread_logits": "loss",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'kinfold.parallel' has no attribute {name!r}")
    value = getattr(import_module(f"kinfold.parallel.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
