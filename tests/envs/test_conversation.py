"""The environment of one conversation: Gymnasium's own checks, and the same play as the batched one."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

from rxrl.envs import ConversationEnv, ConversationTokensEnv, ConversationVectorEnv, Live, TranscriptMemory, UnicodeText
from rxrl.errors import ConfigError, EpisodeError
from rxrl.types import EOS, STRATEGIES, Score, prompt_ids
from tests.envs.worlds import CODEC, action, common, make_answer, make_conversation

THREE = [make_conversation(seed, steps) for seed, steps in enumerate((3, 2, 5))]
ENV_ID = "tests/Conversation-v0"


class LiveMemory(TranscriptMemory):
    """Stands for a model: a copy of it would be another model."""

    def __deepcopy__(self, memo: dict[int, Any]) -> LiveMemory:
        raise AssertionError("a live model was copied")


@pytest.fixture
def registered() -> Iterator[str]:
    gymnasium.register(id=ENV_ID, entry_point=lambda **options: ConversationEnv(THREE, **{**common(), **options}))
    yield ENV_ID
    del gymnasium.registry[ENV_ID]


def test_gymnasium_finds_nothing_to_warn_about(registered: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(registered, memory=Live(LiveMemory()), render_mode="ansi")
        check_env(env.unwrapped)
        check_env(gymnasium.make(registered).unwrapped)
    assert "Q: " in capsys.readouterr().out


def test_the_same_on_token_ids() -> None:
    gymnasium.register(id=ENV_ID, entry_point=lambda **options: ConversationTokensEnv(THREE, **{**common(), **options}))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(gymnasium.make(ENV_ID, memory=Live(LiveMemory()), render_mode="ansi").unwrapped, skip_render_check=True)
    finally:
        del gymnasium.registry[ENV_ID]
    tokens, text = ConversationTokensEnv(THREE, **common()), ConversationEnv(THREE, **common())
    observation, _ = tokens.reset(seed=3)
    query, _ = text.reset(seed=3)
    assert list(observation["ids"][: observation["length"]]) == prompt_ids(CODEC.encode(query))
    answer = CODEC.encode("A cat.")
    assert tokens.step({"ids": np.array([*answer, EOS, 99]), "length": len(answer) + 2})[1] == text.step("A cat.")[1]
    assert (tokens.memory == text.memory).all()
    with pytest.raises(EpisodeError, match="`ids` and `length`, got str"):
        tokens.step("A cat.")


def test_wrapped_copied_and_made_again_it_keeps_its_live_model(registered: str) -> None:
    backend = LiveMemory()
    env = gymnasium.make(registered, memory=Live(backend))
    env.reset(seed=0)
    again = gymnasium.make(env.spec)
    copied = copy.deepcopy(env)
    for each in (env, again, copied):
        assert each.unwrapped.batch.backend is backend
    assert copied.step("a cat")[0] == env.step("a cat")[0]
    assert copied.unwrapped.memory == env.unwrapped.memory


def test_it_plays_an_episode() -> None:
    env = ConversationEnv(THREE, render_mode="ansi", **common())
    query, info = env.reset(options={"conversation": 0, "stm_seed": 4})
    assert query == THREE[0].follow_ups[0].query
    assert (info["turn"], info["steps"], info["reference"], info["stm_seed"]) == (0, 3, None, 4)
    for turn in range(1, 4):
        answer = THREE[0].follow_ups[turn - 1].answer
        query, reward, terminated, truncated, info = env.step(answer)
        assert (info["turn"], info["reference"]) == (turn, answer)
        assert (terminated, truncated) == (turn == 3, False)
        assert 0.0 <= float(reward) <= 10.0
        assert answer in (env.render() or "")
    assert query == ""
    with pytest.raises(EpisodeError, match="call reset"):
        env.step("more")


def test_the_same_seed_gives_the_same_episode() -> None:
    def episode(seed: int | None, env: ConversationEnv) -> list[Any]:
        query, info = env.reset(seed=seed)
        played = [query, info["conversation_id"], info["stm_seed"]]
        while True:
            query, reward, terminated, truncated, info = env.step("A cat.")
            played += [query, reward, info["distance"]]
            if terminated or truncated:
                return [*played, env.memory.tolist()]

    env = ConversationEnv(THREE, **common())
    first = episode(5, env)
    second = episode(None, env)
    assert first != second
    other = ConversationEnv(THREE, **common())
    assert [episode(5, other), episode(None, other)] == [first, second]


def random_options(rng: random.Random) -> dict[str, Any]:
    """Options that change what is played, written or truncated."""
    return {
        "strategy": rng.choice([*STRATEGIES, {"multi-step": 1.0, "long-range": 2.0, "single-step": 0.5}]),
        "teacher_forcing": rng.choice([False, True, 0.5]),
        "forced_turns": rng.choice([None, 3]),
        "write_last": rng.random() < 0.5,
        "warm_up": rng.random() < 0.3,
        "max_turns": rng.choice([None, None, 5]),
        "max_episode_tokens": rng.choice([None, None, 300]),
        "max_answer_tokens": rng.choice([64, 3]),
    }


@pytest.mark.parametrize("block", range(20))
def test_it_agrees_with_the_batched_environment_turn_by_turn(block: int) -> None:
    """In all, 200 conversations of 1 to 16 steps."""
    rng = random.Random(block)
    chosen = [make_conversation(100 * block + i, rng.randint(1, 16)) for i in range(10)]
    options = random_options(rng)
    batch = ConversationVectorEnv(chosen, num_envs=len(chosen), **common(**options))
    _, first = batch.reset(options={"conversations": chosen, "stm_seeds": range(len(chosen))})
    singles = [ConversationEnv(chosen, **common(**options)) for _ in chosen]
    for row, single in enumerate(singles):
        query, info = single.reset(options={"conversation": chosen[row], "stm_seed": row})
        assert (query, info["written"], info["strategy"]) == (batch.next_queries[row], first["written"][row], first["strategy"][row])
    for turn in range(1, 17):
        waits = batch.active
        answers = [make_answer(c, turn) if turn <= c.steps else "" for c in chosen]
        _, rewards, terminated, truncated, info = batch.step(action(answers))
        for row in np.flatnonzero(waits):
            query, reward, ended, cut, own = singles[row].step(answers[row])
            assert query == batch.next_queries[row]
            assert (reward, ended, cut) == (rewards[row], terminated[row], truncated[row])
            assert own["turn_data"] == info["turns"][row]
            assert own["written"] == info["written"][row]
            assert own["reward_terms"] == {name: each[row] for name, each in info["reward_terms"].items() if not np.isnan(each[row])}
            assert (singles[row].memory[0] == batch.memory[row]).all()
    assert not batch.active.any()


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_gymnasiums_own_vector_environment_gives_the_same_episodes(mode: str) -> None:
    options = {"reset_ratio": 0.5}
    sync = SyncVectorEnv([lambda: ConversationEnv(THREE, **common(**options)) for _ in range(3)], autoreset_mode=mode)
    batch = ConversationVectorEnv(THREE, num_envs=3, autoreset_mode=mode, **common(**options))
    queries, _ = sync.reset(seed=11)
    batch.reset(seed=11)
    for step in range(30):
        assert tuple(queries) == batch.next_queries
        answers = ("A cat.", THREE[0].follow_ups[0].answer, f"A {'horse' if step % 2 else 'fox'}.")
        queries, expected, ended, cut, infos = sync.step(answers)
        _, rewards, terminated, truncated, info = batch.step(action(answers))
        assert (rewards.tolist(), terminated.tolist(), truncated.tolist()) == (expected.tolist(), ended.tolist(), cut.tolist())
        assert info["conversation_id"].tolist() == infos["conversation_id"].tolist()
        if mode == "Disabled" and (ended | cut).any():
            queries, _ = sync.reset(options={"reset_mask": ended | cut})
            batch.reset(options={"reset_mask": ended | cut})


def test_nothing_but_its_own_generator_is_drawn_from_or_changed() -> None:
    def episodes(noise: int) -> list[Any]:
        random.seed(noise)
        np.random.seed(noise)
        torch.manual_seed(noise)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        env = ConversationEnv(THREE, **common(strategy={"multi-step": 1, "long-range": 1}, teacher_forcing=0.5, reset_ratio=0.5))
        found: list[Any] = []
        for seed in (4, None, None, None):
            query, info = env.reset(seed=seed)
            found += [query, info["strategy"], info["stm_seed"], "stm0_carried" in info]
            while query:
                query, reward, *_, info = env.step("A cat.")
                found += [query, reward, info["written"]]
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
        return [*found, env.memory.tolist()]

    assert episodes(0) == episodes(1)


def test_random_resets_and_a_given_memory() -> None:
    env = ConversationEnv(THREE, **common(reset_ratio=0.0))
    env.reset(seed=0, options={"conversation": 0})
    env.step("x")
    left = env.memory.clone()
    _, info = env.reset(options={"conversation": 1})
    assert (info["stm0_carried"] == left).all()
    _, info = env.reset(options={"conversation": 2, "carry": False})
    assert "stm0_carried" not in info
    _, info = env.reset(seed=0, options={"conversation": 1})
    assert "stm0_carried" not in info
    env.reset(options={"conversation": 0, "stm": left})
    first = env.memory
    env.reset(options={"conversation": 0, "stm": left})
    assert (env.memory == first).all()


def test_text_spaces_hold_what_people_write_and_print_short() -> None:
    space = UnicodeText(20, seed=0)
    assert all(text in space for text in ("", "Żółw, 猫 & 🐈?", space.sample(), "x" * 20))
    assert "x" * 21 not in space
    assert "half \ud83d" not in space
    assert 5 not in space
    assert repr(space) == "UnicodeText(20)"
    assert space == UnicodeText(20)
    assert space != UnicodeText(21)


def test_misuse_is_refused() -> None:
    env = ConversationEnv(THREE, **common())
    with pytest.raises(EpisodeError, match="call reset"):
        env.step("x")
    with pytest.raises(EpisodeError, match="Did you mean 'conversation'"):
        env.reset(options={"conversations": [0]})
    env.reset()
    with pytest.raises(EpisodeError, match="a text, got int"):
        env.step(5)  # type: ignore[arg-type]
    with pytest.raises(EpisodeError, match="half of a surrogate pair"):
        env.step("half \ud83d")
    with pytest.raises(ConfigError, match="render mode"):
        ConversationEnv(THREE, render_mode="rgb_array", **common())
    with pytest.raises(ConfigError, match="max_characters must be a whole number of at least 1, got 0"):
        ConversationEnv(THREE, max_characters=0, **common())


def test_human_mode_prints_what_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    reward = lambda turns: [Score(7.5, {"truth": 9.0, "style": None}) for _ in turns]  # noqa: E731
    env = ConversationEnv(THREE, render_mode="human", **common(reward=reward))
    env.reset(options={"conversation": 2})
    told = capsys.readouterr().out
    assert THREE[2].first.query in told
    assert told.rstrip().endswith(f"1 Q: {THREE[2].follow_ups[0].query}")
    env.step("A purple cow,\nŻółw 猫.")
    turn = capsys.readouterr().out
    assert "told:" not in turn
    assert "A: A purple cow,\n       Żółw 猫.\n" in turn
    assert "reward 7.5, truth 9.0, style -" in turn
    assert f"2 Q: {THREE[2].follow_ups[1].query}" in turn
    env.render()
    assert capsys.readouterr().out == ""


def test_a_rendered_transcript_only_grows_and_ends_with_the_last_answer() -> None:
    env = ConversationEnv(THREE, render_mode="ansi", **common())
    env.reset(options={"conversation": 2})
    before = str(env.render())
    for turn in range(1, 6):
        env.step(f"Answer {turn}.")
        after = str(env.render())
        assert after.startswith(before)
        assert f"A: Answer {turn}." in after
        before = after
    assert before.count("reference: ") == 5


def test_a_gymnasium_time_limit_truncates() -> None:
    env = gymnasium.wrappers.TimeLimit(ConversationEnv(THREE, **common()), 2)
    env.reset(options={"conversation": 2})
    assert [env.step("x")[2:4] for _ in range(2)] == [(False, False), (False, True)]
