"""The batched environment: rows of different length, partial batches, memory writes, options and draws."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.envs import ConversationVectorEnv, TranscriptMemory, token_batch
from rxrl.errors import ConfigError, EpisodeError, RewardError
from rxrl.types import (
    ANSWER,
    BOS,
    EOS,
    PAD,
    QUERY,
    STRATEGIES,
    Conversation,
    Interaction,
    Score,
    TokenBatch,
    Turn,
    interaction_ids,
    prompt_ids,
)
from tests.envs.worlds import CODEC, NumberMemory, action, common, make_answer, make_conversation

SIX = [make_conversation(seed, steps) for seed, steps in enumerate((3, 1, 5, 2, 4, 16))]


def make(conversations: Sequence[Conversation] = SIX, num_envs: int = 6, **changes: Any) -> ConversationVectorEnv:
    return ConversationVectorEnv(conversations, num_envs=num_envs, **common(**changes))


def answers_of(env: ConversationVectorEnv, chosen: Sequence[Conversation], turn: int) -> list[str]:
    waits = env.active
    return [make_answer(c, turn) if waits[row] else "ignored" for row, c in enumerate(chosen)] + ["ignored"] * (env.num_envs - len(chosen))


def play(
    env: ConversationVectorEnv, chosen: Sequence[Conversation], **options: Any
) -> tuple[dict[str, list[Turn]], dict[str, list[float]]]:
    """Plays `chosen` to the end; turns and rewards by conversation id."""
    env.reset(options={"conversations": list(chosen), **options})
    turns: dict[str, list[Turn]] = {c.id: [] for c in chosen}
    rewards: dict[str, list[float]] = {c.id: [] for c in chosen}
    turn = 0
    while env.active.any():
        turn += 1
        waits = env.active
        _, reward, terminated, truncated, info = env.step(action(answers_of(env, chosen, turn)))
        for row, conversation in enumerate(chosen):
            assert (info["turns"][row] is not None) == waits[row]
            if waits[row]:
                turns[conversation.id].append(info["turns"][row])
                rewards[conversation.id].append(float(reward[row]))
        assert ((terminated | truncated) == (waits & ~env.active)).all()
    return turns, rewards


def test_an_observation_is_the_prompt_of_the_query() -> None:
    env = make()
    observation, info = env.reset(options={"conversations": [0, "c1-1", SIX[2]]})
    assert env.observation_space.contains(observation)
    prompts = token_batch(observation).rows()
    assert prompts[:3] == [prompt_ids(CODEC.encode(c.follow_ups[0].query)) for c in SIX[:3]]
    assert prompts[3:] == [[], [], []]
    assert env.next_queries[0] == SIX[0].follow_ups[0].query
    assert [ids for ids in info["written"] if ids] == [
        interaction_ids(CODEC.encode(c.first.query), CODEC.encode(c.first.answer)) for c in SIX[:3]
    ]
    assert info["conversation_id"].tolist() == [*(c.id for c in SIX[:3]), None, None, None]


def test_rows_of_different_length_each_play_exactly_their_steps() -> None:
    turns, rewards = play(make(), SIX)
    for conversation in SIX:
        assert [turn.index for turn in turns[conversation.id]] == list(range(1, conversation.steps + 1))
        assert len(rewards[conversation.id]) == conversation.steps
        assert all(0.0 <= reward <= 10.0 for reward in rewards[conversation.id])


def test_batch_order_and_size_change_nothing() -> None:
    seeds = {c.id: seed for seed, c in enumerate(SIX)}

    def outcome(chosen: Sequence[Conversation], rows: int) -> tuple[dict[str, list[Turn]], dict[str, Any]]:
        env = make(num_envs=rows)
        turns, _ = play(env, chosen, stm_seeds=[seeds[c.id] for c in chosen])
        return turns, {c.id: env.memory[row] for row, c in enumerate(chosen)}

    turns, memories = outcome(SIX, 6)
    for order, rows in ((SIX[::-1], 6), ([SIX[2]], 1), ([SIX[5], SIX[0]], 4)):
        others, other_memories = outcome(order, rows)
        for conversation in order:
            assert others[conversation.id] == turns[conversation.id]
            torch.testing.assert_close(other_memories[conversation.id], memories[conversation.id], rtol=0, atol=0)


def test_every_row_of_a_partial_batch_is_used_and_no_other() -> None:
    backend, seen = NumberMemory(), []

    def spy(turns: Sequence[Turn]) -> list[float]:
        seen.append(len(turns))
        return [5.0] * len(turns)

    env = make(num_envs=5, memory=backend, reward=spy)
    turns, rewards = play(env, SIX[:3])
    assert {name: len(each) for name, each in turns.items()} == {c.id: c.steps for c in SIX[:3]}
    assert {reward for each in rewards.values() for reward in each} == {5.0}
    assert seen == [3, 2, 2, 1, 1]
    assert not any(rows[3] or rows[4] for rows in backend.writes)


def test_one_write_serves_all_rows_and_the_last_is_skipped() -> None:
    backend = NumberMemory()
    play(make(memory=backend), SIX[:4])
    written = np.array(backend.writes)[:, :4]
    assert len(written) == max(c.steps for c in SIX[:4])
    assert written.sum(axis=0).tolist() == [c.steps for c in SIX[:4]]
    backend = NumberMemory()
    play(make(memory=backend, write_last=True), SIX[:4])
    assert np.array(backend.writes)[:, :4].sum(axis=0).tolist() == [c.steps + 1 for c in SIX[:4]]


def test_sampled_ids_are_written_as_they_are() -> None:
    env = make(num_envs=3, memory=TranscriptMemory())
    env.reset(options={"conversations": [2, 4, 5]})
    before = [env.memory.rows[row] for row in range(3)]
    rows = [[8, 9, EOS, 77], [8, 9], [BOS, 8, PAD, 9]]
    batch = TokenBatch.pad(rows)
    *_, info = env.step({"ids": batch.ids.numpy(), "length": np.array([len(row) for row in rows])})
    for row, answer in enumerate(([8, 9], [8, 9], [BOS, 8, PAD, 9])):
        query = CODEC.encode(info["turns"][row].query)
        assert info["written"][row] == [BOS, QUERY, *query, ANSWER, *answer, EOS]
        assert env.memory.rows[row] == (*before[row], tuple(info["written"][row]))
        assert info["turns"][row].answer_ids == (8, 9)


def test_actions_may_be_numpy_torch_or_action() -> None:
    results = []
    batch = action(["a cat", "a dog"])
    length = batch.mask.sum(dim=1)
    for each in (batch, {"ids": batch.ids, "length": length}, {"ids": batch.ids.numpy(), "length": length.numpy()}):
        env = make(num_envs=2)
        env.reset(seed=1)
        results.append(env.step(each)[1].tolist())
    assert results[0] == results[1] == results[2]


def test_random_actions_of_the_space_are_tolerated() -> None:
    env = make()
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(5):
        observation, rewards, *_ = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert ((rewards >= 0) & (rewards <= 10)).all()


def test_teacher_forcing_writes_the_reference_but_scores_the_answer() -> None:
    env = make(num_envs=1, teacher_forcing=True)
    env.reset(options={"conversations": [2]})
    *_, info = env.step(action(["nonsense"]))
    interaction = SIX[2].follow_ups[0]
    assert info["written"][0] == interaction_ids(CODEC.encode(interaction.query), CODEC.encode(interaction.answer))
    assert info["turns"][0].answer == "nonsense"
    *_, info = env.step(action(["nonsense"]))
    assert info["turns"][0].history[1].answer == interaction.answer


def test_teacher_forcing_by_probability_and_up_to_a_turn() -> None:
    def forced(**changes: Any) -> list[bool]:
        env = make([SIX[5]], num_envs=40, **changes)
        env.reset(options={"conversations": [0] * 40, "stm_seeds": range(40)})
        found = []
        for _ in range(3):
            *_, info = env.step(action(["zzz"] * 40))
            found += [ids[-4:-1] != CODEC.encode("zzz") for ids in info["written"]]
        return found

    assert all(forced(teacher_forcing=1.0))
    assert not any(forced(teacher_forcing=0.0))
    half = forced(teacher_forcing=0.5)
    assert 30 < sum(half) < 90
    assert half == forced(teacher_forcing=0.5)
    assert forced(teacher_forcing=True, forced_turns=2) == [True] * 80 + [False] * 40


def test_info_never_holds_a_reference_to_come() -> None:
    turns = tuple(Interaction(f"Question{n}?", f"secret{n}", facts=(("mia.pet", f"hidden{n}"),), asks=("mia.pet",)) for n in range(1, 5))
    conversation = Conversation("c", Interaction("Mia has a cat.", "I see.", facts=(("mia.pet", "cat"),)), turns)
    env = make([conversation], num_envs=1, reward=lambda turns: [5.0] * len(turns), render_mode="ansi", values={"pet": ("cat",)})
    observation, info = env.reset()
    for turn in range(1, 5):
        shown = f"{info} {CODEC.decode(observation['ids'][0])} {env.render()}"
        for later in range(turn, 5):
            assert f"secret{later}" not in shown
            assert f"hidden{later}" not in shown
        observation, *_, info = env.step(action(["x"]))


def test_info_of_a_turn() -> None:
    env = make(num_envs=2, reward=lambda turns: [Score(None, {"part": 3.0 if t.asking else None}) for t in turns])
    env.reset(options={"conversations": [5]})
    *_, rewards, _, _, info = env.step(action(["a cat", ""]))
    turn = info["turns"][0]
    assert rewards.tolist() == [0.0, 0.0]
    assert info["scored"].tolist() == [False, False]
    assert info["turn"].tolist() == [1, 0]
    assert info["steps"].tolist() == [16, 0]
    assert info["distance"].tolist() == [turn.distance if turn.distance is not None else -1, -1]
    assert info["asking"].tolist() == [turn.asking, False]
    np.testing.assert_array_equal(info["reward_terms"]["part"], [3.0 if turn.asking else np.nan, np.nan])
    assert info["strategy"].tolist() == ["multi-step", None]


def test_the_same_seed_gives_the_same_episode_and_rows_draw_for_themselves() -> None:
    def drawn(rows: int, seed: int | list[int]) -> list[tuple[str, int]]:
        _, info = make(num_envs=rows).reset(seed=seed)
        return list(zip(info["conversation_id"].tolist(), info["stm_seeds"].tolist(), strict=True))

    assert drawn(6, 3) == drawn(6, 3)
    assert drawn(6, 3) != drawn(6, 30)
    assert drawn(2, 3) == drawn(6, 3)[:2]
    assert drawn(2, [4, 3]) == drawn(6, 3)[1::-1]


def test_episodes_follow_each_other_without_a_seed() -> None:
    env = make()
    first = env.reset(seed=1)[1]["stm_seeds"].tolist()
    second = env.reset()[1]["stm_seeds"].tolist()
    assert first != second
    env.reset(seed=1)
    assert env.reset()[1]["stm_seeds"].tolist() == second


def test_some_rows_are_reset_and_the_others_go_on() -> None:
    env = make(num_envs=3)
    env.reset(options={"conversations": [1, 4, 2], "stm_seeds": [1, 2, 3]})
    env.step(action(["x", "y", "z"]))
    assert env.active.tolist() == [False, True, True]
    before = env.memory.clone()
    mask = np.array([True, False, False])
    observation, info = env.reset(options={"reset_mask": mask, "conversations": [3], "stm_seeds": [9]})
    assert env.active.all()
    torch.testing.assert_close(env.memory[1:], before[1:], rtol=0, atol=0)
    assert info["written"][1:].tolist() == [None, None]
    alone = make(num_envs=1)
    alone.reset(options={"conversations": [3], "stm_seeds": [9]})
    torch.testing.assert_close(env.memory[0], alone.memory[0], rtol=0, atol=0)
    assert token_batch(observation).rows()[0] == prompt_ids(CODEC.encode(SIX[3].follow_ups[0].query))
    *_, info = env.step(action(["x", "y", "z"]))
    assert info["turn"].tolist() == [1, 2, 2]


def test_same_step_begins_again_at_once() -> None:
    env = make(num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    env.reset(seed=0, options={"conversations": [1, 4]})
    observation, rewards, terminated, _, info = env.step(action(["a cat", "a cat"]))
    assert terminated.tolist() == [True, False]
    assert info["_final_info"].tolist() == [True, False]
    assert info["final_info"]["turns"][0].conversation_id == SIX[1].id
    assert token_batch(info["final_obs"]).rows()[0] == []
    assert info["turns"][0] is None
    assert info["turns"][1].index == 1
    assert info["turn"].tolist() == [0, 1]
    assert env.active.all()
    assert observation["length"][0] > 0
    assert 0.0 <= rewards[0] <= 10.0
    for _ in range(20):
        env.step(action(["a cat", "a cat"]))
        assert env.active.all()


def test_a_given_memory_is_where_rows_start() -> None:
    env = make(num_envs=3)
    given = torch.arange(12.0, dtype=torch.float64).view(3, 4)
    rows = np.array([False, True, False])
    env.reset(options={"conversations": [0, 1, 2], "stm_seeds": [1, 2, 3], "stm": given, "stm_rows": rows})
    fresh = make(num_envs=3)
    fresh.reset(options={"conversations": [0, 1, 2], "stm_seeds": [1, 2, 3]})
    assert (env.memory == fresh.memory).all(dim=1).tolist() == [True, False, True]
    other = make(num_envs=3)
    other.reset(options={"conversations": [0, 1, 2], "stm_seeds": [7, 8, 9], "stm": given, "stm_rows": rows})
    torch.testing.assert_close(other.memory[1], env.memory[1], rtol=0, atol=0)


def test_memory_can_be_read_and_replaced() -> None:
    env = make(num_envs=1)
    env.reset(seed=0)
    env.memory = torch.zeros(1, 4, dtype=torch.float64)
    assert not env.memory.any()


def test_random_resets_start_from_what_another_conversation_left() -> None:
    env = make(num_envs=3, reset_ratio=0.0)
    _, info = env.reset(seed=0, options={"conversations": [0, 1, 2]})
    assert "stm0_carried" not in info
    while env.active.any():
        env.step(action(["x"] * 3))
    left = env.memory.clone()
    _, info = env.reset(options={"conversations": [3, 1, 4], "stm_seeds": [5, 6, 7]})
    assert info["stm0_carried"]["rows"].tolist() == [True, False, True]
    stm0 = info["stm0_carried"]["memory"]
    torch.testing.assert_close(stm0[[0, 2]], left[[0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(stm0[1], NumberMemory().init([6])[0], rtol=0, atol=0)
    _, info = env.reset(seed=1, options={"conversations": [0, 2, 1]})
    assert "stm0_carried" not in info


def test_random_resets_follow_their_ratio_or_what_is_asked_for() -> None:
    env = make(num_envs=6, reset_ratio=0.4)
    env.reset(seed=0)
    carried = 0
    for number in range(100):
        _, info = env.reset(options={"conversations": [number % 2] * 6})
        carried += info["stm0_carried"]["rows"].sum() if "stm0_carried" in info else 0
    assert 300 < carried < 420
    _, info = env.reset(options={"conversations": [3] * 6, "carry": np.array([True, False] * 3)})
    assert info["stm0_carried"]["rows"].tolist() == [True, False] * 3
    steady = make(num_envs=6)
    steady.reset(seed=0, options={"conversations": [0] * 6})
    assert "stm0_carried" not in steady.reset(options={"conversations": [1] * 6})[1]


def test_warm_up_writes_the_first_interaction_twice() -> None:
    env = make(num_envs=2, memory=TranscriptMemory(), warm_up=True)
    _, info = env.reset(options={"conversations": [0]})
    assert env.memory.rows[0] == (tuple(info["written"][0]),) * 2
    assert env.memory.rows[1] == ()


def test_limits_truncate_and_cut() -> None:
    env = make(num_envs=2, max_turns=2)
    env.reset(options={"conversations": [2, 1]})
    *_, terminated, truncated, _ = env.step(action(["x"] * 2))
    assert (terminated.tolist(), truncated.tolist()) == ([False, True], [False, False])
    *_, terminated, truncated, _ = env.step(action(["x"] * 2))
    assert (terminated.tolist(), truncated.tolist()) == ([False, False], [True, False])
    *_, terminated, truncated, info = env.step(action(["x"] * 2))
    assert not (terminated | truncated).any()
    assert info["turns"].tolist() == [None, None]

    env = make(num_envs=1, max_episode_tokens=120)
    env.reset(options={"conversations": [5]})
    written = 0
    while env.active.any():
        *_, truncated, info = env.step(action(["x" * 30]))
        written += 1
    assert truncated[0]
    assert 1 <= written < 4

    env = make(num_envs=1, max_answer_tokens=3)
    env.reset(options={"conversations": [2]})
    *_, info = env.step(action(["abcdef"]))
    assert info["turns"][0].answer == "abc"
    assert info["written"][0][-4:] == [*CODEC.encode("abc"), EOS]


def test_references_beyond_the_answer_limit_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    env = make(num_envs=1, max_answer_tokens=3)
    for index in (1, 2):
        env.reset(options={"conversations": [index]})
    assert caplog.text.count("Answers end after 3 tokens, but some references are longer") == 1
    assert "raise max_answer_tokens" in caplog.text


def test_interactions_are_cut_to_their_limit_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    env = make(num_envs=1, max_interaction_tokens=20, max_query_tokens=12)
    observation, info = env.reset(options={"conversations": [2]})
    assert len(info["written"][0]) == 20
    assert info["written"][0][-1] == EOS
    assert observation["length"][0] <= 15
    assert "is cut to" in caplog.text
    *_, info = env.step(action(["x" * 40]))
    assert len(info["written"][0]) <= 20
    assert info["written"][0][-1] == EOS


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strategies(strategy: str) -> None:
    turns, _ = play(make(strategy=strategy), SIX)
    for conversation in SIX:
        assert {turn.strategy for turn in turns[conversation.id]} == {strategy}
        assert len(turns[conversation.id]) == (1 if strategy == "single-step" else conversation.steps)
    own = make_conversation(9, 4, strategy=strategy)
    turns, _ = play(make([own], num_envs=1), [own])
    assert {turn.strategy for turn in turns[own.id]} == {strategy}
    turns, _ = play(make([own], num_envs=1), [own], strategies=["multi-step"])
    assert {turn.strategy for turn in turns[own.id]} == {"multi-step"}


def test_mixes_of_strategies() -> None:
    env = make([SIX[2]], num_envs=200, strategy={"multi-step": 3, "long-range": 1})
    info = env.reset(options={"conversations": [0] * 200, "stm_seeds": range(200)})[1]
    assert 25 < sum(name == "long-range" for name in info["strategy"]) < 75
    assert env.reset(options={"conversations": [0] * 200, "stm_seeds": range(200)})[1]["strategy"].tolist() == info["strategy"].tolist()
    with pytest.raises(ConfigError, match="a weight above 0"):
        make(strategy={"multi-step": 0.0})


def test_the_last_turn_of_a_long_range_episode_looks_at_the_first_interaction() -> None:
    idle = Interaction("Nice weather.", "Indeed.")
    conversation = Conversation("c", Interaction("Mia has a cat.", "I see."), (idle, idle, Interaction("What was it?", "Something else.")))
    turns, _ = play(make([conversation], num_envs=1, strategy="long-range"), [conversation])
    assert [turn.saved[0].query for turn in turns["c"]] == ["Mia has a cat.", "Nice weather.", "Mia has a cat."]


def test_a_subclass_changes_the_score_and_is_used() -> None:
    class Generous(ConversationVectorEnv):
        def score(self, turns: Sequence[Turn]) -> list[Score]:
            return [Score(9.0, {"gift": 1.0}) for _ in super().score(turns)]

    env = Generous(SIX, num_envs=2, **common())
    env.reset(seed=0)
    _, rewards, _, _, info = env.step(action(["x", "y"]))
    assert rewards.tolist() == [9.0, 9.0]
    assert info["reward_terms"]["gift"].tolist() == [1.0, 1.0]


def test_a_subclass_that_scores_too_few_turns_is_named() -> None:
    class Lazy(ConversationVectorEnv):
        def score(self, turns: Sequence[Turn]) -> list[Score]:
            return super().score(turns)[1:]

    env = Lazy(SIX, num_envs=2, **common())
    env.reset(seed=0)
    with pytest.raises(RewardError, match=r"Lazy\.score must return one score for each of 2 turns, but gave 1"):
        env.step(action(["x", "y"]))


def test_no_memory_at_all() -> None:
    env = make(memory=None)
    turns, _ = play(env, SIX)
    assert env.memory is None
    assert sum(map(len, turns.values())) == sum(c.steps for c in SIX)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs.*at least 1, got 0"),
        ({"strategy": "multistep"}, "Did you mean 'multi-step'"),
        ({"teacher_forcing": 1.5}, "teacher_forcing.*0 to 1, got 1.5"),
        ({"teacher_forcing": "yes"}, "teacher_forcing.*0 to 1, got 'yes'"),
        ({"forced_turns": -1}, "forced_turns.*at least 0, or None for no limit, got -1"),
        ({"warm_up": "x"}, "warm_up must be True or False, got 'x'"),
        ({"write_last": 2}, "write_last must be True or False, got 2"),
        ({"values": 5}, "values must be a mapping from an attribute to its values, .*got 5"),
        ({"values": {"pet": "cat"}}, "values must have a list of texts for each attribute, got 'cat' for 'pet'"),
        ({"strategy": 5}, "strategy is the name of one, or a mapping from names to weights, got 5"),
        ({"strategy": {"multi-step": "much"}}, "weight of strategy 'multi-step' must be a number of at least 0, got 'much'"),
        ({"reset_ratio": -0.1}, "reset_ratio"),
        ({"reset_ratio": None}, "reset_ratio.*got None"),
        ({"autoreset_mode": AutoresetMode.NEXT_STEP}, "NextStep"),
        ({"max_interaction_tokens": 5}, "max_interaction_tokens.*at least 6, or None for no limit, got 5"),
        ({"max_episode_tokens": -1}, "max_episode_tokens.*at least 1"),
        ({"max_turns": 0}, "max_turns.*at least 1, or None for no limit, got 0"),
        ({"vocab_size": 0}, "vocab_size.*at least 1, got 0"),
        ({"render_mode": "rgb_array"}, "rgb_array"),
        ({"conversations": []}, "at least one conversation"),
        ({"conversations": [{"query": "x"}]}, "rxrl.types.Conversation or another Scenario, got dict"),
        ({"conversations": [Conversation("empty", Interaction("a", "b"), ())]}, "'empty' has no follow-up"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conversation": 0}, "Did you mean 'conversations'"),
        ({"conversations": [99]}, "0 to 5, got 99"),
        ({"conversations": ["c9"]}, "Unknown conversation 'c9'"),
        ({"conversations": [0] * 7}, "7 conversations, but only 6 rows"),
        ({"conversations": [0, 1], "stm_seeds": [1]}, "each of the 2 conversations.*got 1"),
        ({"conversations": [0], "stm_seeds": ["x"]}, "stm_seeds are whole numbers.*got 'x'"),
        ({"conversations": [0], "stm_seeds": [2**64]}, "stm_seeds are whole numbers"),
        ({"reset_mask": [1, 0]}, r"bool of shape \(6,\)"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EpisodeError, match=message):
        make().reset(options=options)


def test_misuse_is_refused() -> None:
    env = make(num_envs=2)
    with pytest.raises(EpisodeError, match="call reset"):
        env.step(action(["x", "y"]))
    env.reset()
    with pytest.raises(EpisodeError, match="one row for each"):
        env.step(action(["x"]))
    with pytest.raises(EpisodeError, match="got str"):
        env.step("hello")
    with pytest.raises(EpisodeError, match="each of the 2 rows, got 1"):
        env.reset(seed=[1])


def test_a_failing_reward_is_named() -> None:
    def sleepy(turns: Sequence[Turn]) -> list[float]:
        raise TimeoutError("too late")

    env = make(reward=sleepy)
    env.reset()
    with pytest.raises(RewardError, match=r"sleepy.*TimeoutError: too late"):
        env.step(action(["x"] * 6))


def test_render_shows_the_transcript() -> None:
    env = make(num_envs=2, render_mode="ansi")
    env.reset(options={"conversations": [2]})
    env.step(action(["A purple cow.", ""]))
    shown = env.render()
    assert shown is not None
    for text in (SIX[2].first.query, SIX[2].follow_ups[0].query, "A purple cow.", SIX[2].follow_ups[1].query):
        assert text in shown[0]
    assert shown[1] == ""


def test_resets_do_not_collect_garbage() -> None:
    env = make(num_envs=2, memory=TranscriptMemory(last=2))

    def soak(resets: int) -> int:
        for _ in range(resets):
            env.reset()
            env.step(action(["a cat", "a dog"]))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    soak(50)
    tracemalloc.start()
    before = soak(100)
    after = soak(400)
    tracemalloc.stop()
    assert after - before < 100_000


@given(seed=st.integers(0, 10**6), steps=st.lists(st.integers(1, 16), min_size=1, max_size=4), strategy=st.sampled_from(STRATEGIES))
@settings(max_examples=25)
def test_every_reward_and_distance_is_in_range(seed: int, steps: list[int], strategy: str) -> None:
    chosen = [make_conversation(seed + i, n) for i, n in enumerate(steps)]
    turns, rewards = play(make(chosen, num_envs=len(chosen), strategy=strategy), chosen)
    for conversation in chosen:
        assert all(0.0 <= reward <= 10.0 for reward in rewards[conversation.id])
        for turn in turns[conversation.id]:
            assert turn.distance is None or 1 <= turn.distance <= turn.index
            assert turn.asking or turn.distance is None
            assert turn.saved
            assert set(turn.saved) <= set(turn.history)


def test_what_is_cut_off_an_answer_is_neither_kept_nor_tracked() -> None:
    """A value that memory never received counts as exposed nowhere; the first answer, cut as well, told nothing either."""
    told = Interaction("Mia has a pet.", "It is a cat.", (("mia.pet", "cat"),), ())
    ask = Interaction("Which pet?", "A cat.", (), ("mia.pet",))
    env = make(
        [Conversation("cut", told, (ask, ask))], num_envs=1, max_interaction_tokens=4 + len("Mia has a pet.") + 3, max_answer_tokens=20
    )
    env.reset(seed=0, options={"conversations": [0]})
    _, _, _, _, info = env.step(action(["A big cat."]))
    assert [each.answer for each in info["turns"][0].history] == ["It "]
    assert info["turns"][0].distance is None
    _, _, _, _, info = env.step(action(["A big cat."]))
    assert [each.answer for each in info["turns"][0].history] == ["It ", "A big c"]
    assert all(each.answer == CODEC.decode(each.answer_ids) for each in info["turns"][0].history)
    assert info["turns"][0].distance is None


@pytest.mark.parametrize(
    ("ids", "length", "message"),
    [
        ([[8, -5]], [2], "got -5"),
        ([[8, 9]], [5], "`length` counts"),
        ([[8, 9]], [-1], "`length` counts"),
    ],
)
def test_ids_that_no_token_has_are_refused(ids: list[list[int]], length: list[int], message: str) -> None:
    env = make(num_envs=1)
    env.reset(seed=0)
    with pytest.raises(EpisodeError, match=message):
        env.step({"ids": np.array(ids), "length": np.array(length)})
    env.step(action(["a cat"]))
