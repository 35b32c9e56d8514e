"""Trying a reward on sample turns: each breach of the contract is found, and named."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rxrl.rewards import Report, check_reward, load_reward, samples
from rxrl.rewards.samples import KINDS


def statuses(report: Report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def test_retention_passes_everything() -> None:
    report = check_reward(load_reward("retention"))
    assert report.ok
    assert not report.hackable
    assert set(statuses(report)) == {"range", "batch = single", "order", "pickling", "speed", "spread", "ranking", "hacks"}
    assert {name for name, status in statuses(report).items() if status != "ok"} <= {"speed"}
    assert {kind.kind for kind in report.kinds} == set(KINDS)


@pytest.mark.parametrize("name", ["classic", "length", "token_f1", "bleu"])
def test_rewards_of_resemblance_keep_the_contract_and_are_fooled(name: str) -> None:
    report = check_reward(load_reward(name))
    assert report.ok
    assert report.hackable
    assert report.fooled
    assert all(sample.verdict != "right" for sample, _ in report.fooled)


class Counting:
    """Keeps state between calls, and so between conversations."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, turns: Any) -> list[float]:
        self.seen += len(turns)
        return [float(self.seen % 10) for _ in turns]


def by_place(turns: Any) -> list[float]:
    return [10.0 * place / len(turns) for place, _ in enumerate(turns)]


def test_state_and_places_in_the_batch_are_found() -> None:
    assert statuses(check_reward(Counting()))["batch = single"] == "failed"
    found = statuses(check_reward(by_place))
    assert (found["batch = single"], found["order"], found["pickling"]) == ("failed", "failed", "ok")


def test_what_cannot_be_pickled_is_found() -> None:
    report = check_reward(lambda turns: [1.0 for _ in turns])
    assert statuses(report)["pickling"] == "failed"
    assert statuses(report)["spread"] == "note"
    assert not report.ok


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda turns: [11.0 for _ in turns], "must lie in"),
        (lambda turns: [1.0], "one score for each"),
        (lambda turns: 1 / 0, "ZeroDivisionError"),
        (lambda turns: time.sleep(60), "time_limit"),
    ],
)
def test_a_reward_that_fails_is_reported_in_one_line(reward: Any, message: str) -> None:
    report = check_reward(reward, time_limit=0.3)
    assert not report.ok
    assert [check.name for check in report.checks] == ["scores"]
    assert message in report.checks[0].detail


def test_a_reward_that_applies_to_nothing_is_found() -> None:
    report = check_reward(lambda turns: [None for _ in turns])
    assert statuses(report)["range"] == "failed"
    assert not report.kinds


def test_samples_are_what_rewards_look_at() -> None:
    given = samples()
    assert all(sample.turn.answer_ids or not sample.turn.answer.strip(" \n?!") for sample in given)
    assert all(sample.turn.reference_ids and sample.turn.saved and sample.turn.history for sample in given)
