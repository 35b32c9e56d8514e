"""What text policies read, and the players that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rxrl.envs import ConversationVectorEnv, NoMemory, TranscriptMemory, token_batch
from rxrl.errors import ConfigError, EpisodeError
from rxrl.policies import Dialogue, Oracle, Parrot, Person, TextPolicy
from rxrl.types import Policy, TokenBatch
from tests.envs.worlds import CODEC, NumberMemory, common, make_conversation

THREE = [make_conversation(seed, steps) for seed, steps in enumerate((3, 1, 4))]


class Clerk(TextPolicy):
    """Notes what it is asked and gives numbered answers."""

    def __init__(self, codec: Any) -> None:
        super().__init__(codec)
        self.seen: list[list[Dialogue]] = []

    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> list[str]:
        self.seen.append(list(dialogues))
        return [f"Answer {len(self.seen)}." for _ in dialogues]


def make(memory: Any, rows: int = 4) -> ConversationVectorEnv:
    return ConversationVectorEnv(THREE, num_envs=rows, **common(memory=memory))


def played(env: ConversationVectorEnv, policy: Policy) -> list[dict[str, Any]]:
    """The infos of one episode of each conversation."""
    observation, _ = env.reset(seed=0, options={"conversations": THREE})
    infos = []
    while env.active.any():
        observation, rewards, _, _, info = env.step(policy.act(token_batch(observation), env.memory, None))
        infos.append({**info, "rewards": rewards})
    return infos


def test_it_reads_the_query_and_the_whole_transcript() -> None:
    clerk = Clerk(CODEC)
    infos = played(make(TranscriptMemory()), clerk)
    assert [len(dialogues) for dialogues in clerk.seen] == [3, 2, 2, 1]
    for turn, dialogues in enumerate(clerk.seen):
        longest = THREE[2]
        said = [(longest.first.query, longest.first.answer)]
        said += [(longest.follow_ups[at].query, f"Answer {at + 1}.") for at in range(turn)]
        assert dialogues[-1] == Dialogue(longest.follow_ups[turn].query, tuple(said))
    assert [info["turns"][2].answer for info in infos] == [f"Answer {turn}." for turn in range(1, 5)]


def test_a_window_is_what_it_sees_and_without_memory_it_sees_the_query_alone() -> None:
    for memory, length in ((TranscriptMemory(last=2), 2), (NoMemory(), 0)):
        clerk = Clerk(CODEC)
        played(make(memory), clerk)
        assert [len(dialogues[-1].history) for dialogues in clerk.seen] == [min(length, turn) for turn in range(1, 5)]


def test_a_memory_that_is_no_transcript_is_refused() -> None:
    with pytest.raises(ConfigError, match="Clerk reads what was said, but memory is a Tensor"):
        played(make(NumberMemory()), Clerk(CODEC))


def test_messages_of_a_dialogue() -> None:
    dialogue = Dialogue("c?", (("a?", "A"), ("b?", "B")))
    assert [message["content"] for message in dialogue.messages("Be brief.")] == ["Be brief.", "a?", "A", "b?", "B", "c?"]
    assert [message["role"] for message in dialogue.messages()] == ["user", "assistant", "user", "assistant", "user"]
    assert [len(dialogue.messages(last=last)) for last in (0, 1, 2, 9)] == [1, 3, 5, 5]


def test_halves_of_characters_never_reach_the_environment() -> None:
    infos = played(make(NoMemory()), Person(CODEC, lambda query: "half \ud83d, 猫"))
    assert infos[0]["turns"][0].answer == "half ?, 猫"


def test_a_person_is_asked_each_query_that_waits() -> None:
    asked: list[str] = []
    played(make(NoMemory()), Person(CODEC, lambda query: asked.append(query) or "x"))
    assert sorted(asked) == sorted(turn.query for each in THREE for turn in each.follow_ups)


def test_the_oracle_gives_the_references_and_earns_the_most() -> None:
    env = make(NoMemory())
    infos = played(env, Oracle(env))
    for turn, info in enumerate(infos):
        for row, conversation in enumerate(THREE):
            if turn < conversation.steps:
                assert info["turns"][row].answer == conversation.follow_ups[turn].answer
                assert info["rewards"][row] > 8.0 or not info["asking"][row]


def test_the_oracle_answers_waiting_rows_alone_or_all() -> None:
    env = make(NoMemory())
    env.reset(seed=0, options={"conversations": THREE})
    prompts = TokenBatch.pad([[1]] * 3)
    given = Oracle(env).act(prompts, None, None)
    answers = [CODEC.decode(row) for row in TokenBatch(given.ids, given.mask).rows()]
    assert answers == [each.follow_ups[0].answer for each in THREE]
    with pytest.raises(EpisodeError, match="all 4 rows or the 3 that wait, got 2"):
        Oracle(env).act(TokenBatch.pad([[1]] * 2), None, None)


def test_the_parrot_repeats_the_query() -> None:
    infos = played(make(NoMemory()), Parrot())
    assert [info["turns"][2].answer for info in infos] == [turn.query for turn in THREE[2].follow_ups]
