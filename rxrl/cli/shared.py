"""What the commands on single steps share: their options, and the folders they write to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from rxrl.cli.output import writable_folder
from rxrl.errors import ConfigError
from rxrl.pipeline.parts import CHECKPOINT
from rxrl.reading import parse_yaml
from rxrl.runs.folder import RunFolder
from rxrl.runs.tracking import METRICS_FILE

Start = Annotated[Path | None, typer.Option("--from", help="Checkpoint to start from.")]
Out = Annotated[Path, typer.Option(callback=writable_folder, help="Folder of the run: metrics, configuration and checkpoints.")]
OutOrDryRun = Annotated[
    Path | None,
    typer.Option("--out", callback=writable_folder, help="Folder of the run. Needed, except with --dry-run.", show_default=False),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings. What it leaves out keeps its default.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Set one value, such as optimizer.learning_rate=1e-3. Repeatable.")]
TrainData = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="What to train on: conversations, scenario:NAME or world (the generated world, the default). Repeatable: a mix in equal "
        "shares, or by weights as in world=2.",
    ),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option(help="Conversations to validate on, one for each file of --data, in the same order. Default: a twentieth of the file."),
]
LevelOption = Annotated[
    int | None,
    typer.Option("--level", min=0, max=3, help="Difficulty of the generated world (from 0) or scenario (from 1). Default: the lowest."),
]
Seed = Annotated[int | None, typer.Option(help="Random seed. Default: that of the settings, or 0.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in --out.")]


def assigned(text: str, option: str = "--set") -> tuple[str, Any]:
    """Name and value of an option `name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{option} takes name=value, such as limit=10, got {text!r}.")
    return name.strip(), parse_yaml(value, f"{option} {text}").data


def quoted(text: str | None) -> str | None:
    """Text of the command line as YAML that means just it, in overrides."""
    return None if text is None else json.dumps(text)


def seed_override(seed: int | None) -> list[str]:
    """`--seed` as an override."""
    return [] if seed is None else [f"seed={seed}"]


def needed(out: Path | None) -> Path:
    """The folder of a command that writes.

    Raises:
        ConfigError: None was given.
    """
    if out is None:
        raise ConfigError("Give the folder of the run with --out DIR.")
    return out


@contextmanager
def run_folder(out: Path, resume: bool, first: bool = True) -> Iterator[RunFolder]:
    """The folder of a command that trains, claimed while it runs; the first process of a training claims it for all.

    Raises:
        ConfigError: The folder holds a run, and nobody said to go on with it.
        RunInUse: Another process writes there.
    """
    folder = RunFolder(out)
    with folder.claimed(first):
        check_unused(out, resume)
        yield folder


def check_unused(out: Path, resume: bool) -> None:
    """Refuses to mix a new run with what a folder holds.

    Raises:
        ConfigError: The folder holds a run, and nobody said to go on with it.
    """
    if (out / CHECKPOINT).exists() and not resume:
        raise ConfigError(f"{out} holds a finished run: choose another folder with --out, or remove it.")
    if (out / METRICS_FILE).exists() and not resume:
        raise ConfigError(f"{out} holds a run that has begun: go on with --resume, choose another folder with --out, or remove it.")
