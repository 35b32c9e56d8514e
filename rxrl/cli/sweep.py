"""`rxrl sweep --seeds 0..4 --set key=a,b -- COMMAND ...`: a command for every seed and every combination of settings."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Annotated, Final

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.cli.sweeping import Job, Sweep
from rxrl.errors import ConfigError
from rxrl.runs.folder import RunFolder

_RANGE = re.compile(r"^(\d+)\.\.(\d+)$")
FAILED: Final = 1


def sweep(
    command: Annotated[
        list[str],
        typer.Argument(
            help="After --: a command of rxrl, such as `train --from runs/smat/checkpoint`. It gets --seed, --set and --out of each run. "
            "Any other program with {seed}, {out} and {KEY} where they belong.",
            show_default=False,
        ),
    ],
    seeds: Annotated[str, typer.Option(help="Seeds: 0..4 (both included), or 0,1,7.")] = "0..2",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting and its values, as in optimizer.learning_rate=1e-3,3e-4. Repeatable: all combinations."),
    ] = None,
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder of the sweep: one folder below it for each run.")] = Path(
        "sweep"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
) -> None:
    """Run a command for several seeds and settings; go on where an earlier call stopped."""
    grid = parse_grid(settings or [])
    planned = [Job(out / _name(values) / f"seed-{seed}", seed, dict(values)) for values in product(*grid) for seed in parse_seeds(seeds)]
    with RunFolder(out).claimed():
        failed = Sweep(out, command, jobs, echo).run(planned)
    done = [str(job.folder) for job in planned if job not in failed]
    if len(done) > 1:
        echo(f"To compare them: rxrl compare {' '.join(done)} --out {out / 'compare'}")
    if failed:
        raise typer.Exit(FAILED)


def parse_seeds(text: str) -> list[int]:
    """Seeds of `0..4` or `0,1,7`.

    Raises:
        ConfigError: The text is neither.
    """
    if found := _RANGE.match(text.strip()):
        first, last = map(int, found.groups())
        if first <= last:
            return list(range(first, last + 1))
    elif all(part.strip().isdigit() for part in text.split(",")):
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    raise ConfigError(f"Expected seeds as 0..4 or 0,1,7, got {text!r}.")


def parse_grid(settings: list[str]) -> list[list[tuple[str, str]]]:
    """For each setting its values, as (key, value).

    Commas inside brackets and quotes do not part values.

    Raises:
        ConfigError: A setting has no name or no values, or is given twice.
    """
    grid: list[list[tuple[str, str]]] = []
    for text in settings:
        key, equals, values = text.partition("=")
        parts = re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|'[^']*'|\"[^\"]*\"|[^,])+", values)
        if not key.strip() or not equals or not parts:
            raise ConfigError(f"Expected a setting with its values, such as optimizer.learning_rate=1e-3,3e-4, got {text!r}.")
        if any(key == each[0][0] for each in grid):
            raise ConfigError(f"The setting {key} is given twice: list all of its values once, as in {key}=a,b.")
        grid.append([(key.strip(), part.strip()) for part in parts])
    return grid


def _name(values: tuple[tuple[str, str], ...]) -> str:
    """Folder of one combination of settings."""
    return ",".join(re.sub(r"[^\w.=+-]+", "_", f"{key.rpartition('.')[2]}={value}") for key, value in values) or "run"
