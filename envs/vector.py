"""The batched conversation environment: many conversations in lock-step, with one memory write for all rows.

It works on token ids (text is for people: see `rxrl.envs.conversation`) and is handed its conversations, its memory and
its reward; it knows nothing of models. Memory is its hidden state: never part of an observation, always in `memory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from rxrl.envs.backends import NoMemory
from rxrl.envs.batch import Ids, Observation, answer_rows, info_arrays, observe, restarted_info
from rxrl.envs.checks import (
    at_least_one,
    check_references,
    flag,
    known_autoreset,
    known_render_mode,
    known_values,
    limit,
    memory_backend,
    per_conversation,
    playable,
    probability,
    row_mask,
    strategy_weights,
)
from rxrl.envs.drawing import Drawing
from rxrl.envs.episode import Continuation, Episode, Forcing
from rxrl.envs.live import Live, LiveSpec, unwrap
from rxrl.envs.render import Line, text_of, transcript_lines
from rxrl.envs.spaces import box_of_ids
from rxrl.envs.speech import SHORTEST_INTERACTION, Limits, Speech
from rxrl.errors import ConfigError, EpisodeError, RewardError, ScenarioError, unknown_name
from rxrl.facts import Asked
from rxrl.scoring import score_turns
from rxrl.template import has_template, split_said
from rxrl.types import EOS, PROMPT_MARKERS, MemoryBackend, RewardFunction, Scenario, Score, TextCodec, TokenBatch, Turn
from rxrl.validation import is_whole

_OPTIONS = ("conversations", "stm_seeds", "stm", "stm_rows", "carry", "reset_mask", "strategies")
_FALLBACK_VOCABULARY = 2**16


class ConversationVectorEnv(LiveSpec, VectorEnv[Observation, Any, NDArray[Any]]):
    """Plays up to `num_envs` conversations at once.

    An observation is `{"ids": int64 [num_envs, max_query_tokens + 3], "length": int64 [num_envs]}`, the prompts
    `[BOS] [Q] query [A]`. An action is an `rxrl.types.Action`, or `{"ids": [num_envs, time], "length": [num_envs]}`.
    A row is terminated or truncated in the step that ends its episode and in no later one: `active` says which rows still wait for an
    answer. Rows that have ended or were never begun are neither scored nor written.

    `info` holds arrays over rows for the turn just scored: `turn`, `steps`, `distance` (-1 = not defined), `asking`,
    `scored`, `conversation_id`, `strategy`, `turns` (`Turn` or None), `reward_terms` (floats by name, NaN = None) and
    `written` (ids that went into memory, or None). A reset adds `stm_seeds`, and `stm0_carried` where rows start
    from a memory that was left: `{"memory": the memory before the first write, "rows": bool [num_envs]}`.

    Args:
        conversations: Where episodes are drawn from, at least one.
        memory: What holds the conversation, or None for nothing. May be a `Live` handle.
        reward: Scores the turns. May be a `Live` handle.
        codec: Text to ids and back. May be a `Live` handle.
        num_envs: Rows, at least 1.
        strategy: One of `rxrl.types.STRATEGIES`, or a mix of them with weights; a conversation whose extra column
            `strategy` names one uses that.
        max_query_tokens: Most tokens of a query; longer ones are cut, with a warning in the log.
        max_answer_tokens: Most tokens of an answer, without `[EOS]`; what comes after is ignored.
        max_think_tokens: Most tokens that are thought before an answer; 0: answers come at once. Needs a codec with the markers of the
            interaction template: prompts end with `[T]`, and an action is what is thought, `[A]`, and the answer. Thoughts are written
            into memory, but rewards see the answer alone.
        max_interaction_tokens: Most tokens of an interaction as it is written, markers included; None = no limit.
        teacher_forcing: Whether the reference is written in place of the answer, or the probability of it for each turn.
        forced_turns: Turns up to which `teacher_forcing` holds; None = all.
        reset_ratio: Probability that a row starts from fresh memory; otherwise it starts from what its last episode left.
        write_last: Whether the last interaction of an episode is written too.
        warm_up: Whether the first interaction is written twice.
        max_episode_tokens: Written tokens after which an episode is truncated; None = no limit.
        max_turns: Turns after which an episode is truncated; None = no limit.
        values: Known values by attribute; None takes them from `conversations`.
        vocab_size: Size of the id spaces; None asks the codec.
        render_mode: None or "ansi" (one transcript for each row).
        autoreset_mode: DISABLED (reset ended rows with `options={"reset_mask": ...}`) or SAME_STEP.

    Raises:
        ConfigError: An argument makes no sense.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["ansi"]}  # noqa: RUF012

    render_modes: ClassVar[tuple[str | None, ...]] = (None, "ansi")

    def __init__(  # noqa: PLR0913
        self,
        conversations: Sequence[Scenario],
        *,
        memory: MemoryBackend | None,
        reward: RewardFunction,
        codec: TextCodec,
        num_envs: int = 1,
        strategy: str | Mapping[str, float] = "multi-step",
        max_query_tokens: int = 128,
        max_answer_tokens: int = 128,
        max_think_tokens: int = 0,
        max_interaction_tokens: int | None = None,
        teacher_forcing: bool | float = False,
        forced_turns: int | None = None,
        reset_ratio: float = 1.0,
        write_last: bool = False,
        warm_up: bool = False,
        max_episode_tokens: int | None = None,
        max_turns: int | None = None,
        values: Mapping[str, tuple[str, ...]] | None = None,
        vocab_size: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.DISABLED,
    ) -> None:
        self.conversations = playable(conversations)
        self._live: Live[tuple[MemoryBackend, RewardFunction, TextCodec]] = Live(
            (memory_backend(NoMemory() if memory is None else unwrap(memory)), unwrap(reward), unwrap(codec))
        )
        self.num_envs = at_least_one("num_envs", num_envs)
        self.limits = Limits(
            at_least_one("max_query_tokens", max_query_tokens),
            at_least_one("max_answer_tokens", max_answer_tokens),
            limit("max_interaction_tokens", max_interaction_tokens, SHORTEST_INTERACTION),
            limit("max_episode_tokens", max_episode_tokens),
            limit("max_turns", max_turns),
            limit("max_think_tokens", max_think_tokens, 0) or 0,
        )
        if self.limits.think and not has_template(self.codec):
            raise ConfigError("max_think_tokens needs a tokenizer with the markers of the interaction template: leave it out, or give one.")
        self.forcing = Forcing(probability("teacher_forcing", teacher_forcing), limit("forced_turns", forced_turns, 0))
        check_references(self.conversations, forcing=self.forcing.probability, reward=self.reward)
        self.write_last, self.warm_up = flag("write_last", write_last), flag("warm_up", warm_up)
        self.values = known_values(values, self.conversations)
        self.render_mode = known_render_mode(render_mode, self.render_modes)
        self.autoreset_mode = known_autoreset(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._make_spaces(vocab_size)
        self._drawing = Drawing(self.conversations, self.num_envs, strategy_weights(strategy), probability("reset_ratio", reset_ratio))
        self._speech = Speech(self.codec, self.limits)
        self._episodes: list[Episode | None] = [None] * self.num_envs
        self._memory: Any = None
        self._begun = False

    def _make_spaces(self, vocab_size: int | None) -> None:
        size = at_least_one("vocab_size", vocab_size) if vocab_size is not None else getattr(self.codec, "vocab_size", None)
        top = (int(size) if is_whole(size) else _FALLBACK_VOCABULARY) - 1
        self.single_observation_space = box_of_ids(self.limits.query + PROMPT_MARKERS, top)
        self.single_action_space = box_of_ids(self.limits.said, top)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    # What others may look at

    @property
    def backend(self) -> MemoryBackend:
        """What holds the conversation."""
        return self._live.value[0]

    @property
    def reward(self) -> RewardFunction:
        """What scores the turns."""
        return self._live.value[1]

    @property
    def codec(self) -> TextCodec:
        """Text to ids and back."""
        return self._live.value[2]

    @property
    def memory(self) -> Any:
        """The current memory value: what a policy reads before it answers. Setting it replaces the hidden state."""
        return self._memory

    @memory.setter
    def memory(self, value: Any) -> None:
        self._memory = value

    @property
    def active(self) -> NDArray[np.bool_]:
        """Rows that wait for an answer, bool `[num_envs]`."""
        return np.array([episode is not None and not episode.done for episode in self._episodes], dtype=np.bool_)

    @property
    def next_queries(self) -> tuple[str, ...]:
        """Text of the query that each row waits with; empty where it waits for no answer."""
        waiting = [None if episode is None else episode.waiting for episode in self._episodes]
        return tuple("" if spoken is None else spoken.query for spoken in waiting)

    @property
    def asked(self) -> tuple[Asked | None, ...]:
        """For each row what its next query asks for (None where it waits for none): for controls, never for policies."""
        return tuple(None if episode is None or episode.done else episode.asked for episode in self._episodes)

    @property
    def told(self) -> tuple[dict[str, str], ...]:
        """For each row that waits the facts in force, values by key (empty elsewhere): for what teaches a memory, never for policies."""
        return tuple({} if episode is None or episode.done else episode.told for episode in self._episodes)

    @property
    def references(self) -> tuple[str, ...]:
        """For each row the reference of the query that waits (empty where there is none): for controls, never for policies."""
        waiting = [None if episode is None else episode.waiting for episode in self._episodes]
        return tuple("" if spoken is None else spoken.interaction.answer for spoken in waiting)

    @property
    def continuations(self) -> tuple[Continuation | None, ...]:
        """For each row whose episode was cut how it would have gone on; None elsewhere. For the value of what was cut."""
        return tuple(None if episode is None else episode.continuation for episode in self._episodes)

    @property
    def transcripts(self) -> tuple[list[Line] | None, ...]:
        """For each row the lines of its episode so far; None where none was begun."""
        return tuple(None if episode is None else transcript_lines(episode) for episode in self._episodes)

    def answered_with(self, row: int, turn: Turn, answer_ids: Sequence[int]) -> Turn:
        """The turn that a row has just played, as if it had been answered with `answer_ids`: for controls.

        Args:
            row: The row.
            turn: What `info["turns"]` holds for it.
            answer_ids: Up to their first `[EOS]`; cut where the environment would cut them.
        """
        episode = self._episodes[row]
        if episode is None:
            raise EpisodeError(f"Row {row} has played no turn: it was never begun.")
        kept = list(answer_ids[: answer_ids.index(EOS)] if EOS in answer_ids else answer_ids)[: self.limits.answer]
        return episode.answered_with(turn, kept, self.codec.decode(kept))

    # What a subclass may change

    def score(self, turns: Sequence[Turn]) -> list[Score]:
        """Scores of the turns of one step, one each."""
        return score_turns(self.reward, turns)

    # Gymnasium

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins episodes: fresh memory, then the first interaction is written.

        Args:
            seed: Seed of all draws (row i uses `seed + i`), or one seed for each row. Clears what earlier episodes left.
            options: `conversations` (indices, ids or `Conversation`s of the rows that are reset, in order; rows beyond
                them stay inactive), `stm_seeds` (one for each of them), `strategies` (likewise), `stm` (a memory value
                to start from, with `stm_rows`, bool `[num_envs]`, default all), `carry` (bool `[num_envs]`: rows that
                start from what their last episode left, in place of a draw), `reset_mask` (bool `[num_envs]`: rows to reset).

        Returns:
            Observation and info, as the class describes them.

        Raises:
            EpisodeError: An option is unknown or does not fit.
        """
        chosen = dict(options or {})
        for name in chosen:
            if name not in _OPTIONS:
                raise EpisodeError(unknown_name("reset option", name, _OPTIONS))
        mask = row_mask("reset_mask", chosen.pop("reset_mask", None), self.num_envs, default=True)
        self._seed(seed, mask)
        info = self._begin(mask, chosen, may_carry=seed is None)
        return self._observe(), info

    def step(self, actions: Any) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Scores one answer for each active row and writes the interactions into memory.

        Args:
            actions: `Action`, or a mapping with `ids` int64 `[num_envs, time]` and `length` int64 `[num_envs]`
                (numpy or torch). An answer ends at its first `[EOS]`; `[EOS]` is appended when written where it is missing.

        Returns:
            Observation, rewards float64 `[num_envs]`, terminated, truncated (bool `[num_envs]`) and info.

        Raises:
            EpisodeError: Before the first reset, or where the action has a wrong shape.
            RewardError: The reward failed.
            ScenarioError: A scenario failed; `turns` of the error holds those of this step.
        """
        if not self._begun:
            raise EpisodeError("The environment was stepped before it was reset: call reset() first.")
        thoughts, answers = self._parted(answer_rows(actions, self.num_envs))
        turns = self._turns(answers, thoughts)
        scores = self._scores(turns)
        try:
            terminated, truncated, written = self._advance(answers, turns, thoughts)
        except ScenarioError as error:
            error.turns = tuple(turn for turn in turns if turn is not None)
            raise
        info = info_arrays(self._episodes, turns, scores, written)
        rewards = np.array([0.0 if score is None or score.value is None else score.value for score in scores])
        ended = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and ended.any():
            # Only rows of `final_obs` and `final_info` that have ended mean something: the others go on.
            final = {"final_obs": self._observe(), "_final_obs": ended, "final_info": info, "_final_info": ended.copy()}
            info = restarted_info(ended, self._begin(ended, {}, may_carry=True), info) | final
        return self._observe(), rewards, terminated, truncated, info

    def render(self) -> tuple[str, ...] | None:
        """One transcript for each row in mode "ansi", None otherwise."""
        if self.render_mode != "ansi":
            return None
        return tuple("" if lines is None else text_of(lines) for lines in self.transcripts)

    def use_generators(self, generators: Sequence[np.random.Generator]) -> None:
        """Draws for row i come from `generators[i]` from now on."""
        self._drawing.generators = list(generators)

    def forget(self) -> None:
        """Drops all episodes and what they left in memory, as a reset with a seed does."""
        self._episodes, self._memory, self._begun = [None] * self.num_envs, None, False

    # Reset

    def _seed(self, seed: int | Sequence[int] | None, mask: NDArray[np.bool_]) -> None:
        if seed is None:
            return
        seeds = self._drawing.seeded(seed)
        if mask.all():
            super().reset(seed=seeds[0])
            self.forget()
        self._drawing.reseed(seeds, np.flatnonzero(mask).tolist())

    def _begin(self, mask: NDArray[np.bool_], options: dict[str, Any], *, may_carry: bool) -> dict[str, Any]:
        """Starts new episodes in the rows of `mask` and returns their info."""
        rows = np.flatnonzero(mask).tolist()
        generators = self._drawing.begin(self.np_random)
        chosen = self._drawing.pick(rows, options.get("conversations"), generators)
        seeds = self._drawing.stm_seeds(rows, chosen, options.get("stm_seeds"), generators)
        strategies = per_conversation("strategies", options.get("strategies"), chosen) or [None] * len(chosen)
        before, left = self._episodes, self._memory
        self._episodes = [None if begins else episode for begins, episode in zip(mask, before, strict=True)]
        for row, conversation, strategy in zip(rows, chosen, strategies, strict=False):
            self._episodes[row] = self._episode(conversation, strategy, seeds[row])
        carried = self._carried(mask, before, options.get("carry")) if may_carry and left is not None else np.zeros_like(mask)
        stm0 = self._start_memory(mask, seeds, left, carried, options)
        written = self._write_first(rows)
        info = info_arrays(self._episodes, [None] * self.num_envs, [None] * self.num_envs, written)
        info["stm_seeds"] = np.array(seeds, dtype=np.int64)
        if carried.any():
            info["stm0_carried"] = {"memory": stm0, "rows": carried}
        self._begun = True
        return info

    def _episode(self, scenario: Scenario, strategy: str | None, seed: int) -> Episode:
        return Episode(scenario, self._drawing.strategy(scenario, strategy, seed), self.values, seed, self._speech)

    def _carried(self, mask: NDArray[np.bool_], before: Sequence[Episode | None], wanted: Any) -> NDArray[np.bool_]:
        """Rows that start from the memory that another conversation left in them."""
        asked = None if wanted is None else row_mask("carry", wanted, self.num_envs, default=False)
        carried = np.zeros(self.num_envs, dtype=np.bool_)
        for row, (old, new) in enumerate(zip(before, self._episodes, strict=True)):
            if not mask[row] or old is None or new is None or old.scenario.id == new.scenario.id:
                continue
            carried[row] = asked[row] if asked is not None else self._drawing.keeps_memory(new.seed)
        return carried

    def _start_memory(
        self, mask: NDArray[np.bool_], seeds: list[int], left: Any, carried: NDArray[np.bool_], options: dict[str, Any]
    ) -> Any:
        memory = self.backend.init(seeds)
        if carried.any():
            memory = self.backend.reset_rows(memory, torch.from_numpy(carried), left)
        if "stm" in options:
            rows = row_mask("stm_rows", options.get("stm_rows"), self.num_envs, default=True)
            memory = self.backend.reset_rows(memory, torch.from_numpy(rows & mask), options["stm"])
        if self._begun and not mask.all():
            memory = self.backend.reset_rows(left, torch.from_numpy(mask), memory)
        self._memory = memory
        return memory

    def _write_first(self, rows: list[int]) -> list[Ids | None]:
        written: list[Ids | None] = [None] * self.num_envs
        for row in rows:
            episode = self._episodes[row]
            if episode is not None:
                written[row] = episode.begin()
        for _ in range(2 if self.warm_up else 1):
            self._write(written)
        return written

    # Step

    def _parted(self, said: list[Ids]) -> tuple[list[Ids], list[Ids]]:
        """What each row thought, and its answer; where thoughts have no end, there is no answer."""
        if not self.limits.think:
            return [[] for _ in said], [ids[: self.limits.answer] for ids in said]
        parts = [split_said(ids, think=True) for ids in said]
        return [list(each["think"][: self.limits.think]) for each in parts], [list(each["answer"][: self.limits.answer]) for each in parts]

    def _turns(self, answers: list[Ids], thoughts: list[Ids]) -> list[Turn | None]:
        return [
            None if episode is None or episode.done else episode.scored_turn(ids, self.codec.decode(ids), thought)
            for episode, ids, thought in zip(self._episodes, answers, thoughts, strict=True)
        ]

    def _scores(self, turns: list[Turn | None]) -> list[Score | None]:
        played = [turn for turn in turns if turn is not None]
        scores = self.score(played)
        if len(scores) != len(played):
            raise RewardError(f"{type(self).__name__}.score must return one score for each of {len(played)} turns, but gave {len(scores)}.")
        given = iter(scores)
        scored = [None if turn is None else next(given) for turn in turns]
        for episode, turn, score in zip(self._episodes, turns, scored, strict=True):
            if episode is not None and turn is not None and score is not None:
                episode.played.append((turn, score))
        return scored

    def _advance(
        self, answers: list[Ids], turns: list[Turn | None], thoughts: list[Ids]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], list[Ids | None]]:
        """Writes the interactions of all rows and moves each to its next query."""
        written: list[Ids | None] = [None] * self.num_envs
        for row, (episode, turn) in enumerate(zip(self._episodes, turns, strict=True)):
            if episode is None or turn is None:
                continue
            forced = self.forcing.holds(episode)
            ids, text = (turn.reference_ids, turn.reference) if forced else (answers[row], turn.answer)
            thought = () if forced else thoughts[row]
            written[row] = episode.advance(ids, text, write_last=self.write_last, forced=forced, thought=thought)
        self._write(written)
        # Only of rows that have played this turn: repeated, the end of an episode would be counted at every later step.
        played = [episode if turn is not None else None for episode, turn in zip(self._episodes, turns, strict=True)]
        terminated = np.array([episode is not None and episode.terminated for episode in played])
        truncated = np.array([episode is not None and episode.truncated for episode in played])
        return terminated, truncated, written

    def _write(self, written: Sequence[Ids | None]) -> None:
        """One memory write for all rows that have something to write."""
        rows = [ids is not None for ids in written]
        if any(rows):
            batch = TokenBatch.pad([ids or [] for ids in written])
            self._memory = self.backend.write(self._memory, batch, torch.tensor(rows))

    def _observe(self) -> Observation:
        return observe(self._episodes, self.limits.query + PROMPT_MARKERS)
