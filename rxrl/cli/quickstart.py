"""`rxrl quickstart`: from nothing to a trained memory and a report."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.output import writable_folder
from rxrl.cli.progress import Terminal
from rxrl.cli.shared import Seed, quoted, seed_override
from rxrl.config import dump_config, load_config
from rxrl.errors import ConfigError, unknown_name
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig
from rxrl.reading import read_text
from rxrl.writing import move


def quickstart(
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder of the run.")] = Path("runs/quickstart"),
    budget: Annotated[str, typer.Option(help="Settings of the run: default, tiny, babi or fairytaleqa.")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file of the run, in place of a budget.")] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out, with the same settings.")] = False,
    data: Annotated[str | None, typer.Option(help="Conversations to train on, in place of the embedded world.")] = None,
    held_out: Annotated[str | None, typer.Option(help="Held-out conversations; needed with --data.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="Dotted override, such as mrl.episodes=32; may be repeated.")] = None,
) -> None:
    """Trains a small Reactive Transformer through all stages, reinforces its memory, and writes a report."""
    if config is None and budget not in BUDGETS:
        raise ConfigError(unknown_name("budget", budget, BUDGETS))
    files = [f"data.{name}={quoted(file)}" for name, file in (("train", data), ("held_out", held_out)) if file]
    settings = load_config(config or BUDGETS[budget], PipelineConfig, [*seed_override(seed), *files, *(override or [])])
    terminal = Terminal()
    if (out / "report.html").exists():
        if _same_run(out, settings):
            terminal.say(f"This run is finished already; remove {out} to train anew.\nReport: {out / 'report.html'}")
            return
        raise ConfigError(f"{out} holds a finished run with other settings: choose another folder with --out, or remove it.")
    if resume and (out / "config.yaml").exists() and not _same_run(out, settings):
        raise ConfigError(f"{out} holds an unfinished run with other settings: give the same ones, or choose another folder with --out.")
    if not resume and (moved := _set_aside(out)):
        terminal.say(f"An unfinished run was moved to {moved}; --resume would have gone on with it.")
    label = budget if config is None else config.stem
    pipeline = Pipeline(settings, out, say=terminal.say, observers=(terminal.stage,), callbacks=(terminal,), label=label)
    report = pipeline.run(resume)
    terminal.say(f"Report: {report}")


def _same_run(out: Path, settings: PipelineConfig) -> bool:
    return (out / "config.yaml").exists() and read_text(out / "config.yaml") == dump_config(settings)


def _set_aside(out: Path) -> Path | None:
    """Moves what an interrupted run has left, so that nothing of it is lost or mixed with the new one."""
    if not (out / "config.yaml").exists():
        return None
    number = next(number for number in count(1) if not out.with_name(f"{out.name}.unfinished-{number}").exists())
    return move(out, out.with_name(f"{out.name}.unfinished-{number}"))
