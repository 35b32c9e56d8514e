"""Changed files through the readers, in this process: a valid result or one sentence that names the file, soon, in bounded memory."""

from __future__ import annotations

import random
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rxrl.errors import RxrlError
from rxrl.manifest import MANIFEST_FILE, write_manifest
from tests.torture.kills import Tally
from tests.torture.mutate import mutated
from tests.torture.readers import Kind

SECONDS = 10.0
"""Longest that an input may be computed on."""
GROWTH = 600 << 20
"""Most that the peak of memory may grow for one input, in bytes."""
LONGEST = 1200
"""Most letters of a sentence."""


class TooLong(BaseException):
    """An input took more than `SECONDS`; no `Exception`, so that no reader takes it for its own."""


@contextmanager
def limited() -> Iterator[None]:
    """Raises `TooLong` where more CPU time is used than may be."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def complaint(kind: Kind, folder: Path, content: bytes) -> tuple[str, str | None]:
    """How an input ends, "read" or "refused", and what is wrong with that."""
    before = peak()
    try:
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.read(folder)
            ended, wrong = "read", kind.wrong(content, found)
            if wrong is not None:
                wrong = f"a wrong type was accepted: {wrong}"
    except RxrlError as error:
        ended, wrong = "refused", bad_sentence(str(error), kind, folder)
    except TooLong:
        ended, wrong = "refused", f"it took more than {SECONDS:g} s"
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        ended, wrong = "refused", f"{type(error).__name__}: {str(error)[:160]!r} at {Path(where.filename).name}:{where.lineno}"
    if wrong is None and peak() - before > GROWTH:
        wrong = f"memory grew by {(peak() - before) >> 20} MiB"
    return ended, wrong


def bad_sentence(text: str, kind: Kind, folder: Path) -> str | None:
    """What is wrong with the message of an error."""
    if any(border in text for border in "\n\r"):
        return f"its message has several lines: {text[:200]!r}"
    if len(text) > LONGEST:
        return f"its message has {len(text)} letters: {text[:160]!r}"
    if Path(kind.file).name not in text and str(folder) not in text:
        return f"its message names no file: {text[:200]!r}"
    return None


def torment(kind: Kind, folder: Path, numbers: range, seed: int, kept: Path | None = None) -> Tally:
    """Reads changed files of one kind.

    Args:
        kind: What is changed.
        folder: To work in.
        numbers: Of the inputs; each is made of seed, kind and number alone.
        seed: Of all.
        kept: Where inputs with a problem are kept; None: nowhere.
    """
    tally = Tally(kind.name)
    for number in numbers:
        rng = random.Random(f"{seed} {kind.name} {number}")
        content = mutated(rng, kind.companions[kind.file], kind.structure)
        shutil.rmtree(folder, ignore_errors=True)
        for name, companion in kind.companions.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(companion)
        (folder / kind.file).write_bytes(content)
        # A wrong hash is refused by itself; mostly the reader behind it is to see the file.
        if kind.noted and rng.random() < 0.8:
            write_manifest(folder, [name for name in kind.companions if name != MANIFEST_FILE])
        ended, wrong = complaint(kind, folder, content)
        tally.counts["inputs"] += 1
        tally.counts[ended] += 1
        if wrong is not None:
            tally.note(wrong, f"input {number}")
            if kept is not None:
                place = kept / f"{kind.name.replace(', ', '-').replace(' ', '-')}-{number}"
                shutil.copytree(folder, place, dirs_exist_ok=True)
    return tally


def shared_out(kinds: list[Kind], inputs: int) -> Iterator[tuple[Kind, int]]:
    """How many inputs each kind gets."""
    whole = sum(kind.share for kind in kinds)
    for kind in kinds:
        yield kind, max(1, inputs * kind.share // whole)
