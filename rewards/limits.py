"""A limit on the time that a reward may take: what hangs becomes an error that names the function."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from rxrl.errors import ConfigError, RewardError
from rxrl.scoring import reward_name, score_turns
from rxrl.types import RewardFunction, Score, Turn

_Outcome = tuple[list[Score] | None, BaseException | None]


class TimeLimited:
    """A reward that must score a batch within some seconds; sync or async.

    Args:
        reward: The function. Python cannot stop a thread, so one that hangs goes on in the background after the error.
        seconds: Most seconds for one batch, above 0; infinite (`.inf` in YAML) for no limit.

    Raises:
        ConfigError: `seconds` is no positive number.
    """

    def __init__(self, reward: RewardFunction, seconds: float) -> None:
        self.name = reward_name(reward)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ConfigError(f"The time_limit of reward {self.name!r} is a number of seconds above 0, got {seconds!r}.")
        self.reward, self.seconds = reward, float(seconds)

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        outcome: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        # A daemon: a hanging function must not keep the process from ending.
        threading.Thread(target=_note, args=(outcome, lambda: score_turns(self.reward, turns)), daemon=True).start()
        try:
            scores, error = outcome.get(timeout=min(self.seconds, threading.TIMEOUT_MAX))
        except queue.Empty:
            raise RewardError(
                f"Reward {self.name!r} did not score a batch of {len(turns)} turns within its time_limit of {self.seconds:g} s: "
                "raise the limit, or look for what it waits for."
            ) from None
        if error is not None:
            raise error
        return scores or []

    def __repr__(self) -> str:
        return f"TimeLimited({self.reward!r}, {self.seconds:g})"


def _note(outcome: queue.SimpleQueue[_Outcome], run: Callable[[], list[Score]]) -> None:
    try:
        outcome.put((run(), None))
    except BaseException as error:
        outcome.put((None, error))
