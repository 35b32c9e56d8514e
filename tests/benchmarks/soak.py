"""Resets an environment very often and watches memory: `python -m tests.benchmarks.soak --resets 1000000`.

Fails where resident memory grows, after a warm-up of a tenth of the resets, by more than is allowed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rxrl.data import GeneratedSource
from rxrl.envs import ConversationEnv
from rxrl.factory import make_env

CONVERSATIONS = 200


def environment() -> ConversationEnv:
    """An environment that uses all that lives from one episode to the next: transcripts, random resets, a mix of strategies."""
    source = GeneratedSource(level=1, seed=0, split="train")
    conversations = [each for steps in (1, 4, 8) for each in source.take(steps=steps, strategy="multi-step", start=0, count=CONVERSATIONS)]
    mix = {"multi-step": 1.0, "long-range": 1.0, "single-step": 0.5}
    return make_env(conversations, memory="transcript:4", reset_ratio=0.6, strategy=mix, teacher_forcing=0.5, render_mode="ansi")


def soak(env: ConversationEnv, resets: int) -> None:
    """Resets, takes a step, and resets again."""
    for number in range(resets):
        env.reset(seed=number if number % 1000 == 0 else None)
        env.step("I do not know.")


def resident_megabytes() -> float:
    """Resident memory of this process."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main(
    resets: Annotated[int, typer.Option(min=20, help="Resets in all.")] = 1_000_000,
    allowed: Annotated[float, typer.Option(help="Megabytes that resident memory may grow after the warm-up.")] = 8.0,
) -> None:
    """Reset an environment very often and watch memory."""
    env = environment()
    started = time.perf_counter()
    readings = []
    for done, megabytes in _readings(env, resets):
        typer.echo(f"after {done:>9,} resets: {megabytes:.1f} MB")
        readings.append(megabytes)
    grown = readings[-1] - readings[0]
    spent = time.perf_counter() - started
    typer.echo(f"grown by {grown:.1f} MB since the warm-up; {resets / spent:,.0f} resets (with a step each) a second")
    if grown > allowed:
        raise typer.Exit(1)


def _readings(env: ConversationEnv, resets: int) -> Iterator[tuple[int, float]]:
    for tenth in range(1, 11):
        soak(env, resets // 10)
        yield tenth * (resets // 10), resident_megabytes()


if __name__ == "__main__":
    typer.run(main)
