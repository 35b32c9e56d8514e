"""Conversations as an environment of verifiers (extra `verifiers`), for its `eval` command and the trainers that take its environments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import verifiers.v1 as vf
from pydantic import Field

from rxrl.data.splits import generated
from rxrl.integrations.dialogues import KEY, QUERY_TOKENS, Dialogues, Talk, mean_reward
from rxrl.scoring import HIGHEST
from rxrl.supply import load_mix
from rxrl.types import ANSWER_TOKENS

__all__ = ["ConversationsEnv", "ConversationsTaskset"]


class ConversationsConfig(vf.TasksetConfig):
    """What is played: `--env.taskset.NAME` on the command line."""

    conversations: str = Field("scenario:preferences", description="'scenario:NAME', 'world', or a file of conversations.")
    level: int | None = Field(
        None, ge=0, le=3, description="Difficulty of the scenario (from 1) or generated world (from 0); null: the lowest."
    )
    steps: int | None = Field(None, ge=1, description="Turns of what is generated; null: 12.")
    split: Literal["train", "validation", "test"] | None = Field(None, description="Part of what is generated; null: train.")
    count: int | None = Field(None, ge=1, description="How many conversations are generated; null: 1,000.")
    reward: str | None = Field(
        None, description="Reward: a name, package.module:function or path/file.py:function; null: retention or outcome."
    )
    max_answer_tokens: int = Field(
        ANSWER_TOKENS, ge=1, description="Longest answer, in tokens of a tokenizer trained on the conversations."
    )
    seed: int = Field(0, description="Keys what is generated and drawn.")


class ConversationData(vf.TaskData):
    """A conversation to play; its `id` finds it."""


class ConversationTask(vf.Task[ConversationData, vf.State, vf.TaskConfig]):
    """A conversation; the environment scores it."""


class ConversationsTaskset(vf.Taskset[ConversationTask, ConversationsConfig]):
    """Conversations as tasks. The prompt of each is what was told first and the first query.

    Args:
        config: What is played.

    Raises:
        RxrlError: A setting is wrong.
    """

    def __init__(self, config: ConversationsConfig) -> None:
        super().__init__(config)
        played: Any = config.conversations
        options = config.model_dump(include={"level", "steps", "split", "count"}, exclude_none=True)
        if generated(played):
            played, options = load_mix({played: 1}, seed=config.seed, **options), {}
        options |= {"max_answer_tokens": config.max_answer_tokens, "max_query_tokens": QUERY_TOKENS}
        # What is given for a file, which has no such options, is refused there.
        self.dialogues = Dialogues(played, reward=config.reward, seed=config.seed, **options)

    def load(self) -> Iterator[ConversationTask]:
        """The tasks, in order."""
        for messages in self.dialogues.openings():
            prompt = [{"role": each["role"], "content": each["content"]} for each in messages]
            found = messages[-1][KEY]
            yield ConversationTask(ConversationData(id=found, name=found, prompt=prompt), self.config.task)


class ConversationsEnvConfig(vf.EnvConfig):
    """The one seat of the environment: `--env.player...` on the command line."""

    player: vf.AgentConfig = vf.AgentConfig()


class ConversationsEnv(vf.Env[ConversationsEnvConfig]):
    """The user of a conversation: hears each answer, scores it, and says the next query.

    The reward `score` is the mean over the turns that have a score, from 0 to 1; turns that were not answered count 0. It is left out
    where no turn has a score. The metric `mean_reward` is the same from 0 to 10, and `turn_rewards` in the trace's `info` holds each turn.
    """

    async def run(self, task: ConversationTask, agents: vf.Agents) -> None:
        """Plays the conversation of a task."""
        assert isinstance(self.taskset, ConversationsTaskset), "the environment comes with its taskset"
        talk = Talk(self.taskset.dialogues)
        talk.begin(str(task.data.id))
        async with agents.player.interaction(task) as interaction:
            segment = await interaction.turn()
            while not segment.terminated:
                query = talk.answer(segment.last_reply)
                if query is None:
                    break
                segment = await interaction.turn(query)
        interaction.trace.info["turn_rewards"] = talk.rewards
        mean = mean_reward(talk.rewards)
        if mean is not None:
            interaction.trace.record_reward("score", mean / HIGHEST)
            interaction.trace.record_metric("mean_reward", mean)
