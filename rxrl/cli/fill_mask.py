"""`rxrl fill-mask`: the encoder and its MLM head guess masked tokens."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from rxrl.cli.console import echo, plain_console
from rxrl.cli.device import Device, load_on
from rxrl.models.generation.completion import MASK_TEXT, Guess, fill_masks
from rxrl.seeding import generator


def fill_mask(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its name on the Hub.")],
    text: Annotated[str, typer.Argument(help="Text with [MASK] in place of each token to fill in.")],
    top_k: Annotated[int, typer.Option(min=1, help="Number of suggestions for each mask.")] = 5,
    seed: Annotated[int, typer.Option(help="Random seed of the empty memory, for encoders that read it.")] = 0,
    device: Device = None,
) -> None:
    """Fill in masked tokens with the encoder and the MLM head of a model."""
    model, tokenizer = load_on(device, checkpoint)
    guesses = fill_masks(model, tokenizer, text, top_k=top_k, generator=generator(seed, "fill-mask"))
    console = plain_console()
    for number, found in enumerate(guesses, start=1):
        console.print(_table(f"{MASK_TEXT} {number}" if len(guesses) > 1 else MASK_TEXT, found))
    echo(_filled(text, guesses))


def _table(title: str, guesses: list[Guess]) -> Table:
    table = Table("token", title_justify="left")
    table.title = title
    table.add_column("probability", justify="right")
    for guess in guesses:
        table.add_row(guess.text.strip(" ") or repr(guess.text), f"{guess.probability:.3f}")
    return table


def _filled(text: str, guesses: list[list[Guess]]) -> str:
    """The text with the likeliest token in place of each mask."""
    parts = text.split(MASK_TEXT)
    filled = parts[0]
    for found, after in zip(guesses, parts[1:], strict=True):
        filled = filled.removesuffix(" ") + found[0].text + after if filled.strip() else found[0].text.lstrip(" ") + after
    return filled
