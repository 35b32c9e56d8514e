"""`rxrl export-rxlm`: one of our checkpoints in the published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.errors import ConfigError
from rxrl.factory import checkpoint_folder
from rxrl.models import ReactiveTransformer
from rxrl.models.interop.rxlm import export_rxlm
from rxrl.models.interop.rxlm_pieces import rope_order_named
from rxrl.writing import replacing_folder


def export_rxlm_command(
    checkpoint: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its name on the Hub.")],
    out: Annotated[Path, typer.Argument(callback=writable_folder, help="New folder.")],
    rope_order: Annotated[
        str, typer.Option(help="Layout of rotary embeddings: interleaved from release 0.3.40 on, concatenated up to 0.3.20.")
    ] = "interleaved",
    separate: Annotated[bool, typer.Option("--separate", help="Write each part to its own folder.")] = False,
) -> None:
    """Convert a checkpoint to the published layout.

    Importing the result gives the same model again, bit for bit.
    """
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
        echo(f"Wrote {out / path.relative_to(fresh)}.")
