"""The spec of a family: what its YAML file may say.

A spec has two halves. Its structure (`kinfold.scaffold.spec.structure`) is the same for every arch and ends up as
code; its archs are sizes (`kinfold.scaffold.spec.sizes`), and end up as data. A size that is absent
from every arch, such as a sliding window, is absent from the generated code too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from kinfold.documents import decode_document, read_document
from kinfold.errors import ConfigError
from kinfold.scaffold.naming import arch_faults
from kinfold.scaffold.spec.section import Section
from kinfold.scaffold.spec.sizes import OPTIONAL, Arch, ModelKind, Sizes, complete, in_turns, sizes_of, stated
from kinfold.scaffold.spec.structure import Attention, Embedding, FeedForward, Norm, Output, Position, Residual

Layout = Literal["hf", "gguf", "reference"]


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
    rules: Annotated[
        tuple[str, ...],
        Meta(description="The whole map, rule by rule, where the names are not the usual ones of the layout."),
    ] = ()


class Spec(Section, frozen=True, kw_only=True):
    """A model family."""

    description: Annotated[str, Meta(description="One line about the family, for its docstrings.")] = ""
    model: Annotated[ModelKind, Meta(description="A decoder alone, or an encoder and a decoder.")] = "decoder"
    attention: Attention = Attention()
    ffn: FeedForward = FeedForward()
    norm: Norm = Norm()
    residual: Residual = Residual()
    position: Position = Position()
    embedding: Embedding = Embedding()
    output: Output = Output()
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

    @property
    def thetas_in_turns(self) -> bool:
        """Whether the layers of some arch turn by different bases."""
        return any(isinstance(arch.rope_theta, tuple) for arch in self.archs.values())

    def sizes(self) -> dict[str, Sizes]:
        """The sizes of every arch, completed: its own, then the first arch's, then the defaults of `Sizes`."""
        own = {name: stated(arch) for name, arch in self.archs.items()}
        first = next(iter(own.values()))
        archs = {name: complete({**first, **values}) for name, values in own.items()}
        return {name: in_turns(sizes) for name, sizes in archs.items()} if self.thetas_in_turns else archs

    def values(self, size: str) -> set[Any]:
        """What a size is in the archs."""
        return {getattr(sizes, size) for sizes in self.sizes().values()}

    def field_names(self) -> list[str]:
        """The sizes that are fields of the config: those every such family has, and those some arch of it has."""
        archs = list(self.sizes().values())
        absent = {name for name, off in OPTIONAL.items() if all(getattr(sizes, name) == off for sizes in archs)}
        if len({sizes.tied_embeddings for sizes in archs}) == 1:
            absent.add("tied_embeddings")
        if not any("num_kv_heads" in stated(arch) for arch in self.archs.values()):
            absent.add("num_kv_heads")
        if self.attention.kind != "latent" and all(sizes.rotary_dim == sizes.head_dim for sizes in archs):
            absent.add("rotary_dim")
        return [name for name in self.known_sizes() if name not in absent]

    @property
    def kv_heads(self) -> str:
        """The size that says how many key and value heads there are."""
        return "num_kv_heads" if "num_kv_heads" in self.field_names() else "num_heads"

    def known_sizes(self) -> list[str]:
        """The names of the sizes that a family of this structure can have, in their order."""
        return sizes_of(
            self.model,
            position=self.position.kind,
            attention=self.attention.kind,
            dynamic_mask=self.attention.dynamic_mask,
        )


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
    from kinfold.scaffold.spec.faults import size_faults, structure_faults

    faults = [*structure_faults(spec), *arch_faults(spec.archs)]
    for name, sizes in spec.sizes().items():
        faults += [f"archs.{name}: {fault}" for fault in size_faults(spec, name, sizes)]
    if faults:
        raise ConfigError(f"{place} does not fit together:", faults=faults)


def dump_spec(spec: Spec) -> str:
    """The spec as YAML: the first arch with all its sizes, the rest without what is as it would be anyway."""
    name, sizes = next(iter(spec.sizes().items()))
    known = {size: getattr(sizes, size) for size in spec.field_names()}
    kept = {**known, "tied_embeddings": sizes.tied_embeddings, "description": spec.archs[name].description}
    spec = msgspec.structs.replace(spec, archs={**spec.archs, name: Arch(**kept)})
    tree, default = msgspec.to_builtins(spec), msgspec.to_builtins(Spec())
    tree = {key: value for key, value in tree.items() if value != default.get(key, {})}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def json_schema() -> dict[str, Any]:
    """The JSON schema of a spec file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Spec)}
