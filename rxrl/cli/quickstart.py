"""`rxrl quickstart`: from nothing to a trained memory and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.pipeline import Pipeline, PipelineConfig
from rxrl.cli.progress import Terminal
from rxrl.config import load_config
from rxrl.errors import ConfigError, unknown_name

BUDGETS = Path(__file__).parent / "budgets"


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/quickstart"),
    budget: Annotated[str, typer.Option(help="Settings of the run: default, full, tiny, babi or fairytaleqa.")] = "default",
    config: Annotated[Path | None, typer.Option(help="YAML file of the run, in place of a budget.")] = None,
    seed: Annotated[int, typer.Option(help="Key of every draw.")] = 0,
    data: Annotated[str | None, typer.Option(help="Conversations to train on, in place of the embedded world.")] = None,
    held_out: Annotated[str | None, typer.Option(help="Held-out conversations; needed with --data.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="Dotted override, such as mrl.episodes=32; may be repeated.")] = None,
) -> None:
    """Trains a small Reactive Transformer through all stages, reinforces its memory, and writes a report."""
    budgets = {path.stem: path for path in BUDGETS.glob("*.yaml")}
    if config is None and budget not in budgets:
        raise ConfigError(unknown_name("budget", budget, budgets))
    files = [f"data.train={data}"] * bool(data) + [f"data.held_out={held_out}"] * bool(held_out)
    settings = load_config(config or budgets[budget], PipelineConfig, [f"seed={seed}", *files, *(override or [])])
    terminal = Terminal()
    if (out / "report.html").exists():
        raise ConfigError(f"{out} holds a finished run: choose another folder with --out, or remove it.")
    pipeline = Pipeline(
        settings, out, say=terminal.say, observers=(terminal.stage,), mrl_observers=(terminal.mrl,), label=budget if config is None else config.stem
    )
    report = pipeline.run()
    terminal.say(f"Report: {report}")
