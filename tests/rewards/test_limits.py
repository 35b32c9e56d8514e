"""A time limit holds whatever a reward does, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from rxrl.errors import RewardError
from rxrl.rewards import TimeLimited, Weighted, limits
from rxrl.scoring import score_turns
from rxrl.types import Turn
from tests.rewards.turns import make_turn

TURNS = [make_turn("a cat")] * 2
_BACKTRACKS = re.compile(r"(a+)+b")


def regular_expression(turns: Sequence[Turn]) -> list[float]:
    """A match that never ends and never lets another thread run."""
    return [10.0 if _BACKTRACKS.fullmatch("a" * 60) else 0.0 for _ in turns]


def sleeps(turns: Sequence[Turn]) -> list[float]:
    time.sleep(3600)
    return []


def loops(turns: Sequence[Turn]) -> list[float]:
    while True:
        pass


def swallows(turns: Sequence[Turn]) -> list[float]:
    """Catches whatever comes, once."""
    try:
        return loops(turns)
    except BaseException:
        return loops(turns)


async def waits(turns: Sequence[Turn]) -> list[float]:
    import asyncio

    await asyncio.sleep(3600)
    return []


def own_alarm(turns: Sequence[Turn]) -> list[float]:
    """Uses the alarm of the process for itself, as libraries that check mathematics do."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(50)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    return sleeps(turns)


def quick(turns: Sequence[Turn]) -> list[float]:
    return [4.0] * len(turns)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """After each test the alarm of the process is as it was."""
    yield
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


@pytest.mark.parametrize("reward", [regular_expression, sleeps, loops, swallows, waits, own_alarm])
def test_whatever_it_does_it_is_stopped(reward: Any) -> None:
    with pytest.raises(RewardError, match=rf"{reward.__name__}' did not score a batch of 2 turns within its time_limit of 0\.2 s"):
        score_turns(TimeLimited(reward, 0.2), TURNS)
    assert [score.value for score in score_turns(TimeLimited(quick, 0.2), TURNS)] == [4.0, 4.0]


def test_the_function_does_not_go_on() -> None:
    beats = 0

    def beat(turns: Sequence[Turn]) -> list[float]:
        nonlocal beats
        while True:
            beats += 1
            time.sleep(0.001)

    with pytest.raises(RewardError):
        score_turns(TimeLimited(beat, 0.1), TURNS)
    after = beats
    time.sleep(0.1)
    assert beats == after > 0


@pytest.mark.parametrize(("inner", "outer", "named"), [(0.1, 30.0, "loops"), (30.0, 0.1, "loops+quick")])
def test_of_limits_within_limits_the_one_that_is_over_is_named(inner: float, outer: float, named: str) -> None:
    reward = TimeLimited(Weighted({"loops": (1, TimeLimited(loops, inner)), "quick": (1, quick)}), outer)
    with pytest.raises(RewardError, match=rf"{re.escape(named)}' did not score .* time_limit of 0\.1 s"):
        score_turns(reward, TURNS)


def test_an_inner_limit_that_holds_leaves_the_outer_one_in_place() -> None:
    reward = TimeLimited(Weighted({"quick": (1, TimeLimited(quick, 30)), "loops": (1, loops)}), 0.2)
    with pytest.raises(RewardError, match=r"quick\+loops' did not score"):
        score_turns(reward, TURNS)


def test_elsewhere_than_in_the_main_thread_the_error_comes_in_time_too() -> None:
    found: list[BaseException] = []

    def score() -> None:
        try:
            score_turns(TimeLimited(sleeps, 0.1), TURNS)
        except RewardError as error:
            found.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    thread.join(30)
    assert "within its time_limit of 0.1 s" in str(found[0])


def test_who_waits_for_an_alarm_keeps_it() -> None:
    rung: list[int] = []
    handler: Callable[..., None] = lambda number, frame: rung.append(number)  # noqa: E731
    before = signal.signal(signal.SIGALRM, handler)
    try:
        assert score_turns(TimeLimited(quick, 0.1), TURNS)[0].value == 4.0
        assert signal.getsignal(signal.SIGALRM) is handler
        with pytest.raises(RewardError, match="time_limit"):
            score_turns(TimeLimited(lambda turns: time.sleep(5), 0.1), TURNS)
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("step", range(120))
def test_an_alarm_in_the_middle_of_clearing_up_is_harmless(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second alarm, `step` instructions after the first one was raised: under load, one is late enough."""
    late, left = 0.0, step + 1
    monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late))
    before, raised = sys.gettrace(), False

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal late, left, raised
        frame.f_trace_opcodes = True
        if event == "exception" and frame.f_code.co_name == "stops":
            raised = True
        elif event == "opcode" and raised:
            left -= 1
            if left == 0:
                late = 2.0
                signal.raise_signal(signal.SIGALRM)
        return trace

    def traced(turns: Sequence[Turn]) -> list[float]:
        frame: FrameType | None = sys._getframe()
        sys.settrace(trace)
        while frame is not None and frame.f_code.co_name != "__call__":
            frame.f_trace, frame.f_trace_opcodes, frame = trace, True, frame.f_back
        return sleeps(turns)  # in C, where no line of Python is traced

    try:
        with pytest.raises(RewardError, match="within its time_limit"):
            score_turns(TimeLimited(traced, 0.01), TURNS)
    finally:
        sys.settrace(before)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
