"""`rxrl compare RUN RUN ...`: several runs and seeds on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rxrl.cli.console import echo
from rxrl.cli.output import writable_folder
from rxrl.evaluation.compare_page import comparison_lines, write_comparison
from rxrl.evaluation.comparing import compare_runs
from rxrl.runs.folder import RunFolder


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs or evaluations. The first one is what the others are compared with. Folders whose names differ in the "
            "number of a seed alone (small-seed0, small/seed-1) are runs of one variant; NAME=FOLDER names it.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(callback=writable_folder, help="Folder for compare.html, .json, .csv, .tex and .md.")] = Path(
        "compare"
    ),
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare runs: paired within a seed, resampled over seeds."""
    with RunFolder(out).claimed():
        found = compare_runs(runs, seed=seed)
        for line in comparison_lines(found):
            echo(line)
        echo(f"Wrote {write_comparison(found, out)}.")
