"""The spec of a family: what its YAML file may say.

A spec has two halves. Its structure (attention, feed-forward, norms, positions) is the same for every arch and
ends up as code; its archs are sizes (`kinfold.scaffold.spec.sizes`), and end up as data. A size that is absent
from every arch, such as a sliding window, is absent from the generated code too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import UNSET, Meta

from kinfold.documents import decode_document, read_document
from kinfold.errors import ConfigError
from kinfold.scaffold.naming import arch_faults
from kinfold.scaffold.spec.checks import checks
from kinfold.scaffold.spec.section import Section
from kinfold.scaffold.spec.sizes import OPTIONAL, Arch, ModelKind, Sizes, complete, sizes_of, stated
from kinfold.validation import ConfigChecks

Layout = Literal["hf", "gguf", "reference"]


class Attention(Section, frozen=True, kw_only=True):
    """Attention: multi-head, grouped-query (Ainslie et al. 2023) or multi-query."""

    qkv_bias: Annotated[
        bool, Meta(title="biases of q, k and v", description="The query, key and value projections have a bias.")
    ] = False
    output_bias: Annotated[
        bool, Meta(title="a bias of the attention's output", description="The output projection has a bias.")
    ] = False
    qk_norm: Annotated[
        bool, Meta(title="q/k norms per head (RMS)", description="Queries and keys pass an RMS norm per head.")
    ] = False


class FeedForward(Section, frozen=True, kw_only=True):
    """The feed-forward network of a layer."""

    kind: Annotated[Literal["gated", "plain"], Meta(description="Gated (Shazeer 2020) or plain.")] = "gated"
    activation: Annotated[Literal["silu", "gelu", "gelu_tanh", "relu"], Meta(description="The activation.")] = "silu"
    bias: Annotated[
        bool, Meta(title="biases of the feed-forward network", description="The projections have a bias.")
    ] = False


class Norm(Section, frozen=True, kw_only=True):
    """The norms of the layers."""

    kind: Annotated[
        Literal["rms", "layer"],
        Meta(description="By the root mean square (Zhang and Sennrich 2019), or a layer norm (Ba et al. 2016)."),
    ] = "rms"
    order: Annotated[
        Literal["pre", "post"],
        Meta(description="Before each sublayer and after the last layer, or after each sum (Xiong et al. 2020)."),
    ] = "pre"


class Position(Section, frozen=True, kw_only=True):
    """How a model knows the order of its tokens."""

    kind: Annotated[
        Literal["rotary", "sinusoidal", "learned"],
        Meta(description="Turning queries and keys, or a vector added to each token's, computed or learned."),
    ] = "rotary"
    start: Annotated[int, Meta(description="The number of the first position; 2 as in fairseq.", ge=0)] = 0


class Embedding(Section, frozen=True, kw_only=True):
    """From tokens to vectors."""

    scaled: Annotated[
        bool,
        Meta(
            title="embeddings scaled by the square root of their width",
            description="Vectors are multiplied by the square root of their width.",
        ),
    ] = False


class Drop(Section, frozen=True, kw_only=True):
    """A tensor that is not needed in some archs."""

    reason: Annotated[str, Meta(description="Why it is not needed.")]
    when: Annotated[str, Meta(description="The field of the config that has to be true, or set.")]


class KeyMapSpec(Section, frozen=True, kw_only=True):
    """How checkpoints of one layout differ from the family's own, names apart."""

    rotary_pairs: Annotated[
        Literal["halves", "interleaved"],
        Meta(description="Which dimensions of a head rotate together: the two halves, or neighbours."),
    ] = "halves"
    repeats_embedding: Annotated[
        bool, Meta(description="A tied embedding is stored a second time, as the output projection.")
    ] = False
    copies: Annotated[
        dict[str, str],
        Meta(description="Tensors that some checkpoints hold although they repeat another one: name to that one."),
    ] = msgspec.field(default_factory=dict)
    drop: Annotated[dict[str, str | Drop], Meta(description="Tensors that are not needed: pattern to reason.")] = (
        msgspec.field(default_factory=dict)
    )


class Spec(Section, frozen=True, kw_only=True):
    """A model family."""

    description: Annotated[str, Meta(description="One line about the family, for its docstrings.")] = ""
    model: Annotated[ModelKind, Meta(description="A decoder alone, or an encoder and a decoder.")] = "decoder"
    attention: Attention = Attention()
    ffn: FeedForward = FeedForward()
    norm: Norm = Norm()
    position: Position = Position()
    embedding: Embedding = Embedding()
    key_maps: Annotated[dict[Layout, KeyMapSpec], Meta(description="The layouts that its checkpoints come in.")] = (
        msgspec.field(default_factory=lambda: {"hf": KeyMapSpec()})
    )
    archs: Annotated[dict[str, Arch], Meta(description="Named sizes; the first is the default.", min_length=1)] = (
        msgspec.field(default_factory=lambda: {"1b": Arch(num_kv_heads=8)})
    )

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys."""
        return self.position.kind == "rotary"

    def sizes(self) -> dict[str, Sizes]:
        """The sizes of every arch, completed: its own, then the first arch's, then the defaults of `Sizes`."""
        own = {name: stated(arch) for name, arch in self.archs.items()}
        first = next(iter(own.values()))
        return {name: complete({**first, **values}) for name, values in own.items()}

    def field_names(self) -> list[str]:
        """The sizes that are fields of the config: those every such family has, and those some arch of it has."""
        archs = list(self.sizes().values())
        absent = {name for name, off in OPTIONAL.items() if all(getattr(sizes, name) == off for sizes in archs)}
        if len({sizes.tied_embeddings for sizes in archs}) == 1:
            absent.add("tied_embeddings")
        return [name for name in sizes_of(self.model, rotary=self.rotary) if name not in absent]


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
    """Raise a `ConfigError` with everything that does not fit: parts that exclude each other, numbers of archs."""
    faults = [*_structure_faults(spec), *arch_faults(spec.archs)]
    for name, sizes in spec.sizes().items():
        faults += [f"archs.{name}: {fault}" for fault in _size_faults(spec, name, sizes)]
    if faults:
        raise ConfigError(f"{place} does not fit together:", faults=faults)


def dump_spec(spec: Spec) -> str:
    """The spec as YAML: the first arch with all its sizes, the rest without what is as it would be anyway."""
    name, sizes = next(iter(spec.sizes().items()))
    known = {size: getattr(sizes, size) for size in spec.field_names()}
    kept = {**known, "tied_embeddings": sizes.tied_embeddings, "description": spec.archs[name].description}
    spec = msgspec.structs.replace(spec, archs={**spec.archs, name: Arch(**kept)})
    tree, default = msgspec.to_builtins(spec), msgspec.to_builtins(Spec())
    tree = {key: value for key, value in tree.items() if value != default[key]}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Spec)}


def _structure_faults(spec: Spec) -> Iterator[str]:
    if spec.model == "encoder_decoder":
        if spec.rotary:
            yield "position.kind = rotary: an encoder and decoder has `sinusoidal` or `learned` positions"
        if spec.attention.qk_norm:
            yield "attention.qk_norm = true: attention of a decoder to its encoder has no norms of q and k"
        if unknown := sorted(spec.key_maps.keys() - {"hf"}):
            yield f"key_maps.{unknown[0]}: the layout is not known for an encoder and decoder; known: hf"
    if spec.rotary and spec.position.start:
        yield f"position.start = {spec.position.start}: rotary positions always begin at 0"


def _size_faults(spec: Spec, name: str, sizes: Sizes) -> Iterator[str]:
    own, first = stated(spec.archs[name]), stated(next(iter(spec.archs.values())))
    known = sizes_of(spec.model, rotary=spec.rotary)
    for size in own:
        if size not in known:
            yield f"{size} is no size of such a model; known: {', '.join(known)}"
    check = ConfigChecks(sizes)
    for method, fields in checks(spec, known):
        getattr(check, method)(*fields)
    if spec.model == "decoder" and "head_dim" not in first and spec.archs[name].head_dim is UNSET:
        check.divides("num_heads", "model_dim")
    yield from check.faults
