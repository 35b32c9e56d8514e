"""Statistics over runs: values worked out by hand, and intervals that cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from rxrl.errors import ConfigError
from rxrl.evaluation.metrics import bootstrap
from rxrl.evaluation.statistics import (
    difference_of,
    interquartile_mean,
    mean_score,
    probability_of_improvement,
    stratified_bootstrap,
)


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean([[1.0, 2.0], [3.0, 100.0]]) == 2.5
    assert interquartile_mean([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 700.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([5.0, 1.0, 3.0]) == 3.0  # a quarter of 3, rounded down, is none
    assert interquartile_mean([9.0, 1.0, 3.0, 5.0, 4.0]) == pytest.approx((3 + 4 + 5) / 3)
    assert interquartile_mean([7.0]) == 7.0


def test_the_probability_of_improvement_counts_pairs_and_halves_of_ties() -> None:
    # 3 > 2, 3 > 1, 1 < 2, 1 = 1: (1 + 1 + 0 + 0.5) / 4
    assert probability_of_improvement([3.0, 1.0], [2.0, 1.0]) == pytest.approx(2.5 / 4)
    # The mean over two tasks: 1 in the first, 0.25 in the second, where of 4 pairs one is won.
    first, second = [[5.0, 0.0], [6.0, 3.0]], [[1.0, 2.0], [2.0, 4.0]]
    assert probability_of_improvement(first, second) == pytest.approx((1 + 0.25) / 2)
    assert probability_of_improvement(second, first) == pytest.approx(1 - (1 + 0.25) / 2)
    assert probability_of_improvement([1.0, 1.0, 1.0], [1.0]) == 0.5


def test_tasks_that_differ_in_number_and_empty_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match="same tasks"):
        probability_of_improvement([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ConfigError, match="at least one"):
        stratified_bootstrap(mean_score, [])


def test_runs_are_resampled_within_their_task() -> None:
    seen = []

    def statistic(scores: np.ndarray) -> np.ndarray:
        seen.append(scores)
        return np.asarray(scores.mean(axis=(-2, -1)))

    stratified_bootstrap(statistic, [[0.0, 10.0], [1.0, 11.0]], resamples=400)
    samples = {(*sorted(each[:, 0]), *sorted(each[:, 1])) for each in seen[0]}
    own = {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}
    assert {each[:2] for each in samples} == own
    assert {(a - 10, b - 10) for _, _, a, b in samples} == own
    assert (0.0, 0.0, 11.0, 11.0) in samples  # drawn apart: not whole runs


def test_a_difference_has_the_values_of_its_parts_and_one_seed_gives_one_interval() -> None:
    first, second = [[0.9], [0.8], [0.85]], [[0.5], [0.6], [0.55]]
    found = stratified_bootstrap(difference_of(mean_score), first, second, seed=3, resamples=500)
    assert found.value == pytest.approx(0.3)
    assert 0.1 < found.low < 0.3 < found.high < 0.5
    assert found == stratified_bootstrap(difference_of(mean_score), first, second, seed=3, resamples=500)


@pytest.mark.slow
def test_intervals_over_runs_cover_the_truth() -> None:
    rng = np.random.default_rng(0)
    tasks = rng.random(6)
    draws, covered = 1000, 0
    for draw in range(draws):
        found = stratified_bootstrap(mean_score, tasks + rng.normal(0, 0.1, (30, 6)), seed=draw, resamples=500)
        covered += found.low <= tasks.mean() <= found.high
    assert 0.93 <= covered / draws <= 0.97


@pytest.mark.slow
def test_intervals_of_paired_differences_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    groups, draws, covered = np.repeat(np.arange(80), 6).tolist(), 1000, 0
    for draw in range(draws):
        shared = rng.normal(0, 1, (80, 1))
        first = 0.3 + shared + rng.normal(0, 0.3, (80, 1)) + rng.normal(0, 0.5, (80, 6))
        _, low, high = bootstrap((first - shared - rng.normal(0, 0.5, (80, 6))).ravel(), groups, seed=draw, resamples=300)
        covered += low <= 0.3 <= high
    assert 0.93 <= covered / draws <= 0.97
