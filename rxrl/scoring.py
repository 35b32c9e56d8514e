"""The one place where reward functions are called: whatever they return becomes checked scores, or one clear error."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from numbers import Real
from typing import Any

from rxrl.errors import RewardError, RxrlError, reason
from rxrl.eventloop import wait_for
from rxrl.types import RewardFunction, Score, Turn

HIGHEST = 10.0
ROUNDING = 1e-3
"""How far a score may lie outside [0, 10]: what float32 and sums in half precision round to. It is clipped; more is an error."""


def reward_name(reward: object) -> str:
    """Returns the name under which a reward function appears in messages: its `name`, its qualified name or its class."""
    name = getattr(reward, "name", None)
    if isinstance(name, str) and name:
        return name
    module = getattr(reward, "__module__", None)
    qualified = getattr(reward, "__qualname__", None)
    if isinstance(qualified, str):
        return f"{module}:{qualified}" if module else qualified
    return f"{type(reward).__module__}:{type(reward).__qualname__}"


def without_score(name: str, values: Iterable[float | None]) -> str | None:
    """One sentence where a reward gave no score for any turn: a mean over nothing must not pass for a low one.

    Args:
        name: The reward, as the user named it.
        values: Its scores, None where it gave none.

    Returns:
        The sentence; None where there is a score, or nothing to be scored.
    """
    found = list(values)
    if not found or any(value is not None for value in found):
        return None
    return (
        f"The reward {name} gave no score for any of {len(found)} turns. Check what it needs (a judge that answers, columns of the data, "
        "turns that ask for something), and try it with `rxrl rewards check`."
    )


def score_turns(reward: RewardFunction, turns: Sequence[Turn]) -> list[Score]:
    """Scores a batch of turns and checks what comes back.

    Args:
        reward: Called once with all turns; may be asynchronous.
        turns: Any number of turns; an empty batch is not handed to the function.

    Returns:
        One `Score` for each turn; numbers are wrapped.

    Raises:
        RewardError: The function raised, or returned a wrong number of scores, something that is no score, NaN or a
            value outside [0, 10]. The message names the function; `turns` of the error holds what was to be scored.
    """
    try:
        return _scored(reward, turns) if turns else []
    except RewardError as error:
        error.turns = tuple(turns)
        raise


def _scored(reward: RewardFunction, turns: Sequence[Turn]) -> list[Score]:
    name = reward_name(reward)
    try:
        # A list of its own: a reward that takes turns out of it must not lose them for the others.
        results = reward(list(turns))
        results = wait_for(results) if inspect.isawaitable(results) else results
        # The body of a generator runs only now: what it raises is an error of the reward as well.
        results = list(results) if isinstance(results, Iterator) else results
    except RxrlError:
        raise
    # A reward that calls sys.exit, or cancels itself, must not end a training without a word about its turns.
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        raise RewardError(f"Reward {name!r} failed on a batch of {len(turns)} turns: {reason(error)}") from error
    scores = listed(name, results, len(turns))
    return [checked_score(name, score, turn) for score, turn in zip(scores, turns, strict=True)]


def listed(name: str, results: Any, count: int) -> list[Any]:
    """What the reward `name` returned, as a list of `count` entries in the order of the turns.

    Raises:
        RewardError: There are more or fewer, or there is no order (a mapping would give its keys).
    """
    try:
        if isinstance(results, Mapping | Set):
            raise TypeError
        scores = list(results)
    except TypeError:
        raise RewardError(f"Reward {name!r} must return a list with one score for each turn, but returned {_short(results)}.") from None
    if len(scores) != count:
        raise RewardError(f"Reward {name!r} must return one score for each of the {count} turns, but returned {len(scores)}.")
    return scores


def checked_score(name: str, score: Score | float | None, turn: Turn) -> Score:
    """A score for a turn, checked.

    Args:
        name: What gave it, for messages.
        score: A `Score`, a number in [0, 10] or None.
        turn: What was scored.

    Raises:
        RewardError: It is none of these.
    """
    if not isinstance(score, Score):
        return Score(_number(name, score, turn))
    if not isinstance(score.terms, Mapping):
        raise RewardError(f"Reward {name!r} must name the terms of a Score in a mapping (or leave them out), got {_short(score.terms)}.")
    terms = {term: _number(name, value, turn, term) for term, value in score.terms.items()}
    return Score(_number(name, score.value, turn), terms)


def _number(name: str, value: object, turn: Turn, term: str | None = None) -> float | None:
    if value is None:
        return None
    if type(value) is float and 0.0 <= value <= HIGHEST:
        return abs(value)  # -0.0 is 0
    name = name if term is None else f"{name} (term {term!r})"
    where = f"for turn {turn.index} of conversation {turn.conversation_id!r}"
    number = as_number(value)
    if number is None or isinstance(plain(value), bool):
        raise RewardError(f"Reward {name!r} must return numbers from 0 to 10, Score or None, but returned {_short(value)} {where}.")
    if not -ROUNDING <= number <= HIGHEST + ROUNDING:
        raise RewardError(f"Reward {name!r} must lie in [0, 10], but returned {number} {where}; scale or clip it in the function.")
    return min(HIGHEST, max(0.0, number))


def as_number(value: object) -> float | None:
    """A number of Python, NumPy or torch (an array without axes included) as a float; None where it is no real number."""
    held = plain(value)
    if not isinstance(held, Real):
        return None
    number: Any = held
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def plain(value: Any) -> Any:
    """What a NumPy scalar, or an array or tensor without axes, holds; anything else as it is."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    # A tensor without data (on the device "meta") holds nothing.
    except (RuntimeError, TypeError, ValueError):
        return value


def _short(value: object) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
