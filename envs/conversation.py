"""One conversation at a time: with text at the edge, as `gymnasium.make("rxrl/Conversation-v0", ...)` gives it, or on token ids.

They are the batched environment with a single row, so all play, score and remember alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from rxrl.envs.batch import Observation
from rxrl.envs.checks import at_least_one, known_render_mode
from rxrl.envs.live import LiveSpec
from rxrl.envs.render import print_lines, text_of
from rxrl.envs.spaces import UnicodeText, is_unicode, padded_ids
from rxrl.envs.vector import ConversationVectorEnv
from rxrl.errors import EpisodeError, unknown_name
from rxrl.types import ANSWER, PROMPT_MARKERS, Scenario
from rxrl.validation import is_whole

_OPTIONS = {"conversation": "conversations", "stm_seed": "stm_seeds", "strategy": "strategies", "stm": "stm", "carry": "carry"}
_ROW = 0


class OneRowEnv(LiveSpec, gymnasium.Env[Any, Any]):
    """The batched environment with a single row; what an observation and an action look like is up to its subclasses.

    `info` holds for the turn just scored: `turn`, `steps`, `distance` (-1 = not defined), `asking`, `scored`,
    `conversation_id`, `strategy`, `reference`, `reward_terms` (by name, those that apply), `written` (ids that went
    into memory, or None) and `turn_data` (the `Turn`, or None after a reset). A reset adds `stm_seed`, and `stm0_carried`
    (the memory before the first write) where the episode starts from a memory that was left.

    Args:
        conversations: Where episodes are drawn from, at least one.
        render_mode: None, "ansi" (render returns the transcript) or "human" (what is new is printed after each step).
        options: Everything else that `ConversationVectorEnv` takes; `memory`, `reward` and `codec` must be given.

    Raises:
        ConfigError: An argument makes no sense.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, conversations: Sequence[Scenario], *, render_mode: str | None = None, **options: Any) -> None:
        self.render_mode = known_render_mode(render_mode, (None, *self.metadata["render_modes"]))
        self.batch = ConversationVectorEnv(conversations, num_envs=1, **options)
        self._lines_printed = 0

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
                row to start from), `carry` (whether to start from what the last episode
                left, unless that was the same conversation).

        Returns:
            The first query, and info as the class describes it.

        Raises:
            EpisodeError: An option is unknown or does not fit.
        """
        # Gymnasium takes whole numbers of Python alone.
        super().reset(seed=int(seed) if is_whole(seed) else seed)
        if seed is not None:
            self.batch.forget()
        self.batch.use_generators([self.np_random])
        self._lines_printed = 0
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
        observation, reward, terminated, truncated, info = self.batch.step({"ids": [ids], "length": [len(ids)]})
        query, row = self._after(observation, info)
        return query, float(reward[_ROW]), bool(terminated[_ROW]), bool(truncated[_ROW]), row

    def render(self) -> str | None:
        """The transcript so far in mode "ansi"; what is new of it is printed in mode "human"."""
        lines = self.batch.transcripts[_ROW] or []
        if self.render_mode == "human":
            print_lines(lines[self._lines_printed :])
            self._lines_printed = len(lines)
        return text_of(lines) if self.render_mode == "ansi" else None

    def _after(self, observation: Observation, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if self.render_mode == "human":
            self.render()
        return self._observation(observation), _row_info(info)


class ConversationEnv(OneRowEnv):
    """Plays one conversation: an observation is the text of a query, an action the text of an answer.

    `info` is that of `OneRowEnv`.

    Args:
        conversations: Where episodes are drawn from, at least one.
        max_characters: Most characters of a query or an answer.
        options: Everything else that `OneRowEnv` takes.

    Raises:
        ConfigError: An argument makes no sense.
    """

    def __init__(self, conversations: Sequence[Scenario], *, max_characters: int = 2**16, **options: Any) -> None:
        super().__init__(conversations, **options)
        self.observation_space = UnicodeText(at_least_one("max_characters", max_characters))
        self.action_space = UnicodeText(max_characters)

    def _observation(self, observation: Observation) -> str:
        return self.batch.next_queries[_ROW][: self.observation_space.max_length]  # type: ignore[attr-defined]

    def _answer_ids(self, action: Any) -> list[int]:
        if not isinstance(action, str):
            raise EpisodeError(f"An answer is a text, got {type(action).__name__}; use ConversationTokensEnv to answer with token ids.")
        if not is_unicode(action):
            raise EpisodeError("An answer holds half of a surrogate pair, which is no text: decode it with errors='replace'.")
        ids = self.batch.codec.encode(action)
        # A text is an answer, not a thought.
        return [ANSWER, *ids] if self.batch.limits.think else ids


class ConversationTokensEnv(OneRowEnv):
    """Plays one conversation on token ids: an observation is a padded prompt `[BOS] [Q] query [A]`, an action a padded answer.

    Both are `{"ids": int64 [time], "length": int}`. `info` and arguments are those of `OneRowEnv`.
    """

    def __init__(self, conversations: Sequence[Scenario], **options: Any) -> None:
        super().__init__(conversations, **options)
        top = int(self.batch.single_action_space["ids"].high.max())  # type: ignore[index]
        self.observation_space = padded_ids(self.batch.limits.query + PROMPT_MARKERS, top)
        self.action_space = padded_ids(self.batch.limits.said, top)

    def _observation(self, observation: Observation) -> dict[str, Any]:
        return {"ids": observation["ids"][_ROW], "length": observation["length"][_ROW]}

    def _answer_ids(self, action: Any) -> list[int]:
        if not isinstance(action, Mapping) or not {"ids", "length"} <= action.keys():
            raise EpisodeError(f"An answer is a mapping with `ids` and `length`, got {type(action).__name__}.")
        return [int(token) for token in action["ids"][: int(action["length"])]]


def _row_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """The info of the only row as plain values: each key has one type and no NaN, as Gymnasium's checks and vector environments want it."""
    turn = info["turns"][_ROW]
    row = {name: info[name][_ROW].item() for name in ("turn", "steps", "distance", "asking", "scored")}
    row |= {name: info[name][_ROW] for name in ("conversation_id", "strategy", "written")}
    row |= {
        "reference": None if turn is None else turn.reference,
        "reward_terms": {name: float(values[_ROW]) for name, values in info["reward_terms"].items() if not np.isnan(values[_ROW])},
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
