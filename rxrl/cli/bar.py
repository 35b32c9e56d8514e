"""A bar for work that is counted in bytes: rewritten in place where there is a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from rxrl.cli.console import plain_console
from rxrl.data.stores import Reporter
from rxrl.terminal import PlainConsole

PLAIN_SECONDS = 10.0
"""Seconds between two lines where the output is no terminal."""


class ByteBar:
    """Shows how much of a source has been read, how fast, and the time left; a context manager, called with `(done, total)`.

    Args:
        label: What is being done.
        console: Where to.
    """

    def __init__(self, label: str, console: PlainConsole | None = None) -> None:
        self.console, self._label = console or plain_console(), label
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = self._printed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` bytes have been read; 0 as `total`: nobody knows."""
        if self.console.is_terminal:
            if self._progress is None:
                self._progress = self._begin()
            self._progress.update(self._task, completed=done, total=total or None)
            return
        now = time.monotonic()
        if not self._started:
            self._started = self._printed = now
        elif now - self._printed > PLAIN_SECONDS:
            self._printed = now
            of = f" of {total / 1e6:.0f}" if total else ""
            self.console.print(f"  {self._label} {done / 1e6:.0f}{of} MB  {done / 1e6 / (now - self._started):.1f} MB/s", soft_wrap=True)

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        (self.console if self._progress is None else self._progress.console).print(text, soft_wrap=True)

    def _begin(self) -> Progress:
        columns = (
            TextColumn(self._label, markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=self.console, refresh_per_second=4)
        self._task = progress.add_task("", total=None)
        progress.start()
        return progress


def tokenizing_on(console: PlainConsole) -> Callable[[], AbstractContextManager[Reporter]]:
    """Reporters of sources that become token stores, each with a bar of its own."""

    @contextmanager
    def tokenizing() -> Iterator[Reporter]:
        with ByteBar("Tokenizing", console) as bar:
            yield Reporter(bar.say, bar)

    return tokenizing
