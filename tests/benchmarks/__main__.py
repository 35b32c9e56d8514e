"""Measures speed: `python -m tests.benchmarks model`. Prints a table and writes JSON; compares with an earlier file.

    python -m tests.benchmarks model --quick                              see that it runs
    python -m tests.benchmarks model --out new.json --against old.json    measure, then compare
    python -m tests.benchmarks --read new.json --against old.json         compare two files

To add a suite, write a module with a function `rows(bench, presets)` (see `measure.py`) and add a line to `SUITES`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from rxrl.allocation import keep_freed_memory
from tests.benchmarks.measure import Bench, Row, machine, probe
from tests.benchmarks.tables import comparison, results

SUITES = {name: f"tests.benchmarks.{name}" for name in ("model", "envs", "rewards", "train", "data")}
"""Suite to module; modules are imported when they are asked for."""
Suite = StrEnum("Suite", {name: name for name in SUITES})
Dtype = StrEnum("Dtype", ["float32", "bfloat16", "float64"])
FORMAT = 3
WIDTH = 150
"""Columns of a table that goes into a file."""


def main(
    suite: Annotated[Suite, typer.Argument(help="What to measure.")] = Suite.model,
    preset: Annotated[list[str] | None, typer.Option(help="Presets to measure; may be repeated; nano without it.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Threads of torch; may be repeated; without it, all CPUs and 1.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Undisturbed repetitions of each row; the median counts.")] = 5,
    device: Annotated[str, typer.Option(help="Where models compute, such as cuda; training computes where accelerate does.")] = "cpu",
    dtype: Annotated[Dtype, typer.Option(help="Type of the weights; not for training.")] = Dtype.float32,
    quick: Annotated[bool, typer.Option("--quick", help="Small work and one repetition: to see that everything runs.")] = False,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("benchmarks.json"),
    read: Annotated[Path | None, typer.Option(help="Show this result file instead of measuring.")] = None,
    against: Annotated[Path | None, typer.Option(help="Earlier result file to compare with.")] = None,
) -> None:
    """Measure speed, print a table and write JSON."""
    old = None if against is None else load(against)
    if device != "cpu" and not torch.cuda.is_available():
        raise typer.BadParameter(f"--device {device}: torch finds no GPU here; leave it out to measure the CPU.")
    if read is None:
        benches = [_bench(count, repeats, quick, device, dtype.value) for count in threads or _all_and_one(device)]
        new = _measured(suite.value, preset or ["nano"], benches)
        out.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    else:
        new = load(read)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for part in (*results(new), *(comparison(new, old) if old is not None else ())):
        console.print(part)
    if read is None:
        typer.echo(f"Wrote {out}.")


def load(file: Path) -> dict[str, Any]:
    """Reads a result file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} cannot be read as a result file ({error}).") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise typer.BadParameter(f"{file} is no result file of this version: measure it again.")
    return found


def _all_and_one(device: str) -> list[int]:
    """Numbers of threads: all CPUs and one, or one where a GPU computes."""
    return sorted({os.cpu_count() or 1, 1}, reverse=True) if device == "cpu" else [1]


def _measured(suite: str, presets: list[str], benches: list[Bench]) -> dict[str, Any]:
    rows = import_module(SUITES[suite]).rows
    found = []
    for bench in benches:
        for row in _with_threads(bench, rows, presets):
            # A line, because the thread of a moving bar would take time from what is measured.
            typer.echo(f"{row.preset}, {bench.threads} threads: {row.name}", err=True)
            found.append(row)
    return {
        "format": FORMAT,
        "suite": suite,
        "quick": benches[0].quick,
        "machine": machine(benches[0].device),
        "dtype": str(benches[0].dtype).removeprefix("torch."),
        "probes": {str(bench.threads): bench.probe._asdict() for bench in benches},
        "rows": [asdict(row) | {"reached": row.reached} for row in found],
    }


def _bench(threads: int, repeats: int, quick: bool, device: str, dtype: str) -> Bench:
    torch.set_num_threads(threads)
    return Bench(
        threads=threads,
        probe=probe(device=device),
        repeats=1 if quick else repeats,
        at_least=0.0 if quick else 0.5,
        quick=quick,
        prober=None if quick else lambda: probe(15, 3, device=device),
        device=device,
        dtype=getattr(torch, dtype),
    )


def _with_threads(bench: Bench, rows: Any, presets: list[str]) -> Iterator[Row]:
    torch.set_num_threads(bench.threads)
    yield from rows(bench, presets)


if __name__ == "__main__":
    keep_freed_memory()  # as every command does
    typer.run(main)
