"""Conversations played by trainers of other libraries: found by id, and with the words of the language model's own tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rxrl.envs import ConversationVectorEnv
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


def openings(conversations: Any, *, seed: int = 0, system: str | None = None) -> list[Messages]:
    """How conversations begin, as chat messages: what was told first, and the query that waits.

    Args:
        conversations: As in `rxrl.factory.make_env`.
        seed: Keys what the scenarios draw.
        system: A system prompt that goes first.

    Returns:
        The messages of each conversation, with its id under the key `conversation`.
    """
    dialogues = Dialogues(conversations, seed=seed, max_query_tokens=QUERY_TOKENS)
    found = []
    for start in range(0, len(dialogues.conversations), _OPENINGS):
        batch = dialogues.conversations[start : start + _OPENINGS]
        queries = dialogues.begin([each.id for each in batch]).next_queries
        for each, query in zip(batch, queries, strict=True):
            first = each.begin(dialogues.seed_of(each.id)).first
            messages = Dialogue(query, ((first.query, first.answer),)).messages(system)
            found.append([{**message, KEY: each.id} for message in messages])
    return found


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
