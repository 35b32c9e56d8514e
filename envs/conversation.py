"""One conversation at a time: with text at the edge, as `gymnasium.make("rxrl/Conversation-v0", ...)` gives it, or on token ids.

They are the batched environment with a single row, so all play, score and remember alike.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from rxrl.envs.batch import PROMPT_MARKERS, Observation
from rxrl.envs.checks import known_render_mode
from rxrl.envs.vector import ConversationVectorEnv
from rxrl.errors import EpisodeError, unknown_name
from rxrl.types import Action, Conversation, MemoryBackend, RewardFunction, TextCodec, TokenBatch

_OPTIONS = {"conversation": "conversations", "stm_seed": "stm_seeds", "strategy": "strategies", "stm": "stm", "carry": "carry"}
_SAMPLE_LENGTH = 32
_ROW = 0


class UnicodeText(spaces.Text):
    """All texts that people write, up to a number of characters; prints short and samples printable ASCII.

    Args:
        max_length: Most characters.
        seed: Seed of the samples.
    """

    def __init__(self, max_length: int = 2**16, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=frozenset(string.ascii_letters + string.digits + " .,?!'"), seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text of at most 32 characters, or of the length that `mask` asks for."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(1, min(_SAMPLE_LENGTH, self.max_length) + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((type(self), self.max_length))


class _OneRow(gymnasium.Env[Any, Any]):
    """The batched environment with a single row; what an observation and an action look like is up to its subclasses."""

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, batch: ConversationVectorEnv, render_mode: str | None) -> None:
        self.render_mode = known_render_mode(render_mode, (None, *self.metadata["render_modes"]))
        self.batch = batch

    def _observation(self, observation: Observation) -> Any:
        raise NotImplementedError

    def _answer_ids(self, action: Any) -> list[int]:
        raise NotImplementedError

    @property
    def memory(self) -> Any:
        """The current memory value, of one row: what a policy reads before it answers. Setting it replaces the hidden state."""
        return self.batch.memory

    @memory.setter
    def memory(self, value: Any) -> None:
        self.batch.memory = value

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode: fresh memory, then the first interaction is written.

        Args:
            seed: Seed of all draws; clears what earlier episodes left in memory.
            options: `conversation` (index, id or `Conversation`), `stm_seed`, `strategy`, `stm` (a memory value of one
                row to start from), `carry` (whether to start from what the last episode left).

        Returns:
            The first query, and info as the class describes it.

        Raises:
            EpisodeError: An option is unknown or does not fit.
        """
        super().reset(seed=seed)
        if seed is not None:
            self.batch.forget()
        self.batch.use_generators([self.np_random])
        observation, info = self.batch.reset(options=_batch_options(options or {}))
        return self._after(observation, info)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Scores an answer and writes the interaction into memory.

        Args:
            action: The answer; cut where it has more than `max_answer_tokens`.

        Returns:
            The next query (empty at the end), the reward in [0, 10], terminated, truncated and info.

        Raises:
            EpisodeError: Before the first reset, after the end of an episode, or where the action is no answer.
            RewardError: The reward failed.
        """
        ids = self._answer_ids(action)
        if not self.batch.active[_ROW]:
            raise EpisodeError("There is no query to answer (not begun, or over): call reset() first.")
        tokens = TokenBatch.pad([ids])
        observation, reward, terminated, truncated, info = self.batch.step(Action(tokens.ids, tokens.mask))
        query, row = self._after(observation, info)
        return query, float(reward[_ROW]), bool(terminated[_ROW]), bool(truncated[_ROW]), row

    def render(self) -> str | None:
        """The transcript so far in mode "ansi"; printed in mode "human"."""
        if self.render_mode is None:
            return None
        text = (self.batch.render() or ("",))[_ROW]
        if self.render_mode == "ansi":
            return text
        _print_transcript(text)
        return None

    def _after(self, observation: Observation, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        return self._observation(observation), _row_info(info)


class ConversationEnv(_OneRow):
    """Plays one conversation: an observation is the text of a query, an action the text of an answer.

    `info` holds for the turn just scored: `turn`, `steps`, `distance` (None = not defined), `asking`, `scored`,
    `conversation_id`, `strategy`, `reference`, `reward_terms` (by name, None = does not apply), `written` (ids that went
    into memory, or None) and `turn_data` (the `Turn`, or None after a reset).

    Args:
        conversations: Where episodes are drawn from, at least one.
        memory: What holds the conversation, or None for nothing. May be a `Live` handle.
        reward: Scores the turns. May be a `Live` handle.
        codec: Text to ids and back. May be a `Live` handle.
        max_characters: Most characters of a query or an answer.
        render_mode: None, "ansi" (render returns the transcript) or "human" (it is printed after each step).
        options: Everything else that `ConversationVectorEnv` takes.

    Raises:
        ConfigError: An argument makes no sense.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        *,
        memory: MemoryBackend | None,
        reward: RewardFunction,
        codec: TextCodec,
        max_characters: int = 2**16,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_single(conversations, memory, reward, codec, options), render_mode)
        self.max_characters = max_characters
        self.observation_space = UnicodeText(max_characters)
        self.action_space = UnicodeText(max_characters)

    def _observation(self, observation: Observation) -> str:
        return self.batch.next_queries[_ROW][: self.max_characters]

    def _answer_ids(self, action: Any) -> list[int]:
        if not isinstance(action, str):
            raise EpisodeError(f"An answer is a text, got {type(action).__name__}; use ConversationTokensEnv to answer with token ids.")
        return self.batch.codec.encode(action)


class ConversationTokensEnv(_OneRow):
    """Plays one conversation on token ids: an observation is a padded prompt `[BOS] [Q] query [A]`, an action a padded answer.

    Both are `{"ids": int64 [time], "length": int}`. `info` and arguments are those of `ConversationEnv`, without `max_characters`.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        *,
        memory: MemoryBackend | None,
        reward: RewardFunction,
        codec: TextCodec,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_single(conversations, memory, reward, codec, options), render_mode)
        top = int(self.batch.single_action_space["ids"].high.max()) + 1  # type: ignore[index]
        self.observation_space = _tokens_space(self.batch.limits.query + PROMPT_MARKERS, top)
        self.action_space = _tokens_space(self.batch.limits.answer + 1, top)

    def _observation(self, observation: Observation) -> dict[str, Any]:
        return {"ids": observation["ids"][_ROW], "length": observation["length"][_ROW]}

    def _answer_ids(self, action: Any) -> list[int]:
        if not isinstance(action, Mapping) or not {"ids", "length"} <= action.keys():
            raise EpisodeError(f"An answer is a mapping with `ids` and `length`, got {type(action).__name__}.")
        return [int(token) for token in action["ids"][: int(action["length"])]]


def _single(
    conversations: Sequence[Conversation],
    memory: MemoryBackend | None,
    reward: RewardFunction,
    codec: TextCodec,
    options: Mapping[str, Any],
) -> ConversationVectorEnv:
    return ConversationVectorEnv(conversations, memory=memory, reward=reward, codec=codec, num_envs=1, render_mode="ansi", **options)


def _tokens_space(size: int, vocabulary: int) -> spaces.Dict:
    # Not a Box: Gymnasium would advise to scale it to [-1, 1].
    return spaces.Dict({"ids": spaces.MultiDiscrete([vocabulary] * size), "length": spaces.Discrete(size + 1)})


def _row_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The info of the only row, as plain values."""
    turn = info["turns"][_ROW]
    distance = int(info["distance"][_ROW])
    terms = {name: float(values[_ROW]) for name, values in info["reward_terms"].items()}
    row = {
        "turn": int(info["turn"][_ROW]),
        "steps": int(info["steps"][_ROW]),
        "distance": None if distance < 0 else distance,
        "asking": bool(info["asking"][_ROW]),
        "scored": bool(info["scored"][_ROW]),
        "conversation_id": info["conversation_id"][_ROW],
        "strategy": info["strategy"][_ROW],
        "reference": None if turn is None else turn.reference,
        "reward_terms": {name: None if np.isnan(value) else value for name, value in terms.items()},
        "written": info["written"][_ROW],
        "turn_data": turn,
    }
    if "stm_seeds" in info:
        row["stm_seed"] = int(info["stm_seeds"][_ROW])
    if "stm0_carried" in info:
        row["stm0_carried"] = info["stm0_carried"]["memory"]
    return row


def _batch_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the single environment in the words of the batched one."""
    for name in options:
        if name not in _OPTIONS:
            raise EpisodeError(unknown_name("reset option", name, _OPTIONS))
    whole = {"stm": options["stm"]} if "stm" in options else {}
    carry = {"carry": np.array([bool(options["carry"])])} if options.get("carry") is not None else {}
    each = {_OPTIONS[name]: [options[name]] for name in ("conversation", "stm_seed", "strategy") if options.get(name) is not None}
    return {**each, **whole, **carry}


def _print_transcript(text: str) -> None:
    # Imported late: only people who watch need it.
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    lines = Text()
    for line in text.splitlines():
        style = "bold" if line.lstrip().startswith("Q:") else "cyan" if line.lstrip().startswith("A:") else "dim"
        lines.append(line + "\n", style=style)
    Console().print(lines)
