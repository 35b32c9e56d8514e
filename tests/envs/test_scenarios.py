"""Scenarios: dialogues that depend on seed and answers alone, their players and bounds, and what is refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ConversationEnv, ConversationVectorEnv, check_scores
from rxrl.envs.scenarios import LEVELS, SCENARIOS, SPLITS, Game, bounds, load, play_text, texts_of, words_of
from rxrl.errors import ConfigError, RxrlError, ScenarioError
from rxrl.evaluation import play_conditions
from rxrl.factory import make_vector_env
from rxrl.lexicon import ALIASES, ENTITIES, VALUES
from rxrl.models import PRESETS
from rxrl.players import make_play
from rxrl.rewards import load_reward
from rxrl.seeding import Draws
from rxrl.types import Conversation, Dialogue, Interaction, Score, Turn, longest_query
from tests.envs.worlds import CODEC, action

NAMES = sorted(SCENARIOS.built_in)
ROOT = Path(__file__).parents[2]
OPTIONS = {name: {"endpoint": "http://127.0.0.1:9/v1", "model": "nobody"} for name in NAMES if SCENARIOS.find(name).asks_outside}
"""Options of those that cannot be loaded without; games are rehearsed here, so that nobody is asked."""
OUTCOME = load_reward("outcome")


def games(name: str, count: int = 1, *, level: int = 1, steps: int = 12, split: str = "train", start: int = 0) -> list[Game[Any]]:
    source = load(name, level=level, split=split, **OPTIONS.get(name, {}))
    return [game.rehearsed() for game in source.take(steps=steps, start=start, count=count)]


def vector(scenarios: Sequence[Any], rows: int, **options: Any) -> ConversationVectorEnv:
    return ConversationVectorEnv(scenarios, memory=None, reward=options.pop("reward", OUTCOME), codec=CODEC, num_envs=rows, **options)


def answers_of(game: Game[Any], seed: int, salt: int) -> list[str]:
    """Random legal answers, with some nonsense in between."""
    turns = play_text(game, lambda level, query, said, draws: _some(game, said, draws, salt), seed=seed)
    return [turn.answer for turn in turns]


def _some(game: Game[Any], said: Sequence[tuple[str, str]], draws: Draws, salt: int) -> str:
    if draws.below(5 + salt) == 0:
        return "mumble"
    state = game.begin(0).state([answer for _, answer in said[1:]])
    return game.random_answer(state, draws)


def play_single(game: Game[Any], seed: int, answers: Sequence[str]) -> list[tuple[str, float]]:
    env = ConversationEnv([game], memory=None, reward=OUTCOME, codec=CODEC, max_answer_tokens=64)
    query, _ = env.reset(options={"conversation": 0, "stm_seed": seed})
    seen = []
    for answer in answers:
        following, reward, terminated, truncated, _ = env.step(answer)
        seen.append((query, float(reward)))
        query = following
        if terminated or truncated:
            break
    return seen


def play_rows(scenarios: Sequence[Game[Any]], seeds: Sequence[int], answers: Sequence[Sequence[str]]) -> list[list[tuple[str, float]]]:
    env = vector(scenarios, len(scenarios), max_answer_tokens=64)
    env.reset(options={"conversations": list(range(len(scenarios))), "stm_seeds": list(seeds)})
    seen: list[list[tuple[str, float]]] = [[] for _ in scenarios]
    while env.active.any():
        queries, active = env.next_queries, env.active
        turn = max(map(len, seen))
        _, rewards, *_ = env.step(action([row[turn] if turn < len(row) else "" for row in answers]))
        for row in np.flatnonzero(active).tolist():
            seen[row].append((queries[row], float(rewards[row])))
    return seen


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31), salt=st.integers(0, 3), steps=st.integers(1, 16), level=st.sampled_from(LEVELS))
def test_a_dialogue_depends_on_seed_and_answers_alone(name: str, seed: int, salt: int, steps: int, level: int) -> None:
    chosen = games(name, 3, level=level, steps=steps, start=seed % 1000)
    answers = [answers_of(game, seed + row, salt) for row, game in enumerate(chosen)]
    together = play_rows(chosen, [seed, seed + 1, seed + 2], answers)
    alone = [play_single(game, seed + row, answers[row]) for row, game in enumerate(chosen)]
    assert together == alone
    # A copy that was sent to another process says the same, and asks nothing of what was heard before.
    again = pickle.loads(pickle.dumps(chosen[0]))
    heard = play_text(again, lambda level, query, said, draws: answers[0][max(0, len(said) - 1)], seed=seed)
    assert [(turn.query, turn.outcome.value if turn.outcome else None) for turn in heard] == alone[0]
    # A run that goes on begins the dialogue anew, whatever turn it stands at.
    assert [again.begin(seed).say(heard[:turn]).query for turn in range(len(heard))] == [turn.query for turn in heard]  # type: ignore[union-attr]


def digest_of(names: Sequence[str]) -> str:
    """What scenarios of all levels say and pay, in a few characters."""
    played = [
        (turn.query, turn.answer, turn.outcome and turn.outcome.value)
        for name in names
        for level in LEVELS
        for game in games(name, 3, level=level)
        for turn in play_text(game, lambda level, query, said, draws, game=game: _some(game, said, draws, 0), seed=5)  # type: ignore[misc]
    ]
    return hashlib.sha256(repr(played).encode()).hexdigest()


def test_another_process_plays_the_same_dialogues() -> None:
    """Not even the order of sets and the hashes of texts, which differ from process to process, matter."""
    code = f"from tests.envs.test_scenarios import digest_of; print(digest_of({NAMES}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == digest_of(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_vector_and_single_environment_agree_on_many_dialogues(name: str) -> None:
    for steps in range(1, 17):
        level = LEVELS[steps % len(LEVELS)]
        chosen = games(name, 13, level=level, steps=steps, start=100 * steps)
        answers = [answers_of(game, row, row % 4) for row, game in enumerate(chosen)]
        assert play_rows(chosen, range(13), answers) == [play_single(game, row, answers[row]) for row, game in enumerate(chosen)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_players_keep_the_stated_bounds(name: str, level: int) -> None:
    found = bounds(games(name, 300, level=level, split="test"))
    blind, best = SCENARIOS.find(name).stated[level]
    # Standard error of 300 dialogues of 12 turns.
    margin = 3 * 5 / np.sqrt(300 * 4)
    assert found.blind <= blind + margin
    assert found.best >= best - margin
    assert best >= blind + 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_players_keep_the_stated_bounds_over_many_dialogues(name: str) -> None:
    found = bounds(games(name, 5000, split="test", start=1000))
    blind, best = SCENARIOS.find(name).stated[1]
    assert found.blind <= blind
    assert found.best >= best


@pytest.mark.parametrize("name", NAMES)
def test_splits_share_no_scenario_and_the_best_player_makes_no_illegal_move(name: str) -> None:
    hidden = {split: {repr(game).split("split=")[1].split(", ", 1)[1] for game in games(name, 60, split=split)} for split in SPLITS}
    if name not in ("guess", "questions", "choices"):  # too few numbers, things and deals to part them
        assert not hidden["train"] & hidden["test"]
        assert not hidden["train"] & hidden["validation"]
    kind = SCENARIOS.find(name)
    for game in games(name, 20):
        assert all(turn.outcome is not None and 0 <= (turn.outcome.value or 0) <= 10 for turn in play_text(game, kind.best))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 8, 32])
def test_the_supervised_start_answers_every_turn_and_asks_for_what_was_said(name: str, steps: int) -> None:
    source = load(name, level=2, **OPTIONS.get(name, {}))
    conversations = source.supervised(steps=steps, count=6)
    assert conversations == source.supervised(steps=steps, count=6)
    assert all(conversation.steps == steps and isinstance(conversation, Conversation) for conversation in conversations)
    assert all(each.answer.strip() and each.query.strip() for conversation in conversations for each in conversation.interactions)
    if steps == 32:
        assert any(each.kind == "recall" for conversation in conversations for each in conversation.follow_ups)


def test_any_number_of_turns_up_to_64() -> None:
    for name in NAMES:
        kind = SCENARIOS.find(name)
        assert len(play_text(games(name, steps=64)[0], kind.best)) == 64


@pytest.mark.parametrize("level", [2, 3])
def test_corrections_above_level_1_are_about_the_whole_world(level: int) -> None:
    chosen = games("corrections", 60, level=level)
    assert {kind for game in chosen for fact in game.facts for kind, names in ENTITIES.items() if fact.entity in names} == set(ENTITIES)
    for game in chosen:
        attributes = [fact.key.split(".")[1] for fact in game.facts]
        assert len({fact.key for fact in game.facts}) == len(game.facts)
        assert max(map(attributes.count, attributes)) <= 2
    shared = [game for game in chosen if len({fact.key.split(".")[1] for fact in game.facts}) < len(game.facts)]
    assert len(shared) > 10
    # All that a model reads of a scenario fits the smallest one.
    texts = [text for game in chosen for text in texts_of(game)]
    tokenizer = Tokenizer.train(texts, 512)
    assert max(len(tokenizer.encode(text)) for text in texts) <= longest_query(PRESETS["pico"].max_length)


def test_instructions_above_level_1_ask_for_facts_and_another_value_is_worth_half() -> None:
    kind = SCENARIOS.find("instructions")
    for game in games("instructions", 40, level=2):
        right = play_text(game, kind.best)
        assert {turn.outcome.value for turn in right if turn.outcome} == {10.0}
        told = {fact.value for fact in game.facts}
        assert all(turn.query.endswith("?") and told & set(words_of(turn.answer)) for turn in right)
        wrong = play_text(game, lambda level, query, said, draws: _with_another_value(kind.best(level, query, said, draws)))
        assert {turn.outcome.value for turn in wrong if turn.outcome} == {5.0}
        silent = play_text(game, lambda level, query, said, draws: "mumble")
        assert {turn.outcome.value for turn in silent if turn.outcome} == {0.0}


def _with_another_value(answer: str) -> str:
    """An answer that keeps its form, and names another value of the same attribute."""
    for values in VALUES.values():
        for place, value in enumerate(values):
            if value in words_of(answer):
                return answer.replace(value, values[place - 1])
    raise AssertionError(answer)


def test_other_words_for_a_value_are_right_at_level_3_alone() -> None:
    for level in (2, 3):
        turns = [turn for game in games("corrections", 200, level=level, steps=4) for turn in play_text(game, _other_words)]
        named = [turn for turn in turns if turn.answer.strip(".") in {word for words in ALIASES.values() for word in words}]
        assert len(named) > 20
        assert {turn.outcome.value for turn in named if turn.outcome} == ({10.0} if level == 3 else {0.0})


def _other_words(level: int, query: str, said: Sequence[tuple[str, str]], draws: Draws) -> str:
    """What the best player knows, in other words where there are some; nothing else."""
    best = SCENARIOS.find("corrections").best(level, query, said, draws)
    guessed = any(SCENARIOS.find("corrections").best(level, query, said, Draws("another", number)) != best for number in range(8))
    other = [word for value, words in ALIASES.items() if value in words_of(best) for word in words]
    return f"{other[0]}." if other and not guessed else "mumble"


@dataclass(frozen=True)
class Odd:
    """A scenario that breaks its contract in a way of choice."""

    fault: str
    id: str = "odd"
    steps: int = 3
    extra: dict[str, Any] = field(default_factory=dict)

    def begin(self, seed: int) -> Dialogue:
        if self.fault == "begin":
            raise RuntimeError("no luck")
        return OddDialogue(self.fault)


class OddDialogue:
    """Says what it should not, at turn 2."""

    def __init__(self, fault: str) -> None:
        self.fault, self.calls = fault, 0

    @property
    def first(self) -> Interaction:
        return Interaction("Hello.", "Hello.")

    def say(self, heard: Sequence[Turn]) -> Any:
        self.calls += 1
        if len(heard) == 1:
            return {
                "text": "What now?",
                "empty": Interaction("  "),
                "long": Interaction("word " * 400),
                "asks": Interaction("What pet?", asks=("mia.pet",)),
                "raises": self.raises,
            }.get(self.fault, Interaction("Go on."))
        return Interaction(f"Call {self.calls}." if self.fault == "changes" else "Go on.")

    @property
    def raises(self) -> Interaction:
        if self.fault == "raises":
            raise KeyError("hidden")
        return Interaction("Go on.")

    def judge(self, turn: Turn) -> Any:
        return {"high": Score(11.0), "word": "good", "judge": None}.get(self.fault, 5.0)


def play_odd(fault: str, seed: int) -> None:
    env = vector([Odd(fault)], 1)
    env.reset(seed=seed)
    for _ in range(3):
        env.step(action(["yes"]))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("begin", "failed to begin at turn 0: RuntimeError: no luck"),
        ("text", "turn 2: it must say an rxrl.types.Interaction or None, but gave str"),
        ("empty", "turn 2: it must say a text"),
        ("long", "turn 2: it says a query of 2000 tokens, but at most 128 fit"),
        ("asks", "asks for 'mia.pet', which no interaction before has told"),
        ("raises", "failed to say something at turn 2: KeyError: 'hidden'"),
        ("high", "must lie in [0, 10], but returned 11"),
        ("word", "must return numbers from 0 to 10"),
    ],
)
def test_a_broken_contract_is_one_sentence_and_keeps_the_turns(fault: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        play_odd(fault, seed=0)
    assert said in str(caught.value)
    assert "odd" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(caught.value.turns) == (0 if fault in ("begin", "high", "word") else 1)


def test_a_dialogue_with_hidden_state_is_found_out() -> None:
    def play_many() -> None:
        for seed in range(60):
            play_odd("changes", seed)

    with pytest.raises(ScenarioError, match="said something else when it was asked again"):
        play_many()


def test_what_needs_references_is_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="teacher_forcing writes reference answers"):
        vector(games("guess"), 1, teacher_forcing=True)
    for name in ("exact", "token_f1", "bleu", "classic", "length"):
        with pytest.raises(RxrlError, match="compares with reference answers"):
            vector(games("guess"), 1, reward=load_reward({name: 1.0, "outcome": 1.0}))


@pytest.mark.parametrize("name", NAMES)
def test_retention_is_refused_for_training_exactly_where_it_would_score_nothing(name: str) -> None:
    chosen = games(name, 4)
    env = vector(chosen, 4, reward=load_reward("retention"))
    env.reset(seed=0)
    *_, info = env.step(action(["cat."] * 4))
    if info["scored"].any():
        check_scores(chosen, load_reward("retention"))
    else:
        with pytest.raises(ConfigError, match=f"'retention[a-z+]*' needs facts or reference answers, and scenario '{name}-.*has neither"):
            check_scores(chosen, load_reward({"retention": 1.0, "format": 0.0}))
    check_scores(chosen, load_reward({"retention": 1.0, "outcome": 1.0}))


def test_outcome_composes_with_other_rewards() -> None:
    reward = load_reward({"outcome": 0.5, "repetition": 0.5})
    env = vector(games("preferences"), 1, reward=reward)
    env.reset(seed=0)
    *_, info = env.step(action(["cat."]))
    assert set(info["reward_terms"]) >= {"outcome", "repetition"}
    conversation = Conversation("c", Interaction("Hi.", "Hi."), (Interaction("Who?", "Me."),))
    scripted = vector([conversation], 1, reward=OUTCOME)
    scripted.reset(seed=0)
    *_, info = scripted.step(action(["Me."]))
    assert not info["scored"][0]


def test_retention_does_not_apply_where_nothing_was_asked_and_no_reference_is_there() -> None:
    env = vector(games("preferences"), 1, reward=load_reward("retention"))
    env.reset(seed=0)
    *_, info = env.step(action(["cat."]))
    assert not info["scored"][0]


@pytest.mark.parametrize("name", NAMES)
def test_players_of_a_scenario_are_policies(name: str) -> None:
    chosen = games(name, 30, split="test")
    scores = {}
    for player in ("best", "blind"):
        envs, policy = make_play(player, chosen, num_envs=30, max_answer_tokens=64)
        played = play_conditions(envs, policy, chosen, seed=0)["true"]
        scores[player] = float(np.mean([record.turn.outcome.value for record in played if record.turn.outcome]))
    assert scores["best"] > scores["blind"] + 0.3
    found = bounds(chosen)
    assert scores["best"] == pytest.approx(found.best, abs=1.2)
    with pytest.raises(ConfigError, match="belongs to a scenario"):
        make_play("best", [Conversation("c", Interaction("Hi.", "Hi."), (Interaction("Who?", "Me."),))])


def test_an_answer_may_end_the_conversation_early() -> None:
    @dataclass(frozen=True)
    class Short(Odd):
        def begin(self, seed: int) -> Dialogue:
            return Ends()

    class Ends(OddDialogue):
        def __init__(self) -> None:
            super().__init__("")

        def say(self, heard: Sequence[Turn]) -> Interaction | None:
            return None if heard and heard[-1].answer == "bye" else Interaction("Go on.")

    env = vector([Short("", "a", 9), Short("", "b", 9)], 2)
    env.reset(options={"conversations": [0, 1]})
    _, _, terminated, truncated, _ = env.step(action(["bye", "more"]))
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    assert env.active.tolist() == [False, True]


def test_in_a_mix_each_turn_is_scored_by_what_applies_to_it() -> None:
    env = make_vector_env(8, conversations={"scenario:guess": 1, "world": 1}, steps=3, count=8)
    env.reset(options={"conversations": list(range(8))})
    ids = env.codec.encode("It is 5.")
    retention = load_reward("retention")
    while env.active.any():
        _, rewards, *_, info = env.step({"ids": [ids] * 8, "length": [len(ids)] * 8})
        for turn, reward in zip(info["turns"], rewards.tolist(), strict=True):
            alone = turn.outcome or retention([turn])[0]
            assert ("scenario" in turn.extra) == (turn.outcome is not None)
            assert reward == pytest.approx(alone.value)


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_said_of_a_property_names_it_below_level_3(level: int) -> None:
    chosen = games("questions", 30, level=level, steps=6)
    for game in chosen:
        heard = play_text(game, lambda level, query, said, draws: "wild?")
        assert all(("wild" in words_of(turn.query)) == (level < 3) for turn in heard[1:])
        # A wrong name is never said again: it would tell a player without memory what to name next.
        named = play_text(game, lambda level, query, said, draws: "owl.")
        assert not any("owl" in words_of(turn.query) for turn in named)


def test_the_best_player_names_nothing_that_was_ruled_out() -> None:
    for game in games("questions", 40):
        turns = play_text(game, type(game).best)
        since: list[str] = []
        for turn in turns:
            since = [] if turn.query.startswith("Right") else since
            assert turn.answer not in since
            since.append(turn.answer)
        assert [turn.outcome.value for turn in turns if turn.outcome and turn.outcome.value]
        assert len(since) <= 5
