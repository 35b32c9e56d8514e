"""An environment for TRL's trainers whose user is answered with a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rxrl.integrations.dialogues import QUERY_TOKENS, Dialogues, Talk, conversation_of, mean_reward
from rxrl.types import ANSWER_TOKENS


def conversation_environment(
    conversations: Any, *, reward: Any = None, max_answer_tokens: int = ANSWER_TOKENS, seed: int = 0
) -> Callable[[], ConversationEnvironment]:
    """An `environment_factory` for TRL's `GRPOTrainer`, whose prompts are those of `prompts_of`.

    Args:
        conversations: As in `rxrl.factory.make_env`.
        reward: As in `rxrl.factory.make_env`.
        max_answer_tokens: Longest answer, in tokens of a tokenizer that is trained on the conversations; what comes after is cut.
        seed: Keys what the scenarios draw; the same as that of the prompts.

    Raises:
        RxrlError: An argument is wrong.
    """
    dialogues = Dialogues(conversations, reward=reward, seed=seed, max_answer_tokens=max_answer_tokens, max_query_tokens=QUERY_TOKENS)
    return lambda: ConversationEnvironment(dialogues)


class ConversationEnvironment:
    """One conversation whose user is answered with a tool; `conversation_environment` makes it.

    Args:
        dialogues: What is played.
    """

    def __init__(self, dialogues: Dialogues) -> None:
        self._talk = Talk(dialogues)

    def reset(self, prompt: Any = None, **columns: Any) -> None:
        """Begins the conversation of a prompt."""
        self._talk.begin(conversation_of(prompt))

    def answer(self, text: str) -> str:
        """Answers the user.

        Args:
            text: The answer.

        Returns:
            What the user says next.
        """
        query = self._talk.answer(text)
        return "The conversation is over." if query is None else query

    def get_reward(self) -> float | None:
        """Mean over the turns of the conversation, from 0 to 10; those that were not answered count 0. None where none has a score."""
        return mean_reward(self._talk.rewards)
