"""Whatever a reward returns becomes checked scores or one sentence, and what it keeps between batches lives on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.errors import RewardError
from rxrl.eventloop import EventLoop, wait_for
from rxrl.scoring import ROUNDING, score_turns, without_score
from rxrl.types import Score, Turn
from tests.rewards.turns import make_turn

TURN = make_turn("a cat")


def scored(value: Any) -> float | None:
    return score_turns(lambda turns: [value for _ in turns], [TURN])[0].value


@pytest.mark.parametrize(
    "value",
    [
        7, 7.0, np.float32(7), np.float16(7), np.float64(7), np.int64(7), np.uint8(7), np.longdouble(7), np.array(7), np.array(7.0),
        torch.tensor(7), torch.tensor(7.0), torch.tensor(7.0, dtype=torch.bfloat16), torch.tensor(7.0, requires_grad=True), Fraction(7),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_of_every_library_are_numbers(value: Any) -> None:
    assert scored(value) == 7.0
    assert type(scored(value)) is float
    assert score_turns(lambda turns: [Score(value, {"term": value})], [TURN])[0] == Score(7.0, {"term": 7.0})


@pytest.mark.parametrize("values", [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), (1, 2), iter([1, 2])], ids=type)
def test_a_batch_may_come_as_an_array(values: Any) -> None:
    assert [score.value for score in score_turns(lambda turns: values, [TURN] * 2)] == [1.0, 2.0]


@pytest.mark.parametrize(
    "value",
    [
        True, np.bool_(True), torch.tensor(True), np.array(True), "7", b"7", 7j, np.complex64(7), torch.tensor(7j), [7.0], np.array([7.0]),
        torch.tensor([7.0]), torch.zeros((), device="meta"), Decimal(7), np.datetime64("2020-01-01"), np.str_("7"),
        pytest.param(object(), id="an object"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_named(value: Any) -> None:
    with pytest.raises(RewardError, match=r"must return numbers from 0 to 10, Score or None, but returned .* for turn 3 of conversation"):
        scored(value)


@pytest.mark.parametrize("value", [10.01, -0.01, 11, float("inf"), float("-inf"), float("nan"), np.float32("nan"), 10**400, -(10**400)])
def test_a_real_overshoot_is_an_error(value: Any) -> None:
    with pytest.raises(RewardError, match=r"must lie in \[0, 10\], but returned"):
        scored(value)


@given(st.floats(-ROUNDING, 10 + ROUNDING))
def test_what_rounding_adds_is_clipped(value: float) -> None:
    assert scored(value) == min(10.0, max(0.0, value))


def test_rounding_of_single_and_half_precision_is_clipped() -> None:
    assert scored(np.float32(10) * np.float32(1.0000001)) == 10.0
    assert scored(torch.tensor(-1e-7)) == 0.0
    assert scored(10 * float(torch.tensor([0.1] * 10, dtype=torch.float32).sum())) == 10.0
    assert score_turns(lambda turns: [Score(10.000001, {"term": -1e-9})], [TURN])[0] == Score(10.0, {"term": 0.0})


def test_a_reward_that_scored_nothing_is_told_from_a_low_one() -> None:
    assert "The reward mine gave no score for any of 3 turns" in str(without_score("mine", [None] * 3))
    assert without_score("mine", [None, 0.0]) is None
    assert without_score("mine", []) is None


class Client:
    """A reward with what belongs to the loop that it was made on, as the clients of HTTP libraries do."""

    def __init__(self) -> None:
        self.lock: asyncio.Lock | None = None
        self.loops: set[int] = set()
        self.beats = 0

    async def beat(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            self.beats += 1

    async def __call__(self, turns: Sequence[Turn]) -> list[float]:
        loop = asyncio.get_running_loop()
        self.loops.add(id(loop))
        if self.lock is None:
            self.lock, self.task = asyncio.Lock(), loop.create_task(self.beat())
            # A lock that was contended once is bound to its loop for good.
            await asyncio.gather(*(self.hold() for _ in range(2)))
        await asyncio.gather(*(self.hold() for _ in range(2)))
        return [5.0] * len(turns)

    async def hold(self) -> None:
        assert self.lock is not None
        async with self.lock:
            await asyncio.sleep(0)


def test_an_asynchronous_reward_keeps_its_client_from_batch_to_batch() -> None:
    reward = Client()
    in_a_thread: list[Any] = []
    for _ in range(3):
        assert score_turns(reward, [TURN])[0].value == 5.0
    thread = threading.Thread(target=lambda: in_a_thread.extend(score_turns(reward, [TURN])))
    thread.start()
    thread.join()

    async def notebook() -> Any:
        return score_turns(reward, [TURN])[0].value

    assert asyncio.run(notebook()) == in_a_thread[0].value == 5.0
    assert len(reward.loops) == 1
    reward.task.cancel()


def test_rewards_of_any_kind_are_awaited() -> None:
    async def later(turns: Sequence[Turn]) -> list[float]:
        return [1.0] * len(turns)

    async def around(turns: Sequence[Turn]) -> list[float | None]:
        return [score.value for score in score_turns(later, turns)]

    async def future(turns: Sequence[Turn]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, lambda: [2.0] * len(turns))

    for reward, value in ((later, 1.0), (around, 1.0), (future, 2.0)):
        assert score_turns(reward, [TURN])[0].value == value


@pytest.mark.parametrize("error", [ValueError("asleep"), SystemExit("asleep"), asyncio.CancelledError("asleep")])
def test_what_an_asynchronous_reward_raises_is_its_own_and_ends_nobody_else(error: BaseException) -> None:
    async def fails(turns: Sequence[Turn]) -> list[float]:
        raise error

    with pytest.raises(RewardError, match="asleep"):
        score_turns(fails, [TURN])
    assert score_turns(Client(), [TURN])[0].value == 5.0


def test_an_interrupt_cancels_what_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def forever() -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cancelled.set()

    def interrupted(future: Any, timeout: float | None = None) -> None:
        assert begun.wait(20)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            wait_for(forever())
    assert cancelled.wait(20)


def test_a_loop_that_is_closed_ends_its_tasks_and_its_thread() -> None:
    ended: list[str] = []
    loop = EventLoop()

    async def task() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("task")

    async def begin() -> None:
        ended.append("begun")
        begin.task = asyncio.create_task(task())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    loop.run(begin())
    loop.close()
    loop.close()
    assert ended == ["begun", "task"]
    assert not loop.usable


def test_a_process_with_open_tasks_ends_at_once_and_in_silence() -> None:
    program = (
        "import asyncio, os\nfrom rxrl.eventloop import wait_for\nkept = []\n"
        "async def start():\n    kept.append(asyncio.create_task(asyncio.sleep(3600)))\n    return 1\n"
        "print(wait_for(start()), flush=True)\n"
        "child = os.fork()\n"
        "if not child:\n    print(wait_for(start()), flush=True)\n"
        "else:\n    os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert (done.stdout.split(), done.stderr) == (["1", "1"], "")
