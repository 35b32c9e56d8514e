"""Signals that end a training in good order: it finishes what is half done, writes a checkpoint and leaves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rxrl.errors import Interrupted

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C; `kill` and clusters; a terminal that goes away; what schedulers send before a time limit."""
SAME = 1.0
"""Seconds in which further signals are the first one over again: a terminal and a launcher both hand Ctrl-C on."""


def go_down_in_peace() -> None:
    """Ignores SIGTERM from now on: this process is ending with an error, and a launcher must not end it before it has said why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Interruption:
    """Notes the first signal, so that the training can end at the next border; a second one ends it at once.

    Attributes:
        received: The signal, once there was one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._say: Callable[[str], None] = lambda text: None
        self._since = 0.0

    @contextmanager
    def watched(self, say: Callable[[str], None], unit: str) -> Iterator[None]:
        """Listens for signals; only in the main thread, and only where nobody else does.

        Args:
            say: Tells the user what happens.
            unit: What is finished before leaving, such as `iteration`.
        """
        self._say, self._unit = say, unit
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.getsignal(each) for each in HANDLED}
        ours = [each for each, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
        for each in ours:
            signal.signal(each, self._note)
        try:
            yield
        finally:
            for each in ours:
                if signal.getsignal(each) == self._note:
                    signal.signal(each, before[each])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # A scheduler warns first and ends later: only a person, or the same order again, ends what is being saved.
            again = number == signal.SIGINT or number == self.received == signal.SIGTERM
            if not again or time.monotonic() - self._since < SAME:
                return
            raise Interrupted("Interrupted at once: what was not in a checkpoint is lost.", number)
        self.received, self._since = signal.Signals(number), time.monotonic()
        at_once = "; once more to leave at once" if number in (signal.SIGINT, signal.SIGTERM) else ""
        # The terminal that would show it may be what has gone.
        with suppress(OSError):
            self._say(f"{self.received.name}: finishing this {self._unit}, then writing a checkpoint{at_once}.")
