"""A limit on the time that a reward may take: what hangs becomes an error that names the function."""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rxrl.errors import ConfigError, RewardError
from rxrl.scoring import reward_name, score_turns
from rxrl.types import RewardFunction, Score, Turn

_Outcome = tuple[list[Score] | None, BaseException | None]
_LONGEST = 1e8
"""Seconds, some three years: what timers of all systems take."""
_AGAIN = 1.0
"""Seconds after which a reward that swallows the alarm hears it again."""


class TimeLimited:
    """A reward that must score a batch within some seconds; sync or async.

    In the main thread of a process (every training and every command) the function is stopped by an alarm, a regular expression that
    backtracks for ever included. In other threads, and on Windows, the error comes in time, but the function goes on in the background.

    Args:
        reward: The function.
        seconds: Most seconds for one batch, above 0; infinite (`.inf` in YAML) for no limit.

    Raises:
        ConfigError: `seconds` is no positive number.
    """

    def __init__(self, reward: RewardFunction, seconds: float) -> None:
        self.name = reward_name(reward)
        self.needs_reference = bool(getattr(reward, "needs_reference", False))
        self.needs_facts = bool(getattr(reward, "needs_facts", False))
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ConfigError(f"The time_limit of reward {self.name!r} is a number of seconds above 0, got {seconds!r}.")
        self.reward, self.seconds = reward, float(seconds)

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        if not math.isfinite(self.seconds):
            return score_turns(self.reward, turns)
        seconds = min(self.seconds, _LONGEST)
        alarm = _Alarm(seconds) if _can_stop() else None
        try:
            if alarm is None:
                return _in_background(seconds, lambda: score_turns(self.reward, turns))
            return alarm.stops(lambda: score_turns(self.reward, turns))
        except TimeoutError as error:
            timed_out: BaseException = error
        except _TimeUp as up:
            if up.alarm is not alarm:
                raise
            timed_out = up
        raise RewardError(
            f"Reward {self.name!r} did not score a batch of {len(turns)} turns within its time_limit of {self.seconds:g} s: "
            "raise the limit, or look for what it waits for."
        ) from timed_out

    def __repr__(self) -> str:
        return f"TimeLimited({self.reward!r}, {self.seconds:g})"


class _TimeUp(BaseException):
    """Raised in the middle of a reward; no Exception, which a reward may catch."""

    def __init__(self, alarm: _Alarm) -> None:
        super().__init__()
        self.alarm = alarm


class _Alarm:
    """The handler of SIGALRM while a limited reward runs. Alarms may stand within one another: the outermost that is due is raised."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self._before = signal.getsignal(signal.SIGALRM)
        self._outer = self._before if isinstance(self._before, _Alarm) else None
        self._rings_at = self.deadline
        # A plain flag: an alarm in the middle of `Event.set` would leave the lock of the event taken for ever.
        self._over = False
        self._lock, self._cleared = threading.Lock(), threading.Event()

    def stops(self, run: Callable[[], list[Score]]) -> list[Score]:
        """What `run` returns; raises `_TimeUp` in the middle of it at the deadline."""
        try:
            try:
                signal.signal(signal.SIGALRM, self)
                # The timer reaches code that never lets another thread run, as a regular expression; the thread reaches a reward that
                # has taken the one timer of the process for itself.
                self._start_timer()
                threading.Thread(target=self._ring, args=(threading.get_ident(),), daemon=True).start()
                return run()
            finally:
                # From here on nothing is raised any more: what follows must not be cut short.
                self._over = True
        finally:
            self._clear()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # Nor does an outer alarm cut short what this one clears up: it rings again when this one is gone.
        if not self._over and (due := self._due()):
            due._rings_at = time.monotonic() + _AGAIN
            raise _TimeUp(due)

    def _due(self) -> _Alarm | None:
        outer = self._outer._due() if self._outer else None
        return outer or (self if not self._over and time.monotonic() >= self._rings_at else None)

    def _start_timer(self) -> None:
        first = min(alarm.deadline for alarm in self._chain())
        signal.setitimer(signal.ITIMER_REAL, max(first - time.monotonic(), 1e-6), _AGAIN)

    def _clear(self) -> None:
        self._over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        with self._lock:
            self._cleared.set()
        signal.signal(signal.SIGALRM, self._before)
        if self._outer:
            self._outer._start_timer()

    def _chain(self) -> Iterator[_Alarm]:
        alarm: _Alarm | None = self
        while alarm is not None:
            yield alarm
            alarm = alarm._outer

    def _ring(self, thread: int) -> None:
        pause = self.deadline - time.monotonic()
        while not self._cleared.wait(max(pause, 0.0)):
            with self._lock:
                # Nobody but this handler may get the signal: unhandled, it ends the process.
                if not self._cleared.is_set():
                    signal.pthread_kill(thread, signal.SIGALRM)
            pause = _AGAIN


def _can_stop() -> bool:
    """Whether an alarm can be set: in the main thread, where nobody else waits for one."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return False
    handler = signal.getsignal(signal.SIGALRM)
    return isinstance(handler, _Alarm) or (handler == signal.SIG_DFL and signal.getitimer(signal.ITIMER_REAL)[0] == 0)


def _in_background(seconds: float, run: Callable[[], list[Score]]) -> list[Score]:
    outcome: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
    # A daemon: a hanging function must not keep the process from ending.
    threading.Thread(target=_note, args=(outcome, run), daemon=True).start()
    try:
        scores, error = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return scores or []


def _note(outcome: queue.SimpleQueue[_Outcome], run: Callable[[], list[Score]]) -> None:
    try:
        outcome.put((run(), None))
    except BaseException as error:
        outcome.put((None, error))
