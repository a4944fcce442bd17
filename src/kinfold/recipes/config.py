"""What the recipes are told; each field is an option of the command line and a key of the YAML file.

A field's description is its help. What else is to be known of it stands in its `extra`:

    path     "always": a path; "maybe": a name, or a path if it has a slash
    may_differ   a run that is taken up again may have another value
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Text = Annotated[str, Meta(min_length=1)]

PATH = {"path": "always"}
MAY_DIFFER = {"may_differ": True}


class RecipeConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What all recipes are told."""

    model: Annotated[
        Text,
        Meta(description="The card to start from: its name, its file, or its checkpoint.", extra={"path": "maybe"}),
    ]
    data: Annotated[Text, Meta(description="What to train on: a file, or a folder of files.", extra=PATH)]
    family: Annotated[Text | None, Meta(description="The family of a checkpoint that no card names.")] = None
    from_scratch: Annotated[bool, Meta(description="Begin with fresh weights instead of the card's.")] = False
    name: Annotated[
        Text | None, Meta(description="What the card of the outcome is called; MODEL-RECIPE if not said.")
    ] = None
    output: Annotated[
        Text | None, Meta(description="The folder for all that is written; runs/NAME if not said.", extra=PATH)
    ] = None
    card_folder: Annotated[
        Text | None,
        Meta(
            description="The folder for the card; the project's or else the user's if not said.",
            extra={**PATH, **MAY_DIFFER},
        ),
    ] = None
    valid_data: Annotated[Text | None, Meta(description="What to validate on, of the same kind.", extra=PATH)] = None
    valid_share: Annotated[Share, Meta(description="Without such: the share of sequences to hold out.")] = 0.0
    max_seq_len: Annotated[
        Annotated[int, Meta(ge=2)] | None,
        Meta(description="Tokens of a sequence at most; 1024 if not said, or what the model is made for if less."),
    ] = None
    batch_size: Annotated[Count, Meta(description="Sequences of a batch.")] = 8
    gradient_accumulation: Annotated[Count, Meta(description="Batches of a step.")] = 1
    max_num_steps: Annotated[Count | None, Meta(description="Stop after that many steps.")] = None
    max_num_epochs: Annotated[
        Count | None, Meta(description="Stop after seeing the data that often; once if neither is said.")
    ] = None
    lr: Annotated[Positive, Meta(description="The highest learning rate.")] = 2e-5
    lr_schedule: Annotated[
        Literal["cosine", "linear", "constant"], Meta(description="How the learning rate falls after the warm-up.")
    ] = "cosine"
    warmup_steps: Annotated[int, Meta(ge=0, description="In so many steps the learning rate rises to its highest.")] = 0
    final_lr_ratio: Annotated[
        Ratio, Meta(description="What the learning rate falls to, as a share of the highest.")
    ] = 0.0
    weight_decay: Annotated[Amount, Meta(description="AdamW's decay of matrices; vectors have none.")] = 0.01
    max_gradient_norm: Annotated[Positive | None, Meta(description="What the norm of gradients is cut to.")] = 1.0
    dtype: Annotated[
        Literal["float32", "bfloat16"], Meta(description="What to compute in; weights are float32 meanwhile.")
    ] = "float32"
    save_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Meta(description="The dtype of the outcome; that of the card's checkpoint if not said."),
    ] = None
    device: Annotated[Text | None, Meta(description="Where to run; cuda if there is one, else cpu.")] = None
    compile: Annotated[bool, Meta(description="Compile the model with torch.compile.")] = False
    tp: Annotated[Count, Meta(description="Ranks of torchrun that share each tensor.", extra=MAY_DIFFER)] = 1
    fsdp: Annotated[
        Count | None,
        Meta(
            description="Ranks that share data and weights; as many as there are, by `tp`, if not said.",
            extra=MAY_DIFFER,
        ),
    ] = None
    pp: Annotated[Count, Meta(description="Stages that the layers are cut into.", extra=MAY_DIFFER)] = 1
    microbatches: Annotated[
        Count,
        Meta(description="With `pp`: how many parts go through the stages one after the other.", extra=MAY_DIFFER),
    ] = 4
    sequence_parallel: Annotated[
        bool, Meta(description="With `tp`: share sequences between blocks, too.", extra=MAY_DIFFER)
    ] = False
    activation_checkpointing: Annotated[
        bool, Meta(description="Compute layers again for gradients, in less memory.", extra=MAY_DIFFER)
    ] = False
    seed: Annotated[int, Meta(ge=0, description="Of fresh weights, the order of the data, and dropout.")] = 2
    validate_every_n_steps: Annotated[
        Count | None, Meta(description="How often to validate; at the end alone if not said.")
    ] = None
    checkpoint_every_n_steps: Annotated[
        Count | None,
        Meta(description="How often to keep what it takes to go on; at the end alone if not said.", extra=MAY_DIFFER),
    ] = None
    keep_last_n_checkpoints: Annotated[
        Count | None, Meta(description="How many of those to keep; null keeps all.", extra=MAY_DIFFER)
    ] = 2
    publish_metrics_every_n_steps: Annotated[
        Count, Meta(description="How often to write metrics.", extra=MAY_DIFFER)
    ] = 10
    tensorboard: Annotated[bool, Meta(description="Write metrics for TensorBoard too.", extra=MAY_DIFFER)] = False

    def num_steps(self, num_samples: int) -> int:
        """How many steps there will be: as said, or as the epochs that are said have; what comes first counts."""
        if self.max_num_epochs is None and self.max_num_steps is not None:
            return self.max_num_steps
        an_epoch = ceil(ceil(num_samples / self.batch_size) / self.gradient_accumulation)
        steps = an_epoch * (self.max_num_epochs or 1)
        return min(steps, self.max_num_steps or steps)

    def contradictions(self) -> Iterator[str]:
        """What two fields cannot say together."""
        if self.valid_data is not None and self.valid_share:
            yield "`valid_data` and `valid_share` exclude each other"
        if self.validate_every_n_steps is not None and self.valid_data is None and not self.valid_share:
            yield "`validate_every_n_steps` needs `valid_data` or `valid_share`"
        if self.sequence_parallel and self.tp == 1:
            yield "`sequence_parallel` needs a `tp` of 2 or more"


class LmConfig(RecipeConfig, kw_only=True, forbid_unknown_fields=True):
    """Fine-tune a decoder on text, or on prompts with completions."""

    text_field: Annotated[Text, Meta(description="The key of a text in JSONL.")] = "text"
    prompt_field: Annotated[Text, Meta(description="The key of a prompt in JSONL.")] = "prompt"
    completion_field: Annotated[
        Text, Meta(description="The key of what is to follow on a prompt; only this is learned.")
    ] = "completion"
    eos_token: Annotated[
        Text | None, Meta(description="The token that ends a document; the tokenizer's own if not said.")
    ] = None


class Seq2SeqConfig(RecipeConfig, kw_only=True, forbid_unknown_fields=True):
    """Train an encoder-decoder on pairs of a source and a target."""

    source_field: Annotated[Text, Meta(description="The key of a source in JSONL.")] = "source"
    target_field: Annotated[Text, Meta(description="The key of a target in JSONL.")] = "target"
    source_language: Annotated[
        Text | None, Meta(description="The token that a source begins with, as eng_Latn; the tokenizer's if not said.")
    ] = None
    target_language: Annotated[
        Text | None, Meta(description="The token that a target begins with, as fra_Latn; none if not said.")
    ] = None
    decoder_start_token: Annotated[
        Text | None,
        Meta(
            description="What the decoder begins with; if not said, what the checkpoint says, else eos where there are "
            "language tokens, else bos."
        ),
    ] = None
    eos_token: Annotated[
        Text | None, Meta(description="The token that ends a sequence; the tokenizer's own if not said.")
    ] = None
    label_smoothing: Annotated[Share, Meta(description="The share of probability spread over the vocabulary.")] = 0.1


RECIPES: Mapping[str, type[RecipeConfig]] = {"lm": LmConfig, "seq2seq": Seq2SeqConfig}
"""Every recipe, and what it is told."""
