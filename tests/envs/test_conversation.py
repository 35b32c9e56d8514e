"""The environment of one conversation: Gymnasium's own checks, and the same play as the batched one."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.envs import ConversationEnv, ConversationTokensEnv, ConversationVectorEnv, Live, TranscriptMemory, UnicodeText
from rxrl.errors import ConfigError, EpisodeError
from rxrl.types import EOS, STRATEGIES, prompt_ids
from tests.envs.worlds import CODEC, NumberMemory, action, common, make_answer, make_conversation

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


@given(
    seed=st.integers(0, 10**6),
    steps=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    strategy=st.sampled_from(STRATEGIES),
    forcing=st.sampled_from([0.0, 0.5, 1.0]),
)
@settings(max_examples=25)
def test_it_agrees_with_the_batched_environment_turn_by_turn(seed: int, steps: list[int], strategy: str, forcing: float) -> None:
    chosen = [make_conversation(seed + i, n) for i, n in enumerate(steps)]
    options = {"strategy": strategy, "teacher_forcing": forcing}
    batch = ConversationVectorEnv(chosen, num_envs=len(chosen), **common(**options))
    batch.reset(options={"conversations": chosen, "stm_seeds": range(len(chosen))})
    singles = [ConversationEnv(chosen, **common(**options)) for _ in chosen]
    for row, single in enumerate(singles):
        single.reset(options={"conversation": chosen[row], "stm_seed": row})
    turn = 0
    while batch.active.any():
        turn += 1
        waits = batch.active
        answers = [make_answer(c, turn) if turn <= c.steps else "" for c in chosen]
        _, rewards, terminated, truncated, info = batch.step(action(answers))
        for row in np.flatnonzero(waits):
            query, reward, ended, cut, own = singles[row].step(answers[row])
            assert query == batch.next_queries[row]
            assert (reward, ended, cut) == (rewards[row], terminated[row], truncated[row])
            assert own["turn_data"] == info["turns"][row]
            assert own["written"] == info["written"][row]
            assert (singles[row].memory[0] == batch.memory[row]).all()


def test_gymnasiums_own_vector_environment_gives_the_same_rewards() -> None:
    sync = SyncVectorEnv([lambda: ConversationEnv(THREE, **common()) for _ in range(3)], autoreset_mode="Disabled")
    batch = ConversationVectorEnv(THREE, num_envs=3, **common())
    queries, _ = sync.reset(seed=11)
    batch.reset(seed=11)
    assert tuple(queries) == batch.next_queries
    assert batch.step(action(["A cat."] * 3))[1].tolist() == sync.step(("A cat.",) * 3)[1].tolist()


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
    with pytest.raises(ConfigError, match="render mode"):
        ConversationEnv(THREE, render_mode="rgb_array", **common())


def test_human_mode_prints_the_transcript(capsys: pytest.CaptureFixture[str]) -> None:
    env = ConversationEnv(THREE, render_mode="human", **common(memory=NumberMemory()))
    env.reset(options={"conversation": 2})
    env.step("A purple cow.")
    assert "A purple cow." in capsys.readouterr().out
