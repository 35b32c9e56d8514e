"""`rxrl stage NAME`: one supervised stage, from checkpoint (or from nothing) to checkpoint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.bar import ByteBar
from rxrl.cli.console import plain_console
from rxrl.cli.progress import Terminal
from rxrl.cli.shared import (
    ConfigFile,
    HeldOut,
    LevelOption,
    Out,
    Overrides,
    Resume,
    Seed,
    Start,
    TrainData,
    run_folder,
    seed_override,
)
from rxrl.config import load_config
from rxrl.data.stores import Options, Reporter
from rxrl.errors import ConfigError, unknown_name
from rxrl.pipeline.checks import check_lengths
from rxrl.pipeline.parts import CHECKPOINT, make_task
from rxrl.pipeline.supervised import open_stage
from rxrl.runs.identity import save_settings
from rxrl.runs.processes import Processes
from rxrl.stages.config import STAGES
from rxrl.stages.runner import StageRunner

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def stage(  # noqa: PLR0913, PLR0917
    name: Annotated[str, typer.Argument(help=f"Stage: {', '.join(STAGES)} (in this order).", show_default=False)],
    out: Out,
    start: Start = None,
    size: Annotated[str | None, typer.Option("--preset", help="Size of a new model, without --from. Default: pico.")] = None,
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
) -> None:
    """Run one supervised stage of training, on a checkpoint or on a new model."""
    if name not in STAGES:
        raise ConfigError(unknown_name("stage", name, STAGES))
    settings = load_config(config, STAGES[name], [*seed_override(seed), *(override or [])])
    if start is not None and (size or tokenizer):
        raise ConfigError("--preset and --tokenizer are for a fresh model: leave them out, or leave out --from.")
    processes = Processes(settings.precision)
    terminal = Terminal(plain_console(quiet=not processes.first))
    with closing(terminal), run_folder(out, resume, processes.first) as folder:
        if (out / CHECKPOINT).exists():
            terminal.say(f"Nothing to do: {out / CHECKPOINT} is finished.")
            return
        with ByteBar("Tokenizing", terminal.console) as bar:
            model, codec, sources = open_stage(
                name,
                settings.seed,
                start=start,
                size=size,
                tokenizer=tokenizer,
                data=data,
                held_out=held_out,
                level=level,
                options=Options(skip_bad=skip_bad),
                reporter=Reporter(bar.say, bar),
            )
        check_lengths(settings, sources)
        task = make_task(name, settings, sources, codec, model.config.max_length)
        runner = StageRunner(name, model, codec, task, settings, folder, (terminal,), checkpoint_every)
        if resume and not runner.resume():
            runner.log.rewind()
        if processes.first:
            save_settings(settings, out / "config.yaml")
        terminal.say(f"Stage {name}: step {runner.step} of at most {runner.config.most_iterations}; {processes.describe()}")
        runner.train(terminal.say)
        path = runner.save(out / CHECKPOINT)
        terminal.say(f"Wrote {path}.")
