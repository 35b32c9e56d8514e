"""Measures speed: `python -m tests.benchmarks model`. Prints a table and writes JSON; compare numbers only where the probe agrees.

A suite is a function `(options) -> rows`; to add one, write it in a module of its own and add a line to `SUITES`.
"""

from __future__ import annotations

import json
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from tests.benchmarks.measure import machine

SUITES = {"model": "tests.benchmarks.model"}
Suite = StrEnum("Suite", {name: name for name in SUITES})


def main(
    suite: Annotated[Suite, typer.Argument(help="What to measure.")] = Suite.model,
    preset: Annotated[list[str] | None, typer.Option(help="Presets to measure; may be repeated.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of each row; the median counts.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("benchmarks.json"),
) -> None:
    """Measure speed, print a table and write JSON."""
    if threads is not None:
        torch.set_num_threads(threads)
    probe = machine()
    rows = import_module(SUITES[suite]).rows(presets=preset or ["pico", "nano"], repeats=repeats)
    out.write_text(json.dumps({"suite": suite, "machine": probe, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    table = Table("preset", "what", title=", ".join(f"{key} {value}" for key, value in probe.items()), title_justify="left")
    table.add_column("value", justify="right")
    table.add_column("unit")
    for row in rows:
        table.add_row(row["preset"], row["name"], f"{row['value']:,.2f}", row["unit"])
    Console().print(table)
    typer.echo(f"Wrote {out}.")


if __name__ == "__main__":
    typer.run(main)
