"""The folder of a run: one process at a time writes there, and what a killed one has left is removed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path

from rxrl.errors import RunInUse
from rxrl.locks import FileLock
from rxrl.writing import failures_told, move, sweep

LOCK_FILE = ".rxrl.lock"
MARKS = ("config.yaml", "metrics.jsonl", "checkpoints", "evaluation.json", "report.json", LOCK_FILE)
"""A folder that holds one of these is that of a run."""


class RunFolder:
    """The folder of a run, and the claim of this process on it.

    Args:
        path: The folder; it is made when it is claimed.
        patience: Seconds to wait for another process to let go of it.
    """

    def __init__(self, path: str | Path, patience: float = 0.0) -> None:
        self.path, self.patience = Path(path), patience
        self._guard, self._claims, self._lock = threading.Lock(), 0, FileLock(self.path / LOCK_FILE)

    @classmethod
    def of(cls, folder: str | Path | RunFolder) -> RunFolder:
        """The given one, or that of a path."""
        return folder if isinstance(folder, RunFolder) else cls(folder)

    @contextmanager
    def claimed(self, first: bool = True) -> Iterator[RunFolder]:
        """Keeps all other processes out; whoever has the same object may claim it again inside.

        Args:
            first: False in all processes of a training but the first, for which that one holds the folder.

        Raises:
            RunInUse: Another process, or another training of this one, holds it.
            WriteError: Nothing can be written there.
        """
        if not first:
            yield self
            return
        with self._guard:
            if not self._claims:
                self._take()
            self._claims += 1
        try:
            yield self
        finally:
            with self._guard:
                self._claims -= 1
                if not self._claims:
                    self._give_back()

    def set_aside(self) -> Path:
        """Moves a claimed folder to a free name beside it, `NAME.unfinished-N`, which is returned, and claims an empty one in its place."""
        number = next(number for number in count(1) if not self.path.with_name(f"{self.path.name}.unfinished-{number}").exists())
        with self._guard:
            self._lock.give_back()
            moved = move(self.path, self.path.with_name(f"{self.path.name}.unfinished-{number}"))
            self._take()
        return moved

    def _take(self) -> None:
        with failures_told(self.path):
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            until = time.monotonic() + self.patience
            while (holder := self._lock.take()) is not None and time.monotonic() < until:
                time.sleep(0.02)
        if holder is not None:
            raise RunInUse(f"{self.path} is in use by {holder}: wait until that one has ended, or choose another folder.")
        checkpoints = self.path / "checkpoints"
        for folder in chain([self.path, checkpoints], checkpoints.glob("*/"), (self.path / "evaluation").glob("*/")):
            sweep(folder)

    def _give_back(self) -> None:
        self._lock.give_back()
        if self._made:
            # Nothing was written: the command has ended before its work.
            with suppress(OSError):
                self.path.rmdir()


@contextmanager
def claimed_around(path: Path | None) -> Iterator[None]:
    """Claims the run that a file to be written lies in, where it lies in one; None: nothing is written.

    Raises:
        RunInUse: Another process writes in the folder of the run.
    """
    if path is None:
        yield
        return
    folder = next((folder for folder in path.absolute().parents if any((folder / mark).exists() for mark in MARKS)), None)
    if folder is None:
        yield
    else:
        with RunFolder(folder).claimed():
            yield
