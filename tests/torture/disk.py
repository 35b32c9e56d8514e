"""A disk that is full at each file that a command writes, and small disks: one sentence, no litter, and going on once there is room."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.torture.jobs import Whole, size_of
from tests.torture.kills import Tally, finished
from tests.torture.nursery import Fault, Nursery, Outcome


def fill(nursery: Nursery, whole: Whole, base: Path, folder: Path, most: int | None) -> Tally:
    """Lets the disk be full at the n-th file that is opened to be written, for every n, or for `most` of them."""
    tally = Tally(whole.job.name)
    step = 1 if most is None else max(1, whole.opened // max(1, most))
    for number in range(1, whole.opened + 1, step) if most != 0 else ():
        whole.job.prepare(base, folder)
        fault = Fault(full_at=number, full_for_good=number % 2 == 0)
        _tried(nursery.run(folder, *whole.job.command(base), fault=fault), whole, folder, tally, f"file {number}")
        finished(nursery, whole, base, folder, tally, f"file {number}")
    return tally


def _tried(outcome: Outcome, whole: Whole, folder: Path, tally: Tally, place: str) -> None:
    """Looks at how a command ended that found the disk full."""
    tally.counts["full"] += 1
    if outcome.code != 0 and outcome.sentence is None:
        tally.note(f"ended with {outcome.code}: {outcome.output[-300:]!r}", place)
    if litter := [str(path.relative_to(folder)) for path in folder.rglob(".*.new")]:
        tally.note(f"litter {', '.join(litter)}", place)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A disk in memory of `size` bytes; needs root."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may make small disks."""
    try:
        with small_disk(folder / "probe", 1 << 16):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


def squeeze(nursery: Nursery, whole: Whole, base: Path, folder: Path, tries: int) -> Tally:
    """Runs a command on small disks, where native code meets the end of the room, too, and then goes on on a large one."""
    tally = Tally(whole.job.name)
    whole.job.prepare(base, folder)
    least, most = size_of(folder), whole.size
    for number in range(1, tries + 1):
        size = least + (most - least) * number // (tries + 1)
        with small_disk(folder.with_name(f"{folder.name}-small"), max(size, 4096)) as disk:
            inner = disk / "work"
            try:
                whole.job.prepare(base, inner)
            except OSError:
                continue
            _tried(nursery.run(inner, *whole.job.command(base)), whole, inner, tally, f"disk of {size >> 10} KiB")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(inner, folder, symlinks=True)
        finished(nursery, whole, base, folder, tally, f"disk of {size >> 10} KiB")
    return tally
