"""`rxrl pipeline RECIPE`: all stages of a recipe in order, or what they would take."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.bar import tokenizing_on
from rxrl.cli.console import plain_console
from rxrl.cli.estimates import DryRun, Tflops, print_estimates
from rxrl.cli.progress import Terminal
from rxrl.cli.shared import HeldOut, OutOrDryRun, Overrides, Seed, TrainData, needed
from rxrl.pipeline.recipe import RECIPES, RecipeData, RecipeRun, load_recipe
from rxrl.runs.processes import Processes


def pipeline(
    recipe: Annotated[str, typer.Argument(help=f"Recipe: {', '.join(RECIPES)}, or a YAML file.", show_default=False)],
    out: OutOrDryRun = None,
    data: TrainData = None,
    conversations: Annotated[
        list[str] | None,
        typer.Option(help="Conversations for the stages after pre-training, named as for --data. Default: those of --data."),
    ] = None,
    held_out: HeldOut = None,
    seed: Seed = None,
    precision: Annotated[str | None, typer.Option(help="bf16, or no for float32. Default: as accelerate is configured.")] = None,
    override: Overrides = None,
    dry_run: DryRun = False,
    tflops: Tflops = 100.0,
) -> None:
    """Train a model through all stages of a recipe; the same command again goes on where it was cut."""
    settings = load_recipe(recipe, override or [])
    processes = Processes(precision)
    terminal = Terminal(plain_console(quiet=not processes.first))
    named = RecipeData.named(data, conversations, held_out or (), terminal.say)
    folder = Path() if dry_run else needed(out)
    run = RecipeRun(
        settings,
        named,
        folder,
        seed=seed or 0,
        processes=processes,
        say=terminal.say,
        report=tokenizing_on(terminal.console),
        callbacks=(terminal,),
    )
    if dry_run:
        print_estimates(run.estimates(), tflops, terminal, processes)
        return
    with closing(terminal):
        terminal.say(f"All stages are done; the last one is in {run.run()}.")
