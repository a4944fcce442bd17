"""`scaffold generate`."""

from __future__ import annotations

import sys

import click


@click.command("generate")
@click.argument("name")
@click.argument("prompt")
@click.option("--max-new-tokens", default=64, show_default=True, help="Stop after that many tokens.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token each time.")
@click.option("--top-k", type=int, help="Sample among that many tokens.")
@click.option("--top-p", type=float, help="Sample among the fewest tokens of that probability.")
@click.option("--seed", type=int, help="Make sampling repeatable.")
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
    device: str | None,
    dtype: str | None,
) -> None:
    """Continue a text with a model.

    NAME is a card, or the path of a checkpoint that a card names.
    """
    import torch

    from kinfold import load_model, load_tokenizer, stream
    from kinfold.errors import GenerationError
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
    if card.tokenizer is None:
        raise GenerationError(f"{card.source} names neither a checkpoint nor a tokenizer.")
    tokenizer = load_tokenizer(card.tokenizer)
    with loading_bar(card.name) as progress:
        model = load_model(card, device=device, dtype=getattr(torch, dtype) if dtype else None, progress=progress)
    token_ids = torch.tensor([tokenizer.encode(prompt)], device=device)
    tokens = stream(
        model,
        token_ids,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=tokenizer.eos_token_ids,
        generator=torch.Generator(token_ids.device).manual_seed(seed) if seed is not None else None,
    )
    click.echo(prompt, nl=False)
    for text in tokenizer.stream_decode((int(token) for token in tokens), context=token_ids[0].tolist()):
        click.echo(text, nl=False)
        sys.stdout.flush()
    click.echo()
