"""`rxrl export-rxlm`: one of our checkpoints in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.output import writable_folder
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.errors import ConfigError
from rxrl.factory import checkpoint_folder
from rxrl.models import ReactiveTransformer
from rxrl.models.interop.rxlm import export_rxlm
from rxrl.models.interop.rxlm_pieces import rope_order_named
from rxrl.writing import replacing_folder


def export_rxlm_command(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a checkpoint.")],
    out: Annotated[Path, typer.Argument(callback=writable_folder, help="Folder to write.")],
    rope_order: Annotated[
        str, typer.Option(help="Order of rotary embedding: interleaved for releases from 0.3.40 on, concatenated for those up to 0.3.20.")
    ] = "interleaved",
    separate: Annotated[bool, typer.Option("--separate", help="Write every part into a folder of its own.")] = False,
) -> None:
    """Write a checkpoint in the published layout; importing it again gives the same model, bit for bit."""
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another folder, or remove it.")
    folder = checkpoint_folder(checkpoint)
    model = ReactiveTransformer.from_pretrained(folder)
    codec = Tokenizer.load(folder) if (folder / TOKENIZER_FILE).exists() else None
    with replacing_folder(out) as fresh:
        written = export_rxlm(model, fresh, rope_order_named(rope_order), separate=separate)
        if codec is not None:
            codec.save(fresh)
    for path in written:
        typer.echo(f"Wrote {out / path.relative_to(fresh)}.")
