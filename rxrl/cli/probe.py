"""`rxrl probe CHECKPOINT`: what a memory forgets, stores and does, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.device import Device, load_on
from rxrl.cli.output import writable_folder
from rxrl.data.world import level_or_default
from rxrl.evaluation.probe_page import write_probe
from rxrl.evaluation.probes import probe as probe_memory
from rxrl.runs.folder import RunFolder
from rxrl.types import ANSWER_TOKENS


def probe(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a Reactive Transformer, or the folder of a run.", show_default=False)],
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder for the page, JSON and CSV.")] = Path("probe"),
    level: Annotated[int | None, typer.Option(min=0, max=3, help="How facts are told, as in the generated world. Default: 0.")] = None,
    facts: Annotated[int, typer.Option(min=2, max=10, help="Facts of a conversation, one an interaction.")] = 10,
    conversations: Annotated[int, typer.Option(min=2, help="Conversations that are asked.")] = 48,
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer, in tokens.")] = ANSWER_TOKENS,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    device: Device = None,
) -> None:
    """Look into the memory of a model: forgetting, capacity, linear probe, ablation, gates and attention."""
    with RunFolder(out).claimed():
        model, tokenizer = load_on(device, checkpoint)
        found = probe_memory(
            model.eval(),
            tokenizer,
            level=level_or_default(level),
            facts=facts,
            conversations=conversations,
            max_answer_tokens=max_answer_tokens,
            seed=seed,
            say=echo,
        )
        last = found["capacity"][-1]
        echo(f"{last['mean']:.1f} of {last['told']} facts are known at the end ({last['low']:.1f} to {last['high']:.1f}).")
        echo(f"Wrote {write_probe(found, out, title=f'Memory of {checkpoint.resolve().name}')}.")
