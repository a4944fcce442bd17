"""`scaffold generate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kinfold.tokenizer import Tokenizer


@click.command("generate")
@click.argument("name")
@click.argument("prompt")
@click.option("--max-new-tokens", default=64, show_default=True, help="Stop after that many tokens.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-k", type=int, help="Sample among that many tokens.")
@click.option("--top-p", type=float, help="Sample among the fewest tokens of that probability.")
@click.option("--seed", type=int, help="Make sampling repeatable.")
@click.option("--start", metavar="TEXT",
              help="What the answer of an encoder and decoder begins with, special tokens spelled out, such as "
              "'</s>fra_Latn'; what its config says, or its end-of-text token, if not said.")  # fmt: skip
@click.option("--device", help="Where to run, such as cuda.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="The dtype to run in.")
def command(
    name: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    start: str | None,
    device: str | None,
    dtype: str | None,
) -> None:
    """Continue a text with a model, or have an encoder and decoder answer to it.

    NAME is a card, the path of its file, or that of a checkpoint that a card names.
    """
    import torch

    from kinfold import load_model, load_tokenizer, stream
    from kinfold.errors import GenerationError
    from kinfold.generation import EncoderDecoder, decoder_of
    from kinfold.loader import find_card
    from kinfold.scaffold.cli.progress import loading_bar
    from kinfold.scaffold.project import find_project

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's own, for a name or a device that there is not
        raise click.BadParameter(str(error).splitlines()[0], param_hint="--device") from error
    if project := find_project():
        project.activate()
    card = find_card(name)
    tokenizer_path = card.tokenizer
    if tokenizer_path is None:
        raise GenerationError(f"{card.source} names neither a checkpoint nor a tokenizer.")
    tokenizer = load_tokenizer(tokenizer_path)
    with loading_bar(card.name) as progress:
        model = load_model(card, device=device, dtype=getattr(torch, dtype) if dtype else None, progress=progress)
    prompt_ids = torch.tensor([tokenizer.encode(prompt)], device=device)
    decoder, token_ids, shown = model, prompt_ids, prompt
    if isinstance(model, EncoderDecoder):
        token_ids = torch.tensor([_start(tokenizer, start)], device=device)
        decoder, shown = decoder_of(model, prompt_ids), ""
    elif start is not None:
        raise click.BadParameter("only an encoder and decoder is given one", param_hint="--start")
    tokens = stream(
        decoder,
        token_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=tokenizer.eos_token_ids,
        generator=torch.Generator(token_ids.device).manual_seed(seed) if seed is not None else None,
    )
    click.echo(shown, nl=False)
    for text in tokenizer.stream_decode((int(token) for token in tokens), context=token_ids[0].tolist()):
        click.echo(text, nl=False)
        sys.stdout.flush()
    click.echo()


def _start(tokenizer: Tokenizer, text: str | None) -> list[int]:
    """The tokens that a target begins with."""
    from kinfold.errors import GenerationError

    if text is not None:
        ids = tokenizer.encode(text, add_special_tokens=False)
    elif tokenizer.decoder_start_token_id is not None:
        ids = [tokenizer.decoder_start_token_id]
    else:
        ids = list(tokenizer.eos_token_ids[:1])
    if not ids:
        raise GenerationError("What the answer begins with is not known.", hint="Say it: `--start TEXT`.")
    return ids
