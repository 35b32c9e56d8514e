"""Two commands in one folder: the second is refused with the process id of the first, and takes over once that one was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.torture.jobs import Whole
from tests.torture.kills import Tally, finished
from tests.torture.nursery import Fault, Nursery


def clash(nursery: Nursery, first: Whole, second: Whole, base: Path, folder: Path) -> Tally:
    """Stops `first` half-way, starts `second` in its folder, kills `first`, and gives its command again."""
    tally = Tally(f"{first.job.name} / {second.job.name}")
    first.job.prepare(base, folder)
    pid = nursery.start(folder, first.job.command(base), Fault(stop_at=first.operations // 2))
    if not nursery.stopped(pid):
        tally.note(f"the first did not get there: {nursery.wait(pid).output[-300:]!r}")
        return tally
    refused = nursery.run(folder, *second.job.command(base, again=True))
    tally.counts["refused"] += refused.sentence is not None and str(pid) in refused.sentence
    if not tally.counts["refused"]:
        tally.note(f"the second ended with {refused.code}: {refused.output[-300:]!r}")
    os.kill(pid, signal.SIGKILL)
    nursery.wait(pid)
    finished(nursery, first, base, folder, tally, "after kill -9")
    return tally
