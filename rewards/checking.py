"""Tries a reward on sample turns before it is trained on: range, batches, pickling, speed, and the known hacks."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from rxrl.errors import RxrlError
from rxrl.rewards.limits import TimeLimited
from rxrl.rewards.samples import KINDS, Sample, Verdict, samples
from rxrl.scoring import score_turns
from rxrl.types import RewardFunction, Score, Turn

TOLERANCE = 1e-3
"""Scores this close are the same: sums in another order round differently."""
SLOW = 100.0
"""Turns a second below which a reward holds a training up."""
HACK_LIMIT = 2.0
"""What no hack should earn more than."""
_BATCH, _SPEED_SECONDS = 16, 0.5
_PLURALS = {"right": "right answers", "wrong": "wrong ones", "hack": "hacks"}


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a reward and its result.

    Attributes:
        name: What was checked.
        status: "ok"; "failed" (the contract of rewards is broken); "note" (worth knowing: it depends on what the reward is for).
        detail: The result, in words.
    """

    name: str
    status: str
    detail: str


@dataclass(frozen=True, slots=True)
class KindScores:
    """Scores of the sample answers of one kind, over those that the reward applies to.

    Attributes:
        kind: One of `KINDS`.
        verdict: Whether such answers are right, wrong, or hacks.
        scores: At least one, each in [0, 10].
    """

    kind: str
    verdict: Verdict
    scores: Sequence[float]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of `check_reward`.

    Attributes:
        checks: In the order in which they were made.
        kinds: Scores by kind of answer; empty where scoring failed.
        fooled: Wrong answers and hacks that earn as much as some right answer to the same question, or more.
    """

    checks: Sequence[Check]
    kinds: Sequence[KindScores] = ()
    fooled: Sequence[tuple[Sample, float]] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not any(check.status == "failed" for check in self.checks)

    @property
    def hackable(self) -> bool:
        """Whether wrong answers or hacks earn what they should not."""
        return any(check.name in ("ranking", "hacks") and check.status != "ok" for check in self.checks)


def check_reward(reward: RewardFunction, *, time_limit: float | None = None) -> Report:
    """Runs a reward on the hand-made answers and checks its contract.

    Args:
        reward: Any reward function.
        time_limit: Most seconds for a batch; None: no limit.

    Returns:
        The results. Errors of the reward are results too and are not raised.
    """
    limited = reward if time_limit is None else TimeLimited(reward, time_limit)
    given = samples()
    turns = [sample.turn for sample in given]
    try:
        scores = score_turns(limited, turns)
    except RxrlError as error:
        return Report([Check("scores", "failed", str(error))])
    values = [score.value for score in scores]
    checks = [
        _range(values),
        _guarded("batch = single", lambda: _same([score_turns(limited, [turn])[0] for turn in turns], scores, "alone", "in a batch")),
        _guarded("order", lambda: _same(score_turns(limited, turns[::-1])[::-1], scores, "in reverse order", "in order")),
        _guarded("pickling", lambda: _same(score_turns(pickle.loads(pickle.dumps(reward)), turns), scores, "after pickling", "before")),
        _guarded("speed", lambda: _speed(limited, turns)),
    ]
    kinds = by_kind(given, values)
    fooled = fooled_by(given, values)
    if kinds:
        checks += [_spread(kinds), _ranking(fooled, values), _hacks(kinds)]
    return Report(checks, kinds, fooled)


def by_kind(given: Sequence[Sample], values: Sequence[float | None]) -> list[KindScores]:
    """Scores of the answers of each kind, in the order of `KINDS`; kinds without a score are left out."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for sample, value in zip(given, values, strict=True):
        if value is not None:
            found[sample.kind].append(value)
    return [KindScores(kind, KINDS[kind], scores) for kind, scores in found.items() if scores]


def fooled_by(given: Sequence[Sample], values: Sequence[float | None]) -> list[tuple[Sample, float]]:
    """Wrong answers and hacks that earn at least as much as the worst right answer to the same question, dearest first."""
    lowest: dict[str, float] = {}
    for sample, value in zip(given, values, strict=True):
        if sample.verdict == "right" and value is not None:
            lowest[sample.question] = min(value, lowest.get(sample.question, value))
    found = [
        (sample, value)
        for sample, value in zip(given, values, strict=True)
        if sample.verdict != "right" and value is not None and value >= lowest.get(sample.question, float("inf"))
    ]
    return sorted(found, key=lambda pair: -pair[1])


def _range(values: Sequence[float | None]) -> Check:
    known = [value for value in values if value is not None]
    if not known:
        return Check("range", "failed", f"None for all {len(values)} sample turns: it applies to nothing")
    nothing = f", None for {len(values) - len(known)} turns" if len(known) < len(values) else ""
    return Check("range", "ok", f"{len(values)} turns, {min(known):.2f} to {max(known):.2f}{nothing}")


def _guarded(name: str, look: Callable[[], tuple[str, str]]) -> Check:
    try:
        return Check(name, *look())
    except Exception as error:
        # Whatever a plug-in raises is what is to be reported.
        return Check(name, "failed", f"{type(error).__name__}: {error}")


def _same(found: Sequence[Score], wanted: Sequence[Score], here: str, there: str) -> tuple[str, str]:
    for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
        alike = one.value == other.value if one.value is None or other.value is None else abs(one.value - other.value) <= TOLERANCE
        if not alike:
            return "failed", f"sample turn {place + 1} scores {_shown(one.value)} {here} and {_shown(other.value)} {there}: it keeps state"
    return "ok", f"the same {here} and {there}"


def _speed(reward: RewardFunction, turns: Sequence[Turn]) -> tuple[str, str]:
    started, scored = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < _SPEED_SECONDS or not scored:
        start = scored % len(turns)
        batch = turns[start : start + _BATCH]
        score_turns(reward, batch)
        scored += len(batch)
    speed = scored / spent
    return ("ok" if speed >= SLOW else "note"), f"{speed:,.0f} turns a second in batches of {_BATCH}"


def _spread(kinds: Sequence[KindScores]) -> Check:
    every = [score for kind in kinds for score in kind.scores]
    if max(every) - min(every) <= TOLERANCE:
        return Check("spread", "note", f"{every[0]:.2f} for every answer: there is nothing to learn from it")
    means = {verdict: mean(scores) for verdict in ("right", "wrong", "hack") if (scores := _of(kinds, verdict))}
    return Check("spread", "ok", "mean " + ", ".join(f"{value:.2f} for {_PLURALS[verdict]}" for verdict, value in means.items()))


def _ranking(fooled: Sequence[tuple[Sample, float]], values: Sequence[float | None]) -> Check:
    if not fooled:
        return Check("ranking", "ok", "every right answer above every wrong one and every hack")
    count = f"{len(fooled)} wrong answers and hacks of {len(values)} samples earn as much as a right answer or more"
    return Check("ranking", "note", f"{count}: shape with it, under `retention`")


def _hacks(kinds: Sequence[KindScores]) -> Check:
    paid = {kind.kind: max(kind.scores) for kind in kinds if kind.verdict == "hack" and max(kind.scores) > HACK_LIMIT}
    if not paid:
        return Check("hacks", "ok", f"no hack earns more than {HACK_LIMIT:g}")
    return Check("hacks", "note", "pays for " + ", ".join(f"{kind} ({score:.1f})" for kind, score in paid.items()))


def _of(kinds: Sequence[KindScores], verdict: str) -> list[float]:
    return [score for kind in kinds if kind.verdict == verdict for score in kind.scores]


def _shown(value: float | None) -> str:
    return "None" if value is None else f"{value:.4f}"
