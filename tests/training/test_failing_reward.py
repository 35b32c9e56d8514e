"""A reward that fails in the middle of a training or an evaluation: the error names it, and what was said is on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rxrl.envs import ConversationVectorEnv
from rxrl.errors import RewardError
from rxrl.evaluation import play, read_records, rescore
from rxrl.evaluation.records import keeping_transcripts
from rxrl.rewards import Retention, load_reward
from rxrl.training.trainer import MRLTrainer
from tests.evaluation.fakes import Reader, WordCodec, conversations, environment
from tests.training.toy import lively, trainer_in

CALLS_BEFORE = 5


def failing_after(calls: int, how: str) -> Any:
    made = 0

    def reward(turns: Any) -> Any:
        nonlocal made
        made += 1
        if made <= calls:
            return lively(turns)
        match how:
            case "raises":
                raise ValueError("out of order")
            case "nan":
                return [float("nan")] * len(turns)
            case "hangs":
                return time.sleep(60)
        return []

    reward.__qualname__ = "my_reward"
    return reward


def trainer(folder: Path, reward: Any, **options: Any) -> MRLTrainer:
    evaluation = {"every": 1, "conversations": 3}
    return trainer_in(folder, [{"steps": 2, "iterations": 4}], reward=reward, evaluation=evaluation, optimizer={}, **options)


@pytest.mark.parametrize("how", ["raises", "nan", "short", "hangs"])
@pytest.mark.parametrize("calls", [3, CALLS_BEFORE])
def test_a_training_leaves_its_turns(tmp_path: Path, how: str, calls: int) -> None:
    # Calls 1 and 2 are the turns of the evaluation at the start, 3 and 4 those of the first collection, 5 and 6 the next evaluation's.
    reward = failing_after(calls, how)
    limited = load_reward({"use": reward, "time_limit": 0.5}) if how == "hangs" else reward
    with pytest.raises(RewardError, match=r"my_reward.* turns so far are in .*transcripts.unscored.jsonl") as caught:
        trainer(tmp_path, limited).train()
    records = read_records(tmp_path / "transcripts.unscored.jsonl")
    assert len(records) == len(caught.value.turns) == (8 if calls == 3 else 6)
    assert [record.turn.index for record in records] == [1] * (len(records) // 2) + [2] * (len(records) // 2)
    assert all(record.reward is None for record in records)
    assert all(record.reward is not None for record in rescore(records, Retention()))


def test_an_evaluation_leaves_all_turns_of_its_earlier_batches(tmp_path: Path) -> None:
    played, codec = conversations(4, steps=3), WordCodec()
    env = environment(played, codec, 2)
    scored = 0

    def reward(turns: Any) -> Any:
        nonlocal scored
        scored += 1
        return [5.0] * len(turns) if scored <= 4 else 1 / 0

    failing = ConversationVectorEnv(played, memory=env.backend, reward=reward, codec=codec, num_envs=2)
    with (
        pytest.raises(RewardError, match=r"ZeroDivisionError: .* by zero\. The 10 turns so far"),
        keeping_transcripts(tmp_path / "kept.jsonl"),
    ):
        play(failing, Reader(codec), played, seed=0)
    whole = play(env, Reader(codec), played, seed=0)
    kept = read_records(tmp_path / "kept.jsonl")
    assert len(kept) == 2 * 3 + 2 * 2
    answers = {record.key: record.turn.answer for record in whole}
    assert all(answers[record.key] == record.turn.answer for record in kept)


def test_other_errors_and_successes_leave_no_file(tmp_path: Path) -> None:
    with keeping_transcripts(tmp_path / "kept.jsonl"):
        pass
    with pytest.raises(RewardError, match=r"^no turns$"), keeping_transcripts(tmp_path / "kept.jsonl"):
        raise RewardError("no turns")
    assert not list(tmp_path.iterdir())


def test_terms_are_logged_with_mean_spread_and_histogram(tmp_path: Path) -> None:
    reward = load_reward({"lively": {"use": lively, "weight": 1}, "retention": 0})
    run = trainer(tmp_path, reward, max_iterations=1)
    rollouts: list[Any] = []
    collect = run.collect
    run.collect = lambda *arguments: rollouts.append(collect(*arguments)) or rollouts[-1]  # type: ignore[method-assign]
    run.train()
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = rollouts[0].terms["lively"].flatten()
    assert line["reward/lively"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert line["reward_std/lively"] == pytest.approx(float(values.std(unbiased=False)), rel=1e-4)
    counts = [sum(low <= value < low + 1 or (low == 9 and value == 10) for value in values.tolist()) for low in range(10)]
    assert line["reward_histogram/lively"] == pytest.approx([count / len(values) for count in counts], rel=1e-4)
    assert {f"{kind}/retention.{term}" for kind in ("reward", "reward_std", "reward_histogram") for term in ("held", "form", "gate")} < set(
        line
    )
