"""Estimates on the terminal: what stages take here, and on a GPU of a given speed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer

from rxrl.cli.listing import names_table
from rxrl.cli.progress import Terminal
from rxrl.pipeline.estimate import PASS_TOKENS, UTILISATION, Estimate
from rxrl.runs.processes import Processes

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Time five steps on this machine, print tokens, time and memory of the whole, and stop.")
]
Tflops = Annotated[
    float, typer.Option("--gpu-tflops", min=0.1, help="With --dry-run: peak speed of the GPU to estimate for, in TFLOP/s of bfloat16.")
]


def print_estimates(estimates: Iterable[Estimate], tflops: float, terminal: Terminal, processes: Processes) -> None:
    """A table of what stages take, and of what it is based on."""
    found = []
    for each in estimates:
        terminal.say(
            f"{each.stage}: timed {each.timed_steps} x {each.timed_tokens:,} tokens; "
            + (f"{short(each.flops)}FLOP a token; " if each.flops else "")
            + f"{each.steps:,} steps in all."
        )
        found.append(each)
    table = names_table("", "stage", "tokens", "tokens/s", "memory", "time here", f"{tflops:g} TFLOP/s")
    for each in found:
        table.add_row(
            each.stage,
            short(each.tokens),
            f"{each.tokens_per_second:,.0f}",
            f"{each.memory / 1e6:,.0f} MB",
            duration(each.seconds),
            duration(each.gpu_seconds(tflops)) if each.flops else "not counted",
        )
    table.add_section()
    table.add_row(
        "all", "", "", "", duration(sum(each.seconds for each in found)), duration(sum(each.gpu_seconds(tflops) for each in found))
    )
    terminal.close()
    terminal.console.print(table)
    terminal.say(
        f"Timed with {processes.describe()} Of batches with more than {PASS_TOKENS:,} tokens, steps of that many were timed; memory is "
        "that of these steps, so divide large batches (accumulation). FLOP are those of one step: forward, backward and "
        f"optimizer; a GPU is taken to reach {UTILISATION:.0%} of its peak. Of MRL one iteration with few "
        "conversations was timed; fresh weights answer at full length, so it is an upper bound. Validation and checkpoints are left out."
    )


def short(number: float) -> str:
    """A large number in few digits."""
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """A time in the largest unit that it has two of."""
    for size, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:,.0f} s"
