"""Intervals cover the truth as often as they say: 1,000 simulated evaluations each, of conversations whose questions are correlated."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rxrl.evaluation.metrics import bootstrap, compare, interval
from tests.evaluation.fakes import record

DRAWS, CONVERSATIONS, RESAMPLES = 1000, 100, 400


def skill(rng: random.Random) -> float:
    """How much of a conversation is remembered; its mean is 0.6."""
    return rng.betavariate(3.0, 2.0)


def covered(draw: Callable[[random.Random, int], tuple[float, float]], truth: float) -> float:
    """Share of draws whose interval holds the truth."""
    ends = [draw(random.Random(number), number) for number in range(DRAWS)]
    return sum(low <= truth <= high for low, high in ends) / DRAWS


def values_of(rng: random.Random) -> tuple[list[float], list[int]]:
    pairs = []
    for conversation in range(CONVERSATIONS):
        share = skill(rng)
        pairs += [(float(rng.random() < share), conversation) for _ in range(rng.randint(4, 10))]
    return [value for value, _ in pairs], [conversation for _, conversation in pairs]


@pytest.mark.slow
def test_the_bootstrap_covers_a_mean() -> None:
    def draw(rng: random.Random, seed: int) -> tuple[float, float]:
        values, groups = values_of(rng)
        return bootstrap(values, groups, seed=seed, resamples=RESAMPLES)[1:]

    assert 0.93 <= covered(draw, 0.6) <= 0.97


@pytest.mark.slow
def test_the_interval_of_asking_turns_covers_retention() -> None:
    def draw(rng: random.Random, seed: int) -> tuple[float, float]:
        values, groups = values_of(rng)
        turns = [record(f"c{group}", number, value) for number, (value, group) in enumerate(zip(values, groups, strict=True))]
        found = interval(turns, seed=seed, resamples=RESAMPLES)
        assert found is not None
        return found["low"], found["high"]

    assert 0.93 <= covered(draw, 0.6) <= 0.97


@pytest.mark.slow
def test_the_paired_interval_covers_a_difference() -> None:
    def draw(rng: random.Random, seed: int) -> tuple[float, float]:
        first, second = [], []
        for conversation in range(CONVERSATIONS):
            share = 0.8 * skill(rng)
            for number in range(6):
                # The first is right where the second is, and in a quarter of the other cases.
                right = rng.random() < share
                second.append(record(f"c{conversation}", number, float(right)))
                first.append(record(f"c{conversation}", number, float(right or rng.random() < 0.25)))
        found = compare(first, second, seed=seed, resamples=RESAMPLES)
        assert found is not None
        return found["low"], found["high"]

    assert 0.93 <= covered(draw, 0.25 * (1 - 0.8 * 0.6)) <= 0.97


@pytest.mark.slow
def test_the_interval_of_no_difference_holds_zero() -> None:
    def draw(rng: random.Random, seed: int) -> tuple[float, float]:
        sides: tuple[list, list] = ([], [])
        for conversation in range(CONVERSATIONS):
            share = skill(rng)
            for side in sides:
                side += [record(f"c{conversation}", number, float(rng.random() < share)) for number in range(6)]
        found = compare(*sides, seed=seed, resamples=RESAMPLES)
        assert found is not None
        return found["low"], found["high"]

    assert 0.93 <= covered(draw, 0.0) <= 0.97
