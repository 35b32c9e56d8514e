"""`rxrl stage NAME`: one supervised stage, from checkpoint (or from nothing) to checkpoint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.bar import tokenizing_on
from rxrl.cli.console import plain_console
from rxrl.cli.estimates import DryRun, Tflops, print_estimates
from rxrl.cli.progress import Terminal
from rxrl.cli.shared import (
    ConfigFile,
    HeldOut,
    LevelOption,
    OutOrDryRun,
    Overrides,
    Resume,
    Seed,
    Start,
    TrainData,
    assigned,
    needed,
    run_folder,
    seed_override,
)
from rxrl.config import load_config
from rxrl.data.stores import Options
from rxrl.errors import ConfigError, unknown_name
from rxrl.pipeline.estimate import estimate_stage
from rxrl.pipeline.parts import CHECKPOINT
from rxrl.pipeline.stage_job import DEFAULT_BASELINE, StageJob
from rxrl.pipeline.supervised import DEFAULT_PRESET
from rxrl.runs.processes import Processes
from rxrl.stages.config import BASELINE_STAGES, STAGES

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def stage(  # noqa: PLR0913, PLR0917
    name: Annotated[
        str,
        typer.Argument(
            help=f"Stage: {', '.join(STAGES)} (in this order); {', '.join(BASELINE_STAGES)} for a baseline.", show_default=False
        ),
    ],
    out: OutOrDryRun = None,
    start: Start = None,
    size: Annotated[
        str | None, typer.Option("--preset", help="Size of a new model, without --from. Default: pico; pico-causal for a baseline.")
    ] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--model", help="Change one field of a new model, such as slots=64 or layers=4. Repeatable.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer of a new model. Default: one trained on the data.")] = None,
    config: ConfigFile = None,
    override: Overrides = None,
    data: TrainData = None,
    held_out: HeldOut = None,
    level: LevelOption = None,
    seed: Seed = None,
    resume: Resume = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip rows and files of a large source that cannot be read, and list them.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 100,
    dry_run: DryRun = False,
    tflops: Tflops = 100.0,
) -> None:
    """Run one supervised stage of training, on a checkpoint or on a new model."""
    stages = STAGES | BASELINE_STAGES
    if name not in stages:
        raise ConfigError(unknown_name("stage", name, stages))
    settings = load_config(config, stages[name], [*seed_override(seed), *(override or [])])
    if start is not None and (size or sizes or tokenizer):
        raise ConfigError("--preset, --model and --tokenizer are for a fresh model: leave them out, or leave out --from.")
    model = dict(assigned(each, "--model") for each in sizes or [])
    default = DEFAULT_BASELINE if name in BASELINE_STAGES else DEFAULT_PRESET
    job = StageJob(name, settings, data, held_out or (), level, start, size or default, model, tokenizer, Options(skip_bad=skip_bad))
    processes = Processes(settings.precision)
    terminal = Terminal(plain_console(quiet=not processes.first))
    if dry_run:
        print_estimates(estimate_stage(job.of_full_vocabulary(), tokenizing_on(terminal.console)), tflops, terminal, processes)
        return
    out = needed(out)
    with closing(terminal), run_folder(out, resume, processes.first) as folder:
        if (out / CHECKPOINT).exists():
            terminal.say(f"Nothing to do: {out / CHECKPOINT} is finished.")
            return
        job.run(folder, resume, terminal.say, tokenizing_on(terminal.console), (terminal,), checkpoint_every)
