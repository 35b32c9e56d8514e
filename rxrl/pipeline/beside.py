"""A part of a job in a process of its own, beside the rest: it dies with its parent, takes its signals from it and speaks through it."""

from __future__ import annotations

import _thread
import ctypes
import io
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, Protocol

from rxrl.errors import Interrupted, RxrlError, TrainingError, reason, sentence
from rxrl.runs.callbacks import Progress
from rxrl.runs.signals import HANDLED, Relay
from rxrl.training.alarms import Alarm
from rxrl.training.callbacks import Callback

_DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


class Voice(Protocol):
    """What speaks for another process."""

    def say(self, text: str) -> None:
        """The process says a line."""

    def on_iteration(self, progress: Progress) -> None:
        """It has written a line of metrics."""

    def on_alarm(self, alarm: Alarm) -> None:
        """A metric of its training has crossed a threshold."""


@contextmanager
def beside(work: Callable[..., None], arguments: tuple[Any, ...], voice: Voice) -> Iterator[Callable[[], None]]:
    """Runs a function in a process of its own while the `with` block goes on; yields a function that waits for its end.

    A signal is handed on, and the block is left only when the process has ended, too. An error of the block ends the process as SIGTERM
    does; an error of the process is told at once, and raised where its end is waited for.

    Args:
        work: A function of a module; its last argument is a `Teller`.
        arguments: The others.
        voice: Is told what the process says, from another thread.

    Raises:
        Interrupted: A signal came, or had ended the process.
        TrainingError: The process has failed.
    """
    running = _Beside(work, arguments, voice)
    relay = Relay(running.hand_on)
    with relay.listening():
        try:
            running.start()
            yield running.wait
        except BaseException:
            relay.ends = False
            running.end()
            raise
        finally:
            relay.ends = False
            running.ended()


class _Beside:
    """A process, seen from its parent."""

    def __init__(self, work: Callable[..., None], arguments: tuple[Any, ...], voice: Voice) -> None:
        context = multiprocessing.get_context("spawn")
        self._voice = voice
        self._link, self._their_link = context.Pipe()
        self._process = context.Process(target=_work, args=(self._their_link, work, arguments))
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._told = False
        self._error: RxrlError | KeyboardInterrupt | None = None

    def start(self) -> None:
        # The process takes signals from here alone: a terminal sends them to both, and the second would count as impatience.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        try:
            with _no_main_program():
                self._process.start()
            self._their_link.close()
            self._listener.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def wait(self) -> None:
        self.ended()
        if self._error is not None:
            raise self._error

    def ended(self) -> None:
        if self._listener.ident is not None:
            self._listener.join()

    def end(self) -> None:
        if not self._told:
            self.hand_on(signal.SIGTERM)

    def hand_on(self, number: int) -> None:
        self._told = True
        with suppress(OSError):
            self._link.send(number)

    def _listen(self) -> None:
        end: tuple[str, int] | None = None
        with suppress(EOFError, ConnectionError):
            while True:
                event, content = self._link.recv()
                if event == "end":
                    end = content
                else:
                    # The reader of what is said decides over nothing.
                    with suppress(OSError):
                        getattr(self._voice, event)(content)
        self._process.join()
        self._error = self._failure(end)
        if self._error is not None:
            with suppress(OSError):
                self._voice.say(str(self._error))

    def _failure(self, end: tuple[str, int] | None) -> RxrlError | KeyboardInterrupt | None:
        code = self._process.exitcode or 0
        if end is None:
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return TrainingError(f"The second job was ended by {name}; what it has saved stays. Go on with --resume.")
        text, signalled = end
        if signalled:
            return Interrupted(text, signalled)
        return TrainingError(f"The second job failed: {sentence(text)} Go on with --resume once that is mended.") if text else None


@contextmanager
def _no_main_program() -> Iterator[None]:
    """Leaves a new process nothing to import as its main program: a script without a guard would start its job again there."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


class Teller(Callback):
    """Tells the parent what happens here.

    Args:
        link: To the parent.
    """

    def __init__(self, link: Connection) -> None:
        self._link, self._lock = link, threading.RLock()

    def tell(self, event: str, content: Any) -> None:
        """Sends an event; the name is that of a method of `Voice`."""
        with self._lock:
            self._link.send((event, content))

    def say(self, text: str) -> None:
        """Says a line."""
        self.tell("say", text)

    def on_iteration(self, progress: Progress) -> None:
        """Tells where the training stands."""
        self.tell("on_iteration", progress)

    def on_alarm(self, alarm: Alarm) -> None:
        """Tells of an alarm."""
        self.tell("on_alarm", alarm)


class _Lines(io.TextIOBase):
    """What is printed, a line at a time."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._begun = say, ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._say(line)
        return len(text)


def _work(link: Connection, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """The whole life of the process."""
    _die_with_parent()
    teller, relay = Teller(link), Relay()
    lines, end = _Lines(teller.say), ("", 0)
    with redirect_stdout(lines), redirect_stderr(lines), relay.listening():
        try:
            threading.Thread(target=_take_signals, args=(link,), daemon=True).start()
            work(*arguments, teller)
        except KeyboardInterrupt as stop:
            end = str(stop) or "Interrupted.", getattr(stop, "exit_code", 128 + signal.SIGINT) - 128
        except RxrlError as error:
            end = str(error), 0
        except Exception as error:
            traceback.print_exc()
            end = reason(error), 0
        for each in HANDLED:
            # Not only until `relay` is done listening: what is handed on while the process ends would end it with a traceback.
            signal.signal(each, signal.SIG_IGN)
        teller.tell("end", end)


def _take_signals(link: Connection) -> None:
    with suppress(EOFError, OSError):
        while True:
            _thread.interrupt_main(link.recv())
    # The parent has gone, without having seen to the end of this process.
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_parent() -> None:
    """Where the system can do that, even in the middle of a long computation; elsewhere the closed connection tells of it."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child process has a parent to die with"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent.pid:
        os.kill(os.getpid(), signal.SIGKILL)
