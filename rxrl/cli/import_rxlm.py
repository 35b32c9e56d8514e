"""`rxrl import-rxlm`: a published checkpoint becomes one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import plain_console
from rxrl.cli.output import writable_folder
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.errors import CheckpointError, ConfigError
from rxrl.models import ReactiveTransformer, count_parameters
from rxrl.models.interop.hub import local_folder
from rxrl.models.interop.rxlm import Imported, import_rxlm
from rxrl.models.interop.rxlm_pieces import rope_order_named
from rxrl.writing import replacing_folder


def import_rxlm_command(
    paths: Annotated[
        list[str], typer.Argument(metavar="SOURCE OUT", help="A model or a part of one (folder or name on the Hub), and the new folder.")
    ],
    encoder: Annotated[str | None, typer.Option(help="Encoder, if separate: folder or name on the Hub.")] = None,
    decoder: Annotated[str | None, typer.Option(help="Decoder, if separate.")] = None,
    memory_attention: Annotated[str | None, typer.Option(help="Memory attention, if separate.")] = None,
    mlm_head: Annotated[str | None, typer.Option(help="MLM head, if separate.")] = None,
    rope_order: Annotated[
        str | None, typer.Option(help="Layout of rotary embeddings, if the files do not say: concatenated up to 0.3.20, interleaved later.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or name on the Hub of tokenizer.json. Default: that of the source.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Give missing parts random weights, to be trained.")] = False,
    seed: Annotated[int, typer.Option(help="Random seed of those weights.")] = 0,
) -> None:
    """Convert a checkpoint from the published layout to that of rxrl.

    SOURCE is a whole model or one part. To combine several parts, leave SOURCE out and name them with --encoder, --decoder,
    --memory-attention and --mlm-head.
    """
    given = {"encoder": encoder, "decoder": decoder, "memory_attention": memory_attention, "mlm_head": mlm_head}
    parts = {name: source for name, source in given.items() if source is not None}
    source, out = _source_and_out(paths, parts)
    if out.exists():
        raise ConfigError(f"{out} exists already: choose another folder, or remove it.")
    writable_folder(out)
    found = import_rxlm(source, None if rope_order is None else rope_order_named(rope_order), fresh=fresh, seed=seed, name=out.name)
    codec = _tokenizer(found, tokenizer)
    if codec is not None and codec.vocab_size > found.model.config.vocab_size:
        raise CheckpointError(
            f"The tokenizer has {codec.vocab_size} tokens, but the model knows {found.model.config.vocab_size}: give its own."
        )
    _save(found.model, codec, out)
    _tell(found, codec, out)


def _source_and_out(paths: list[str], parts: Mapping[str, str]) -> tuple[str | Mapping[str, str], Path]:
    expected = 1 if parts else 2
    if len(paths) != expected:
        wanted = "OUT alone beside separate parts" if parts else "SOURCE and OUT, or OUT with separate parts such as --decoder DIR"
        raise ConfigError(f"Expected {wanted}, got {len(paths)} folder{'s' * (len(paths) != 1)}: {', '.join(paths)}.")
    return parts or paths[0], Path(paths[-1])


def _tokenizer(found: Imported, given: str | None) -> Tokenizer | None:
    """The one that is given, or that lies beside the weights."""
    if given is not None:
        return Tokenizer.load(local_folder(given))
    return next((Tokenizer.load(folder) for folder in found.folders if (folder / TOKENIZER_FILE).exists()), None)


def _save(model: ReactiveTransformer, codec: Tokenizer | None, out: Path) -> None:
    """Writes the folder under another name first, so that it is whole or absent."""
    with replacing_folder(out) as fresh:
        model.save_pretrained(fresh, tokenizer=codec)


def _tell(found: Imported, codec: Tokenizer | None, out: Path) -> None:
    console = plain_console(soft_wrap=True)
    config, counts = found.model.config, count_parameters(found.model)
    parts = [name for name in ("encoder", "decoder", "memory_attention", "mlm_head") if name not in config.absent]
    console.print(f"Imported {config.name}: dim {config.dim}, {config.layers} layers, memory of {config.layers} x {config.slots} slots.")
    for name in parts:
        order = f", rope order {found.rope_orders[name]}" if name in found.rope_orders else ""
        console.print(f"  {name.replace('_', ' ')}: {counts[name]:,} parameters{order}")
    if config.absent:
        console.print(f"  absent: {', '.join(config.absent).replace('_', ' ')}")
    for note in found.notes:
        console.print(f"Note: {note}.", style="yellow")
    if codec is None:
        console.print("Note: the source has no tokenizer.json, and text needs one: give --tokenizer FOLDER.", style="yellow")
    console.print(f"Wrote {out}.")
