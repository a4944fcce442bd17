"""The spec of a family: what its YAML file may say.

A spec has two halves. Its structure (attention, feed-forward, positions) is the same for every arch and
ends up as code; its archs are sizes, and end up as data. A size that is absent from every arch, such as a
sliding window, is absent from the generated code too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import UNSET, Meta, UnsetType

from kinfold.documents import decode_document, read_document
from kinfold.errors import ConfigError
from kinfold.scaffold.naming import arch_faults
from kinfold.validation import ConfigChecks

Layout = Literal["hf", "gguf"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a spec have in common: unknown keys are refused."""


class _Scaling(_Section, frozen=True, kw_only=True, tag_field="kind"):
    """A published way to stretch rotary positions; the fields are those of its class in `kinfold.nn`."""


class LinearScaling(_Scaling, frozen=True, kw_only=True, tag="linear"):
    factor: float


class DynamicScaling(_Scaling, frozen=True, kw_only=True, tag="dynamic"):
    factor: float
    original_max_seq_len: int


class Llama3Scaling(_Scaling, frozen=True, kw_only=True, tag="llama3"):
    factor: float
    original_max_seq_len: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0


class YarnScaling(_Scaling, frozen=True, kw_only=True, tag="yarn"):
    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class LongRopeScaling(_Scaling, frozen=True, kw_only=True, tag="longrope"):
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_max_seq_len: int
    factor: float = 1.0
    attention_factor: float | None = None


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling | LongRopeScaling


class Attention(_Section, frozen=True, kw_only=True):
    """Self-attention: causal, multi-head, grouped-query (Ainslie et al. 2023) or multi-query."""

    qkv_bias: Annotated[bool, Meta(description="The query, key and value projections have a bias.")] = False
    output_bias: Annotated[bool, Meta(description="The output projection has a bias.")] = False
    qk_norm: Annotated[bool, Meta(description="Queries and keys pass an RMS norm per head.")] = False


class FeedForward(_Section, frozen=True, kw_only=True):
    """The feed-forward network of a layer."""

    kind: Annotated[Literal["gated", "plain"], Meta(description="Gated (Shazeer 2020) or plain.")] = "gated"
    activation: Annotated[Literal["silu", "gelu", "gelu_tanh", "relu"], Meta(description="The activation.")] = "silu"
    bias: Annotated[bool, Meta(description="The projections have a bias.")] = False


class Sizes(_Section, frozen=True, kw_only=True):
    """All sizes of one arch."""

    model_dim: int = 2048
    num_layers: int = 16
    num_heads: int = 32
    num_kv_heads: int = 32
    head_dim: int = 64
    ffn_inner_dim: int = 8192
    vocab_size: int = 128256
    max_seq_len: int = 8192
    norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None
    tied_embeddings: bool = False


class Arch(_Section, frozen=True, kw_only=True):
    """The sizes that one arch sets; what it leaves out is as in the first arch, and there as in `Sizes`."""

    model_dim: Annotated[int | UnsetType, Meta(description="Width of the residual stream.")] = UNSET
    num_layers: Annotated[int | UnsetType, Meta(description="Number of decoder layers.")] = UNSET
    num_heads: Annotated[int | UnsetType, Meta(description="Number of query heads.")] = UNSET
    num_kv_heads: Annotated[int | UnsetType, Meta(description="Number of key and value heads.")] = UNSET
    head_dim: Annotated[int | UnsetType, Meta(description="Width of one head.")] = UNSET
    ffn_inner_dim: Annotated[int | UnsetType, Meta(description="Inner width of the feed-forward network.")] = UNSET
    vocab_size: Annotated[int | UnsetType, Meta(description="Number of tokens in the vocabulary.")] = UNSET
    max_seq_len: Annotated[int | UnsetType, Meta(description="Longest sequence it was trained on, in tokens.")] = UNSET
    norm_eps: Annotated[float | UnsetType, Meta(description="What norms add to the variance.")] = UNSET
    rope_theta: Annotated[float | UnsetType, Meta(description="Base of the rotary frequencies.")] = UNSET
    rope_scaling: Annotated[RopeScaling | UnsetType | None, Meta(description="How rotary positions are stretched.")] = (
        UNSET
    )
    sliding_window: Annotated[int | UnsetType | None, Meta(description="How many tokens back attention reaches.")] = (
        UNSET
    )
    tied_embeddings: Annotated[bool | UnsetType, Meta(description="The output projection is the embedding.")] = UNSET
    description: Annotated[str, Meta(description="One line about this arch.")] = ""


class KeyMapSpec(_Section, frozen=True, kw_only=True):
    """How checkpoints of one layout differ from the family's own, names apart."""

    rotary_pairs: Annotated[
        Literal["halves", "interleaved"],
        Meta(description="Which dimensions of a head rotate together: the two halves, or neighbours."),
    ] = "halves"
    repeats_embedding: Annotated[
        bool, Meta(description="The tied embedding is stored a second time, as the output projection.")
    ] = False
    drop: Annotated[dict[str, str], Meta(description="Tensors that are not needed: pattern to reason.")] = {}


class Spec(_Section, frozen=True, kw_only=True):
    """A model family."""

    description: Annotated[str, Meta(description="One line about the family, for its docstrings.")] = ""
    attention: Attention = Attention()
    ffn: FeedForward = FeedForward()
    key_maps: Annotated[dict[Layout, KeyMapSpec], Meta(description="The layouts that its checkpoints come in.")] = (
        msgspec.field(default_factory=lambda: {"hf": KeyMapSpec()})
    )
    archs: Annotated[dict[str, Arch], Meta(description="Named sizes; the first is the default.", min_length=1)] = (
        msgspec.field(default_factory=lambda: {"1b": Arch(num_kv_heads=8)})
    )

    def sizes(self) -> dict[str, Sizes]:
        """The sizes of every arch, completed: its own, then the first arch's, then the defaults of `Sizes`.

        Where neither arch sets them, heads share the width, and each has its own key and value.
        """
        stated = {name: _stated(arch) for name, arch in self.archs.items()}
        first = next(iter(stated.values()))
        return {name: _complete({**first, **own}) for name, own in stated.items()}


def _stated(arch: Arch) -> dict[str, Any]:
    """The sizes that an arch sets itself."""
    return {name: value for name in Sizes.__struct_fields__ if (value := getattr(arch, name)) is not UNSET}


def _complete(values: dict[str, Any]) -> Sizes:
    sizes = Sizes(**values)
    heads = sizes.num_heads
    derived = {"num_kv_heads": heads, "head_dim": sizes.model_dim // heads if heads > 0 else 0}
    return msgspec.structs.replace(sizes, **{name: v for name, v in derived.items() if name not in values})


def read_spec(path: Path) -> Spec:
    """The spec in a YAML file, checked as a whole (`check_spec`)."""
    spec = read_document(path, Spec, ConfigError)
    check_spec(spec, place=str(path))
    return spec


def parse_spec(text: str, *, place: str) -> Spec:
    """The spec in a YAML text; `place` stands in the messages."""
    spec = decode_document(text, Spec, ConfigError, place=place)
    check_spec(spec, place=place)
    return spec


def check_spec(spec: Spec, *, place: str) -> None:
    """Raise a `ConfigError` with every number of every arch that does not fit."""
    faults = arch_faults(spec.archs)
    first = _stated(next(iter(spec.archs.values())))
    for name, sizes in spec.sizes().items():
        check = ConfigChecks(sizes)
        check.positive(
            "model_dim", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn_inner_dim", "vocab_size",
            "max_seq_len", "norm_eps", "rope_theta",
        )  # fmt: skip
        check.positive_or_none("sliding_window")
        check.divides("num_kv_heads", "num_heads")
        check.even("head_dim")
        if "head_dim" not in first and spec.archs[name].head_dim is UNSET:
            check.divides("num_heads", "model_dim")
        faults += [f"archs.{name}: {fault}" for fault in check.faults]
    if faults:
        raise ConfigError(f"{place} does not fit together:", faults=faults)


def dump_spec(spec: Spec) -> str:
    """The spec as YAML: the first arch with all its sizes, the rest without what is as it would be anyway."""
    name, sizes = next(iter(spec.sizes().items()))
    described = Arch(**msgspec.structs.asdict(sizes), description=spec.archs[name].description)
    spec = msgspec.structs.replace(spec, archs={**spec.archs, name: described})
    tree, default = msgspec.to_builtins(spec), msgspec.to_builtins(Spec())
    tree = {key: value for key, value in tree.items() if value != default[key]}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Spec)}
