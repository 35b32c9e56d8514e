"""Conversations played by trainers of other libraries: found by id, and with the words of the language model's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rxrl.envs import ConversationEnv, ConversationVectorEnv
from rxrl.errors import ConfigError
from rxrl.factory import build_env, make_vector_env
from rxrl.policies.text import Dialogue
from rxrl.seeding import derive_seed
from rxrl.types import SPECIAL_TOKENS, Scenario, TextCodec

KEY = "conversation"
"""Key of a message that holds the id of its conversation."""
QUERY_TOKENS = 1024
"""Most tokens of a query; longer ones of scenarios are refused, and those of rows are cut."""
_OPENINGS = 64

Rewards = list[float | None]
"""One for each turn of a conversation; None where it has no score."""
Messages = list[dict[str, str]]


class TokenizerCodec:
    """The tokenizer of a language model as the environment takes it: its ids stand behind the special tokens of rxrl.

    Attributes:
        tokenizer: The tokenizer; may be set later than an environment is made with this.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        return self.shifted(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out, without white space around it."""
        text: str = self.tokenizer.decode([each - len(SPECIAL_TOKENS) for each in ids], skip_special_tokens=True)
        return text.strip()

    def shifted(self, ids: Sequence[int]) -> list[int]:
        """Ids of the tokenizer as ids of the environment."""
        return [each + len(SPECIAL_TOKENS) for each in ids]


class Dialogues:
    """Conversations that are played in batches. The same id always begins the same dialogue.

    Args:
        conversations: As in `rxrl.factory.make_env`; each id once.
        reward: As in `rxrl.factory.make_env`.
        codec: Text to ids and back; None trains one on the conversations.
        seed: Keys what the scenarios draw.
        options: As in `rxrl.factory.make_vector_env`.

    Raises:
        RxrlError: An argument is wrong.
    """

    def __init__(self, conversations: Any, *, reward: Any = None, codec: TextCodec | None = None, seed: int = 0, **options: Any) -> None:
        self._envs = make_vector_env(1, conversations=conversations, reward=reward, tokenizer=codec, **options)
        self.conversations: Sequence[Scenario] = self._envs.conversations
        self.seed, self._options = seed, options
        if len({each.id for each in self.conversations}) < len(self.conversations):
            raise ConfigError("Conversations are found by their id, but some share one: give each its own.")

    def begin(self, ids: Sequence[str]) -> ConversationVectorEnv:
        """An environment in which these conversations wait for their first answers, one a row."""
        if self._envs.num_envs != len(ids):
            self._envs = self.made(num_envs=len(ids))
        self._envs.reset(seed=self.seed, options={"conversations": list(ids), "stm_seeds": [self.seed_of(each) for each in ids]})
        return self._envs

    def renew(self) -> None:
        """Forgets the tokens of texts, for a codec that has changed."""
        self._envs = self.made(num_envs=self._envs.num_envs)

    def made(self, **options: Any) -> Any:
        """Another environment of the same parts; `options` as in `rxrl.factory.build_env`."""
        given = {**self._options, **options}
        return build_env(self.conversations, memory=None, reward=self._envs.reward, codec=self._envs.codec, **given)

    def seed_of(self, conversation_id: str) -> int:
        """Seed of the dialogue of an id."""
        return derive_seed("integrations", self.seed, conversation_id)

    def openings(self, system: str | None = None) -> Iterator[Messages]:
        """How the conversations begin, as chat messages: what was told first, and the query that waits.

        Args:
            system: A system prompt that goes first.

        Yields:
            The messages of a conversation, each with its id under the key `conversation`.
        """
        for start in range(0, len(self.conversations), _OPENINGS):
            batch = self.conversations[start : start + _OPENINGS]
            for each, query in zip(batch, self.begin([each.id for each in batch]).next_queries, strict=True):
                first = each.begin(self.seed_of(each.id)).first
                messages = Dialogue(query, ((first.query, first.answer),)).messages(system)
                yield [{**message, KEY: each.id} for message in messages]


class Talk:
    """One conversation that is answered in texts, turn by turn.

    Args:
        dialogues: Where it comes from.

    Attributes:
        rewards: One for each turn: 0 where it was not answered, None where it has no score.
    """

    def __init__(self, dialogues: Dialogues) -> None:
        self._dialogues = dialogues
        self._env: ConversationEnv = dialogues.made(kind=ConversationEnv)
        self.rewards: Rewards = []
        self._turn = 0

    def begin(self, conversation: str) -> None:
        """Begins the conversation of an id anew."""
        options = {"conversation": conversation, "stm_seed": self._dialogues.seed_of(conversation)}
        _, info = self._env.reset(seed=self._dialogues.seed, options=options)
        self.rewards, self._turn = [0.0] * info["steps"], 0

    def answer(self, text: str) -> str | None:
        """Answers the query that waits; returns the next one, None at the end."""
        query, reward, terminated, truncated, info = self._env.step(text)
        self.rewards[self._turn] = float(reward) if info["scored"] else None
        self._turn += 1
        if terminated or truncated:
            del self.rewards[self._turn :]
            return None
        return str(query)


def conversation_of(prompt: Any) -> str:
    """Id of the conversation that a prompt begins.

    Raises:
        ConfigError: The prompt does not hold one.
    """
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt and isinstance(prompt[-1], Mapping):
        found = prompt[-1].get(KEY)
        if isinstance(found, str):
            return found
    shown = str(prompt)[:60]
    raise ConfigError(f"A prompt is a list of messages whose last one names its {KEY!r}, got {shown!r}: make it with prompts_of.")


def mean_reward(rewards: Sequence[float | None]) -> float | None:
    """Mean over the turns that have a score; None where there are none."""
    scored = [each for each in rewards if each is not None]
    return sum(scored) / len(scored) if scored else None
