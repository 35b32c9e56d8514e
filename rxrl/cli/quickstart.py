"""`rxrl quickstart`: from nothing to a trained memory and a report."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.output import writable_folder
from rxrl.cli.progress import Named, Terminal
from rxrl.cli.shared import Seed, quoted, seed_override
from rxrl.config import load_config
from rxrl.data.splits import SCENARIO
from rxrl.errors import ConfigError, some_of
from rxrl.pipeline import Pipeline, PipelineConfig, load_budget
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import WATCHING, absolute_paths, differences

WATCHED = frozenset(f"{job}mrl.{name}" for name in WATCHING for job in ("", "interactive."))


def quickstart(
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder of the run.")] = Path("runs/quickstart"),
    budget: Annotated[
        str, typer.Option(help="Named settings: default, easy, hard, long, tiny, babi, fairytaleqa or scenario:NAME.")
    ] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, instead of a budget.")] = None,
    seed: Seed = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the unfinished run in --out; needs the same settings.")] = False,
    data: Annotated[str | None, typer.Option(help="Conversations to train on. Default: the generated world.")] = None,
    held_out: Annotated[str | None, typer.Option(help="Held-out conversations; required with --data.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="Set one value, such as mrl.episodes=32. Repeatable.")] = None,
    side_by_side: Annotated[
        bool | None,
        typer.Option(
            "--side-by-side/--one-after-another",
            help="How the two jobs of a budget run. Default: side by side where both have CPUs enough for their threads.",
        ),
    ] = None,
) -> None:
    """Train a small model from scratch and write a report.

    Runs the supervised stages, then reinforcement learning of the memory, and evaluates the model after each.
    """
    files = [f"data.{name}={quoted(file)}" for name, file in (("train", data), ("held_out", held_out)) if file]
    changes = [*seed_override(seed), *files, *(override or [])]
    settings = load_budget(budget, changes) if config is None else load_config(config, PipelineConfig, changes)
    terminal, label = Terminal(), budget if config is None else config.stem
    folder = RunFolder(out)
    with closing(terminal), folder.claimed():
        changed = _changed_settings(out, settings)
        if (out / "report.html").exists():
            if changed == []:
                terminal.say(f"This run is finished already; remove {out} to train anew.\nReport: {out / 'report.html'}")
                return
            raise ConfigError(f"{out} holds a finished run with other settings{_listed(changed)}: choose another folder, or remove it.")
        if resume and changed:
            raise ConfigError(f"{out} holds an unfinished run with other settings{_listed(changed)}: give its own, or another folder.")
        if side_by_side is None:
            side_by_side = room_for_two(settings.threads)
        beside = _voice(settings, terminal) if side_by_side else None
        job = Pipeline(settings, folder, say=terminal.say, callbacks=(terminal,), label=label, beside=beside)
        # Before anything is moved: a mistake in the settings costs nothing.
        job.prepare()
        if not resume and changed is not None:
            terminal.say(f"An unfinished run was moved to {folder.set_aside()}; --resume would have gone on with it.")
        terminal.say(f"Report: {job.run(resume)}")


def _voice(settings: PipelineConfig, terminal: Terminal) -> Named | None:
    """What speaks for the second job, where there is one."""
    second = settings.interactive
    return None if second is None else Named(terminal, ", ".join(second.data.mix).replace(SCENARIO, ""))


def room_for_two(threads: int | None) -> bool:
    """Whether this process may use twice as many CPUs as a job has threads; None: one that takes all CPUs."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads is not None and cpus >= 2 * threads


def _changed_settings(out: Path, settings: PipelineConfig) -> list[str] | None:
    """Dotted names of the settings that a run in the folder does not share; None where it holds none."""
    if not (out / "config.yaml").exists():
        return None
    saved = load_config(out / "config.yaml", PipelineConfig)
    return differences(absolute_paths(saved.saved()), absolute_paths(settings.saved()), WATCHED)


def _listed(names: list[str] | None) -> str:
    return f" ({some_of(names)})" if names else ""
