"""Kills, full disks, changed files and clashes, in any number: `python -m tests.torture --help`."""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from tests.torture import disk, inputs, kills, pairs
from tests.torture.jobs import Job, Whole, jobs, make_base
from tests.torture.kills import Tally
from tests.torture.nursery import Nursery
from tests.torture.readers import Kind, kinds

PIECE = 250
"""Changed files that a process reads before another one takes over."""


class Torture:
    """All that is tried, with some processes at a time.

    Args:
        place: An empty folder.
        processes: How many commands run at a time.
        seed: Of everything that is drawn.
    """

    def __init__(self, place: Path, processes: int, seed: int) -> None:
        self.place, self.base, self.processes, self.seed = place, place / "base", processes, seed
        self._free: queue.Queue[tuple[Nursery, Path]] = queue.Queue()
        self._stack = ExitStack()

    def __enter__(self) -> Torture:
        for number in range(self.processes):
            self._free.put((self._stack.enter_context(Nursery()), self.place / f"work-{number}"))
        nursery, folder = self._free.get()
        make_base(nursery, self.base)
        self._free.put((nursery, folder))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def each(self, do: Callable[..., Tally], cases: Iterable[tuple[object, ...]]) -> Iterator[Tally]:
        """Calls `do(nursery, *case, base, folder)` for every case, several at a time."""

        def one(case: tuple[object, ...]) -> Tally:
            nursery, folder = self._free.get()
            try:
                return do(nursery, *case, self.base, folder)
            finally:
                self._free.put((nursery, folder))

        with ThreadPoolExecutor(self.processes) as pool:
            yield from pool.map(one, cases)

    def wholes(self, chosen: list[Job]) -> list[Whole]:
        """What every command leaves when nothing happens to it."""
        found: dict[str, Whole] = {}

        def run(nursery: Nursery, job: Job, base: Path, folder: Path) -> Tally:
            found[job.name] = Whole.of(nursery, job, base, folder)
            return Tally(job.name)

        list(self.each(run, [(job,) for job in chosen]))
        return [found[job.name] for job in chosen]

    def kills(self, wholes: list[Whole], count: int) -> Iterator[Tally]:
        """Kills at random moments."""
        shares = sum(whole.job.share for whole in wholes)

        def run(nursery: Nursery, whole: Whole, base: Path, folder: Path) -> Tally:
            mine = max(1, round(count * whole.job.share / shares))
            return kills.kill(nursery, whole, base, folder, mine, random.Random(f"{self.seed} {whole.job.name}"))

        return self.each(run, [(whole,) for whole in wholes])

    def disks(self, wholes: list[Whole], most: int | None, small: int) -> Iterator[Tally]:
        """Full disks at every file, or at `most` of each command's, and `small` disks that become full somewhere."""
        small = small if disk.can_mount(self.place) else 0

        def run(nursery: Nursery, whole: Whole, base: Path, folder: Path) -> Tally:
            tally = disk.fill(nursery, whole, base, folder, most)
            other = disk.squeeze(nursery, whole, base, folder, small)
            return Tally(tally.name, tally.counts + other.counts, tally.problems + other.problems)

        return self.each(run, [(whole,) for whole in wholes])

    def pairs(self, wholes: list[Whole]) -> Iterator[Tally]:
        """Every command that writes into the folder of a run, while every one does."""
        writing = [whole for whole in wholes if whole.job.out == "run"]
        return self.each(pairs.clash, list(product(writing, writing)))

    def inputs(self, chosen: list[Kind], count: int, kept: Path | None) -> Iterator[Tally]:
        """Changed files through the readers."""
        pieces = [
            (number, range(start, min(start + PIECE, mine)), str(self.base), self.seed, kept)
            for number, (_, mine) in enumerate(inputs.shared_out(chosen, count))
            for start in range(0, mine, PIECE)
        ]
        tallies: dict[str, Tally] = {}
        with ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            for found in pool.map(_piece, pieces):
                tally = tallies.setdefault(found.name, Tally(found.name))
                tally.counts.update(found.counts)
                tally.problems.extend(found.problems)
        yield from tallies.values()


def _piece(piece: tuple[int, range, str, int, Path | None]) -> Tally:
    number, numbers, base, seed, kept = piece
    with tempfile.TemporaryDirectory() as folder:
        return inputs.torment(kinds(Path(base))[number], Path(folder, "work"), numbers, seed, kept)


def table(tallies: Iterable[Tally], title: str, columns: tuple[str, ...]) -> list[str]:
    """Prints a table in Markdown; returns what did not hold."""
    problems: list[str] = []
    whole: Counter[str] = Counter()
    print(f"\n| {title} | {' | '.join(columns)} | did not hold |\n|---|{'---|' * (len(columns) + 1)}")
    for tally in tallies:
        print(f"| {tally.name} | {' | '.join(str(tally.counts[column]) for column in columns)} | {len(tally.problems)} |", flush=True)
        whole.update(tally.counts)
        problems += tally.problems
    print(f"| all | {' | '.join(str(whole[column]) for column in columns)} | {len(problems)} |", flush=True)
    return problems


def main() -> int:
    """Runs what is asked for; exit code 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="scripts/torture.sh", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="kills at random moments, shared out among all commands (200)")
    parser.add_argument("--full", type=int, metavar="N", help="full disks for each command; at every file that it writes without this")
    parser.add_argument("--small", type=int, default=4, metavar="N", help="small disks in memory for each command, where you are root (4)")
    parser.add_argument("--inputs", type=int, default=20_000, metavar="N", help="changed files, shared out among all readers (20000)")
    parser.add_argument("--no-pairs", action="store_true", help="leave out two commands in one folder")
    parser.add_argument("--only", action="append", metavar="NAME", help="of the commands, those whose names begin so; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (0)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="commands at a time (2)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where changed files that show a fault are kept")
    given = parser.parse_args()
    started, problems = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="rxrl-torture-") as folder, Torture(Path(folder), given.processes, given.seed) as torture:
        chosen = [job for job in jobs() if not given.only or job.name.startswith(tuple(given.only))]
        wholes = torture.wholes(chosen) if given.kills or given.full != 0 or given.small or not given.no_pairs else []
        if given.kills:
            problems += table(torture.kills(wholes, given.kills), "killed", ("kills", "folders", "same"))
        if given.full != 0 or given.small:
            problems += table(torture.disks(wholes, given.full, given.small), "disk full", ("full", "same"))
        if not given.no_pairs:
            problems += table(torture.pairs(wholes), "first / second in one folder", ("refused", "same"))
        if given.inputs:
            problems += table(torture.inputs(kinds(torture.base), given.inputs, given.keep), "changed files", ("inputs", "refused", "read"))
    print("", *problems, f"{len(problems)} did not hold; {(time.monotonic() - started) / 60:.0f} minutes, seed {given.seed}.", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
