"""Kills at random moments: what is left is whole or absent, and going on gives what an uninterrupted run gives."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture.jobs import Job, Whole, contents
from tests.torture.nursery import Fault, Nursery, Outcome

AGAIN = 1 / 3
"""How often the run that goes on is killed, too."""


@dataclass
class Tally:
    """What was found out about one command.

    Attributes:
        name: Of the command.
        counts: Tries and what came of them.
        problems: What did not hold, a line each.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def note(self, what: str, place: str = "") -> None:
        self.problems.append(f"{self.name}{' ' * bool(place)}{place}: {what}")


def random_fault(rng: random.Random, whole: Whole) -> Fault:
    """A kill at some file operation, or after some seconds of computing."""
    if whole.job.worker_seconds and rng.random() < 1 / 3:
        return Fault(kill_child_after=rng.uniform(0.01, 1.0) * whole.job.worker_seconds)
    if rng.random() < 2 / 3:
        return Fault(kill_at=rng.randint(1, whole.operations))
    return Fault(kill_after=rng.uniform(0.01, 1.0) * whole.seconds)


def torn(whole: Whole, folder: Path) -> list[str]:
    """Files that are there and hold neither what they held before nor what they hold in the end."""
    return [
        name
        for name, found in contents(folder).items()
        if name in whole.contents and found not in {whole.contents[name], whole.before.get(name)}
    ]


def finished(nursery: Nursery, whole: Whole, base: Path, folder: Path, tally: Tally, place: str) -> None:
    """Gives the command again, to its end, and compares."""
    outcome = nursery.run(folder, *whole.job.command(base, again=True))
    if outcome.code != 0 and not ends_where_it_is(whole.job, outcome):
        tally.note(f"going on ended with {outcome.code}: {outcome.output[-300:]!r}", place)
        return
    if "Traceback" in outcome.output:
        tally.note(f"a traceback: {outcome.output[-300:]!r}", place)
    differences = whole.differences(folder)
    if differences:
        tally.note(f"afterwards {', '.join(differences[:4])}", place)
    else:
        tally.counts["same"] += 1


def ends_where_it_is(job: Job, outcome: Outcome) -> bool:
    """Whether a command refuses to write again what is there already: it was killed after its last rename."""
    return not job.resumes and outcome.sentence is not None and "exists already" in outcome.sentence


def kill(nursery: Nursery, whole: Whole, base: Path, folder: Path, kills: int, rng: random.Random) -> Tally:
    """Kills a command `kills` times, in as many folders as that takes."""
    tally = Tally(whole.job.name)
    while tally.counts["kills"] < kills:
        whole.job.prepare(base, folder)
        again, places = False, []
        while True:
            fault = random_fault(rng, whole)
            outcome = nursery.run(folder, *whole.job.command(base, again=again), fault=fault)
            if not outcome.killed:
                break
            after = f"{fault.kill_after or fault.kill_child_after:.2f} s{' of its worker' * bool(fault.kill_child_after)}"
            places.append(f"operation {fault.kill_at}" if fault.kill_at else after)
            tally.counts["kills"] += 1
            again = True
            if not whole.job.resumes and (found := torn(whole, folder)):
                tally.note(f"torn: {', '.join(found[:4])}", places[-1])
            if rng.random() > AGAIN or tally.counts["kills"] >= kills:
                break
        if places:
            tally.counts["folders"] += 1
            finished(nursery, whole, base, folder, tally, " then ".join(places))
    return tally
