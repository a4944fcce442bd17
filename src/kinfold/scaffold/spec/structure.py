"""The structure of a family, in sections: what is the same for every arch, and written into the code."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from kinfold.scaffold.spec.section import Section


class QkNorm(Section, frozen=True, kw_only=True):
    """The norms that queries and keys pass (Henry et al. 2020; Dehghani et al. 2023, section 2)."""

    kind: Annotated[Literal["rms", "layer"], Meta(description="As `norm.kind`.")] = "rms"
    over: Annotated[
        Literal["head", "width", "each_head"],
        Meta(description="The width of a head, that of all heads together, or a head's with weights of its own."),
    ] = "head"
    weight: Annotated[Literal["plain", "offset", "none"], Meta(description="As `norm.weight`.")] = "plain"
    bias: Annotated[bool, Meta(description="A layer norm adds a bias.")] = False
    after_position: Annotated[bool, Meta(description="After the rotary positions instead of before.")] = False

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parameters of a norm."""
        if self.weight == "none":
            return ()
        return ("weight", "bias") if self.bias else ("weight",)


class Attention(Section, frozen=True, kw_only=True):
    """Attention: multi-head, grouped-query (Ainslie et al. 2023) or multi-query."""

    kind: Annotated[
        Literal["dot_product", "latent", "differential"],
        Meta(description="Dot products, from latent vectors (DeepSeek-V2), or the difference of two (Ye et al. 2024)."),
    ] = "dot_product"
    qkv_bias: Annotated[
        bool | tuple[Literal["q", "k", "v"], ...],
        Meta(
            title="biases of q, k and v",
            description="The query, key and value projections have a bias, or those that are listed.",
        ),
    ] = False
    output_bias: Annotated[
        bool | Literal["last"],
        Meta(
            title="a bias of the attention's output",
            description="The output projection has a bias; `last`: that of the last layer.",
        ),
    ] = False
    qk_norm: Annotated[
        bool | QkNorm,
        Meta(description="Queries and keys pass a norm; true: an RMS norm per head."),
    ] = False
    output_norm: Annotated[
        bool,
        Meta(title="a norm before the attention's output projection", description="Before the output projection."),
    ] = False
    gate: Annotated[
        Literal["none", "headwise", "elementwise"],
        Meta(description="What attention gives is gated by a projection of its input, by heads or by elements."),
    ] = "none"
    gate_bias: Annotated[
        bool, Meta(title="a bias of the gate for each head", description="The gate has a bias for each head.")
    ] = False
    to_encoder: Annotated[
        bool,
        Meta(
            title="attention to an encoder",
            description="Layers attend to what an encoder gave, too, if there is one.",
        ),
    ] = False
    latent_bias: Annotated[
        bool,
        Meta(title="biases of the latent projections", description="The projections to latent vectors have a bias."),
    ] = False
    scaled_by_layer: Annotated[
        bool,
        Meta(
            title="scores divided by the layer",
            description="Scores are divided by the number of the layer, counted from 1 (Karamcheti et al. 2021).",
        ),
    ] = False
    scaled_queries: Annotated[
        Literal["all", "unturned"],
        Meta(description="Which layers `query_scaling` is for: all, or those without rotary positions."),
    ] = "all"
    dynamic_mask: Annotated[
        bool,
        Meta(
            title="a dynamic mask",
            description="Values say how much is added to the scores of their keys (Doge); see `dynamic_mask_keep`.",
        ),
    ] = False
    sinks: Annotated[
        bool,
        Meta(
            title="attention sinks", description="Each head has a learned score that no token has (Xiao et al. 2024)."
        ),
    ] = False

    @property
    def biased(self) -> frozenset[str]:
        """Which of q, k and v have a bias."""
        named = ("q", "k", "v") if self.qkv_bias is True else self.qkv_bias or ()
        return frozenset(named)

    @property
    def norms(self) -> QkNorm | None:
        """The norms of queries and keys."""
        return QkNorm() if self.qk_norm is True else self.qk_norm or None


Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2", "xielu", "sigmoid", "tanh"]


class FeedForward(Section, frozen=True, kw_only=True):
    """The feed-forward network of a layer."""

    kind: Annotated[Literal["gated", "plain"], Meta(description="Gated (Shazeer 2020) or plain.")] = "gated"
    activation: Annotated[Activation, Meta(description="The activation.")] = "silu"
    bias: Annotated[
        bool, Meta(title="biases of the feed-forward network", description="The projections have a bias.")
    ] = False
    inner_norm: Annotated[
        bool,
        Meta(title="a norm inside the feed-forward network", description="A norm before the output projection."),
    ] = False


class Norm(Section, frozen=True, kw_only=True):
    """The norms of the layers."""

    kind: Annotated[
        Literal["rms", "layer"],
        Meta(description="By the root mean square (Zhang and Sennrich 2019), or a layer norm (Ba et al. 2016)."),
    ] = "rms"
    order: Annotated[
        Literal["pre", "post", "output", "both"],
        Meta(
            description="Before each sublayer and after the last layer, after each sum (Xiong et al. 2020), on what a "
            "sublayer gives (OLMo et al. 2025, section 3.1), or before it and on what it gives (Gemma 2)."
        ),
    ] = "pre"
    weight: Annotated[
        Literal["plain", "offset", "none"],
        Meta(description="What multiplies: the weights, one and the weights together, or nothing."),
    ] = "plain"
    bias: Annotated[
        bool, Meta(title="biases of layer norms", description="A layer norm adds a bias, where it has weights.")
    ] = True
    shared: Annotated[
        bool,
        Meta(title="one norm for parallel sublayers", description="Parallel sublayers have one norm before them."),
    ] = False
    first: Annotated[
        bool,
        Meta(title="a norm before the first attention", description="The first layer has a norm before attention."),
    ] = True
    final: Annotated[
        bool | None,
        Meta(
            title="a norm after the last layer",
            description="A norm after the last layer; null: unless a layer ends with one.",
        ),
    ] = None

    @property
    def closing(self) -> bool:
        """Whether there is a norm after the last layer."""
        return self.order != "post" if self.final is None else self.final

    @property
    def leaves(self) -> tuple[str, ...]:
        """The parameters of a norm."""
        if self.weight == "none":
            return ()
        return ("weight", "bias") if self.kind == "layer" and self.bias else ("weight",)


class Residual(Section, frozen=True, kw_only=True):
    """How what a sublayer gives is added."""

    parallel: Annotated[
        bool,
        Meta(
            title="attention and feed-forward in parallel",
            description="Attention and feed-forward side by side (Wang and Komatsuzaki 2021).",
        ),
    ] = False
    of_norm: Annotated[
        bool, Meta(title="residuals of the norms", description="Added to what the norm gives, not to its input.")
    ] = False
    weights: Annotated[
        Literal["none", "learned", "depth"],
        Meta(description="The residual is multiplied by learned weights, or both by what their depth says (Beam)."),
    ] = "none"


class Position(Section, frozen=True, kw_only=True):
    """How a model knows the order of its tokens."""

    kind: Annotated[
        Literal["rotary", "sinusoidal", "learned", "alibi", "none"],
        Meta(
            description="Turning queries and keys, a vector added to each token's, computed or learned, "
            "scores that fall with the distance (Press et al. 2022), or not at all."
        ),
    ] = "rotary"
    start: Annotated[int, Meta(description="The number of the first position; 2 as in fairseq.", ge=0)] = 0
    frequencies: Annotated[
        Literal["tensor2tensor", "paper"],
        Meta(description="Those of sinusoidal positions; see `SinusoidalPositions`."),
    ] = "tensor2tensor"
    reversed: Annotated[
        bool, Meta(title="positions turned backwards", description="Rotary positions turn the other way round.")
    ] = False
    scaled: Annotated[
        bool,
        Meta(
            title="scores of positions scaled like the others",
            description="Scores that fall with the distance are multiplied by the scale of the others (Falcon).",
        ),
    ] = False
    scaled_layers: Annotated[
        Literal["all", "full"],
        Meta(description="Which layers `rope_scaling` is for: all, or those without a window."),
    ] = "all"


class Embedding(Section, frozen=True, kw_only=True):
    """From tokens to vectors."""

    scaled: Annotated[
        bool,
        Meta(
            title="embeddings scaled by the square root of their width",
            description="Vectors are multiplied by the square root of their width.",
        ),
    ] = False
    norm: Annotated[bool, Meta(title="a norm on embeddings", description="Vectors pass a norm.")] = False
    norm_first: Annotated[
        bool,
        Meta(title="a norm before positions are added", description="They do before those of positions are added."),
    ] = False


class Output(Section, frozen=True, kw_only=True):
    """From vectors to logits."""

    bias: Annotated[bool, Meta(title="a bias of the logits", description="The output projection has a bias.")] = False
    transform: Annotated[
        bool,
        Meta(
            title="a transform before the output projection",
            description="A projection, an activation and a norm come before it (Devlin et al. 2019).",
        ),
    ] = False
    transform_activation: Annotated[Activation, Meta(description="The activation of the transform.")] = "gelu"
    transform_bias: Annotated[
        bool, Meta(title="a bias of the transform", description="The projection of the transform has a bias.")
    ] = False
