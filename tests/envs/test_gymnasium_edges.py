"""What wrappers of Gymnasium and numbers of numpy expect."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import CustomSpaceError
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import rxrl  # noqa: F401
from rxrl.config import parse_config
from rxrl.data.rows import to_conversation
from rxrl.data.sources import RowsSource
from rxrl.data.world import GeneratedSource
from rxrl.envs.spaces import UnicodeText
from rxrl.seeding import derive_seed
from rxrl.training.config import MRLConfig

WORLD = GeneratedSource(level=1, seed=0, split="test")
TALKS = [each for steps in (1, 2, 5) for each in WORLD.take(steps=steps, strategy="multi-step", start=0, count=1)]


def vector(rows: int, **options: Any) -> Any:
    return gymnasium.make_vec("rxrl/Conversation-v0", rows, vectorization_mode="vector_entry_point", conversations=TALKS, **options)


def answers(rows: int) -> dict[str, Any]:
    return {"ids": np.full((rows, 2), 9), "length": np.full(rows, 2)}


def test_statistics_count_each_episode_once() -> None:
    envs = RecordEpisodeStatistics(vector(4))
    # The last row is never begun.
    envs.reset(seed=0, options={"conversations": TALKS})
    returns, ends = np.zeros(4), []
    for _ in range(8):
        _, rewards, terminated, truncated, _ = envs.step(answers(4))
        returns += rewards
        ends.append((terminated | truncated).tolist())
    assert np.sum(ends, axis=0).tolist() == [1, 1, 1, 0]
    assert [step.index(True) + 1 for step in np.transpose(ends)[:3].tolist()] == [1, 2, 5]
    assert envs.episode_count == 3
    assert sorted(map(int, envs.length_queue)) == [1, 2, 5]
    assert sorted(envs.return_queue) == pytest.approx(sorted(returns[:3]))
    envs.reset(options={"reset_mask": np.array([True, False, False, False]), "conversations": [1]})
    for _ in range(3):
        envs.step(answers(4))
    assert envs.episode_count == 4
    assert int(envs.length_queue[-1]) == 2


def test_statistics_of_rows_that_begin_anew_by_themselves() -> None:
    envs = RecordEpisodeStatistics(vector(2, autoreset_mode=AutoresetMode.SAME_STEP, max_turns=2))
    envs.reset(seed=0, options={"conversations": [0, 2]})
    for _ in range(4):
        envs.step(answers(2))
    assert set(map(int, envs.length_queue)) <= {1, 2}
    assert 4 <= envs.episode_count <= 8


def test_texts_cannot_be_shared_between_processes() -> None:
    for function in ("create_shared_memory", "read_from_shared_memory", "write_to_shared_memory"):
        with pytest.raises(CustomSpaceError, match="shared_memory=False"):
            getattr(gymnasium.vector.utils, function)(UnicodeText(8), 1, 1)
    with pytest.raises((CustomSpaceError, ValueError), match="shared_memory=False"):
        gymnasium.make_vec("rxrl/Conversation-v0", 2, vectorization_mode="async", conversations=TALKS)


@pytest.mark.parametrize("whole", [np.int64, np.int32, np.uint8, np.int16])
def test_whole_numbers_of_numpy_are_whole_numbers(whole: Any) -> None:
    assert derive_seed(whole(3), "a") == derive_seed(3, "a")
    assert derive_seed(np.str_("a")) == derive_seed("a")
    assert derive_seed(True) != derive_seed(1)
    source = GeneratedSource(level=whole(1), seed=whole(0), split="test")
    taken = {"steps": whole(3), "strategy": "multi-step", "start": whole(2), "count": whole(2)}
    assert source.take(**taken) == WORLD.take(steps=3, strategy="multi-step", start=2, count=2)
    rows = [RowsSource(TALKS, seed).take(steps=whole(1), strategy="multi-step", start=whole(5), count=whole(4)) for seed in (7, whole(7))]
    assert rows[0] == rows[1] == RowsSource(TALKS, 7).take(steps=1, strategy="multi-step", start=5, count=4)
    for made in (MRLConfig(seed=whole(4), episodes=whole(6)), parse_config({"seed": whole(4), "episodes": whole(6)}, MRLConfig)):
        assert (made.seed, type(made.seed), made.episodes) == (4, int, 6)
    assert to_conversation({"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}]}, "x").steps == 1


@pytest.mark.parametrize("whole", [np.int64, np.int16])
def test_environments_take_whole_numbers_of_numpy(whole: Any) -> None:
    def told(kind: Any) -> Any:
        limits = {"max_answer_tokens": kind(9), "max_turns": kind(3), "max_query_tokens": kind(64), "max_episode_tokens": kind(500)}
        env = gymnasium.make("rxrl/Conversation-v0", conversations=TALKS, **limits)
        begun = env.reset(seed=kind(5))
        chosen = env.reset(options={"conversation": kind(1), "stm_seed": kind(7)})
        envs = vector(3, **limits)
        drawn = envs.reset(seed=kind(5), options={"stm_seeds": [kind(1), kind(2), kind(3)]})
        return begun[0], begun[1]["stm_seed"], chosen[0], chosen[1]["stm_seed"], drawn[0]["ids"].tolist(), drawn[1]["stm_seeds"].tolist()

    assert told(whole) == told(int)
