"""Signals that end a training in good order: it finishes what is half done, writes a checkpoint and leaves."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rxrl.errors import Interrupted

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C; `kill` and clusters; a terminal that goes away; what schedulers send before a time limit."""
SAME = 1.0
"""Seconds in which further signals are the first one over again: a terminal and a launcher both hand Ctrl-C on."""


def go_down_in_peace() -> None:
    """Ignores SIGTERM from now on: this process is ending with an error, and a launcher must not end it before it has said why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Relay:
    """Handler for signals that nobody else handles: hands each on to another process, then ends what this one is doing.

    A training that listens for itself (`Interruption`) takes its place meanwhile, and hands signals on as well.

    Args:
        hand_on: Is told the number of each signal.

    Attributes:
        ends: Whether a signal raises `Interrupted` here.
    """

    def __init__(self, hand_on: Callable[[int], None] = lambda number: None) -> None:
        self.hand_on, self.ends = hand_on, True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listens for signals; only in the main thread, and only where nobody else does."""
        with _handled(self, _free):
            yield

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal."""
        self.hand_on(number)
        if self.ends:
            raise Interrupted("Interrupted: what was saved stays; go on with --resume.", number)


class Interruption:
    """Notes the first signal, so that the training can end at the next border; a second one ends it at once.

    Attributes:
        received: The signal, once there was one.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._say: Callable[[str], None] = lambda text: None
        self._since = 0.0
        self._relays: dict[signal.Signals, Relay] = {}

    @contextmanager
    def watched(self, say: Callable[[str], None], unit: str) -> Iterator[None]:
        """Listens for signals; only in the main thread, and only where nobody else does.

        Args:
            say: Tells the user what happens.
            unit: What is finished before leaving, such as `iteration`.
        """
        self._say, self._unit = say, unit
        with _handled(self._note, lambda handler: _free(handler) or isinstance(handler, Relay)) as before:
            self._relays = {each: handler for each, handler in before.items() if isinstance(handler, Relay)}
            yield
        # It came when the last border had been passed: what goes on behind it has to hear of it.
        relay = None if self.received is None else self._relays.get(self.received)
        if relay is not None and relay.ends:
            raise Interrupted("Interrupted: what was saved stays; go on with --resume.", self.received or 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # A scheduler warns first and ends later: only a person, or the same order again, ends what is being saved.
            again = number == signal.SIGINT or number == self.received == signal.SIGTERM
            if not again or time.monotonic() - self._since < SAME:
                return
            self._hand_on(number)
            raise Interrupted("Interrupted at once: what was not in a checkpoint is lost.", number)
        self.received, self._since = signal.Signals(number), time.monotonic()
        self._hand_on(number)
        at_once = "; once more to leave at once" if number in (signal.SIGINT, signal.SIGTERM) else ""
        # The terminal that would show it may be what has gone.
        with suppress(OSError):
            self._say(f"{self.received.name}: finishing this {self._unit}, then writing a checkpoint{at_once}.")

    def _hand_on(self, number: int) -> None:
        if (relay := self._relays.get(signal.Signals(number))) is not None:
            relay.hand_on(number)


def _free(handler: Any) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], ours: Callable[[Any], bool]) -> Iterator[dict[signal.Signals, Any]]:
    """Puts a handler in the place of those that are `ours` to replace, in the main thread; yields what was there."""
    before = {each: signal.getsignal(each) for each in HANDLED} if threading.current_thread() is threading.main_thread() else {}
    before = {each: found for each, found in before.items() if ours(found)}
    for each in before:
        signal.signal(each, handler)
    try:
        yield before
    finally:
        for each, found in before.items():
            if signal.getsignal(each) == handler:
                signal.signal(each, found)
