"""`rxrl complete`: the decoder continues a text, with memory in its initial state."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.device import Device, load_on
from rxrl.models import Sampling, Token
from rxrl.models.generation.completion import complete as continue_text
from rxrl.seeding import generator


def complete(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its name on the Hub.")],
    text: Annotated[str, typer.Argument(help="Text to continue.")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 always takes the most likely token.")] = 0.1,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the K most likely tokens only.")] = None,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the smallest set of tokens that has this probability.")] = 0.9,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum number of new tokens. Default: as many as fit the model.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Continue a text with the decoder of a model, with no conversation in memory."""
    Sampling(temperature or 1.0, top_k, top_p)  # refuses wrong values before anything is loaded
    model, tokenizer = load_on(device, checkpoint)
    draws = generator(seed, "complete")
    events = continue_text(
        model, tokenizer, text, generator=draws, temperature=temperature, top_k=top_k, top_p=top_p, max_new_tokens=max_tokens
    )
    echo(text, nl=False, dim=True)
    for event in events:
        if isinstance(event, Token):
            echo(event.text, nl=False)
            sys.stdout.flush()
    echo()
