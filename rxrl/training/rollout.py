"""Collection through the public vector environment, and the rollout that it leaves: tokens, rewards and stm0, no memory per turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rxrl.data.batches import answer_positions, turns_first
from rxrl.envs import Continuation, ConversationVectorEnv, token_batch
from rxrl.errors import PlayError
from rxrl.runs.processes import Share
from rxrl.seeding import derive_seed, generator
from rxrl.training.lessons import Lesson
from rxrl.types import Action, Policy, SavedInteraction, Scenario, TokenBatch, Turn


@dataclass(frozen=True, slots=True)
class Rollout:
    """Episodes as the update replays them.

    Attributes:
        stm0: Memory before the first write, `[layers, batch, slots, dim]`.
        writes: Interactions written before each turn, ids and mask `[turns, batch, time]`; a warm-up write stands in front as one more.
        turns: `[BOS] [Q] query [A] sampled answer` of each turn, ids and mask `[turns, batch, time]`; written answers may differ.
        answer: bool `[turns, batch, time]`, true for sampled tokens in `turns`.
        sampled_log_probs: Of the sampled tokens as the sampler saw them, `[turns, batch, time]`, 0 elsewhere.
        rewards: `[turns, batch]`, 0 where not scored.
        scored: bool `[turns, batch]`.
        asking: bool `[turns, batch]`, turns that ask for something that memory must supply.
        real: bool `[turns, batch]`, false past the end of an episode; real turns come first.
        truncated: bool `[batch]`, episodes that were cut instead of ended.
        critic_tokens: Saved (or all earlier) interactions and query of each turn, ids and mask `[turns, batch, time]`.
        after: The same for the turn that would have followed, ids and mask `[batch, time]`; empty where the script ended.
        after_query: Its query alone, as a prompt.
        unwritten: Last interaction of an episode that was cut, which no write followed, ids and mask `[batch, time]`; empty elsewhere.
        turn: Turn numbers, int64 `[turns, batch]`.
        steps: Turns of the episodes, int64 `[turns, batch]`.
        left: Memory that the episodes ended with, `[layers, batch, slots, dim]`.
        carried: Row of the last rollout whose memory the episode starts from, -1 for fresh memory, int64 `[batch]`.
        group: Number of the group that each row belongs to: samples of one conversation from one stm0, int64 `[batch]`.
        share: Which rows of the global batch were collected here.
        iteration: Of the training.
        scored_turns: The scored turns in order, for metrics and transcripts.
        terms: Reward terms by name, `[turns, batch]`, NaN where a term does not apply.
        told: Facts in force, values by key, when each turn begins, by turn and row; never observed.
        lessons: What signals teach, by name; never observed.
    """

    stm0: Tensor
    writes: TokenBatch
    turns: TokenBatch
    answer: Tensor
    sampled_log_probs: Tensor
    rewards: Tensor
    scored: Tensor
    asking: Tensor
    real: Tensor
    truncated: Tensor
    critic_tokens: TokenBatch
    after: TokenBatch
    after_query: TokenBatch
    unwritten: TokenBatch
    turn: Tensor
    steps: Tensor
    left: Tensor
    carried: Tensor
    group: Tensor
    share: Share
    iteration: int
    scored_turns: list[Turn] = field(default_factory=list)
    terms: dict[str, Tensor] = field(default_factory=dict)
    told: list[list[Mapping[str, str]]] = field(default_factory=list)
    lessons: Mapping[str, Lesson] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Number of conversations."""
        return self.real.shape[1]

    @property
    def tokens(self) -> int:
        """Real tokens of all turns and of the first write, counted as for supervised episodes: what was told and said once."""
        return int(self.turns.mask.sum() + self.writes.mask[0].sum())

    @property
    def judged(self) -> Tensor:
        """Turns that a scenario itself judged, bool `[turns, batch]`; none where the text is left out."""
        judged = torch.zeros_like(self.real)
        if self.scored_turns:
            judged[self.real] = torch.tensor([turn.outcome is not None for turn in self.scored_turns], device=judged.device)
        return judged

    def turn_grid(self) -> list[list[Turn | None]]:
        """The scored turns by number and row; None past the end of an episode."""
        seen = iter(self.scored_turns)
        return [[next(seen) if there else None for there in row] for row in self.real.tolist()]

    def rows(self, rows: Tensor) -> Rollout:
        """The rollout of some conversations, padding kept, so that shapes depend on the rollout alone; without text and terms."""

        def pick(name: str) -> Any:
            value = getattr(self, name)
            index = rows if name in _OF_ROWS else (slice(None), rows)
            return TokenBatch(value.ids[index], value.mask[index]) if isinstance(value, TokenBatch) else value[index]

        picked = {name: pick(name) for name in (*_OF_ROWS, *_OF_TURNS, "stm0", "writes", "left")}
        lessons = {name: lesson.rows(rows) for name, lesson in self.lessons.items()}
        return Rollout(**picked, share=self.share, iteration=self.iteration, lessons=lessons)

    def tensors(self) -> dict[str, Any]:
        """What `of_tensors` makes the same rollout of, without text, terms and lessons; on the CPU."""
        held = {name: getattr(self, name) for name in (*_OF_ROWS, *_OF_TURNS, "stm0", "writes", "left")}
        plain = {name: [each.ids.cpu(), each.mask.cpu()] if isinstance(each, TokenBatch) else each.cpu() for name, each in held.items()}
        return {**plain, "share": [self.share.start, self.share.stop, self.share.total], "iteration": self.iteration}

    @classmethod
    def of_tensors(cls, held: Mapping[str, Any], device: torch.device | str) -> Rollout:
        """A rollout from what `tensors` gives."""

        def moved(value: Any) -> Any:
            return TokenBatch(*value).to(device) if isinstance(value, list | tuple) else value.to(device)

        made: dict[str, Any] = {name: moved(value) for name, value in held.items() if name not in {"share", "iteration"}}
        return cls(**made, share=Share(*held["share"]), iteration=held["iteration"])

    def at(self, turn: int) -> Rollout:
        """One turn of it (index from 0); what was written before stays whole."""
        here = slice(turn, turn + 1)

        def pick(name: str) -> Any:
            value = getattr(self, name)
            return TokenBatch(value.ids[here], value.mask[here]) if isinstance(value, TokenBatch) else value[here]

        terms = {name: values[here] for name, values in self.terms.items()}
        lessons = {name: lesson.at(turn) for name, lesson in self.lessons.items()}
        return replace(self, terms=terms, lessons=lessons, **{name: pick(name) for name in _OF_TURNS})


_OF_TURNS = ("turns", "critic_tokens", "answer", "sampled_log_probs", "rewards", "scored", "asking", "real", "turn", "steps")
"""Fields of a rollout with an entry for each turn, `[turns, batch, ...]`."""
_OF_ROWS = ("truncated", "after", "after_query", "unwritten", "carried", "group")
"""Fields of a rollout with an entry for each row, `[batch, ...]`."""


@dataclass(slots=True)
class _Recorder:
    """What collection notes turn by turn, one list entry a turn, rows of ended episodes empty."""

    batch: int
    whole: bool = False
    writes: list[list[list[int]]] = field(default_factory=list)
    turns: list[list[list[int]]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    log_probs: list[list[list[float]]] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    scored: list[list[bool]] = field(default_factory=list)
    asking: list[list[bool]] = field(default_factory=list)
    real: list[list[bool]] = field(default_factory=list)
    critic_tokens: list[list[list[int]]] = field(default_factory=list)
    seen: list[Turn] = field(default_factory=list)
    terms: list[dict[str, list[float]]] = field(default_factory=list)
    told: list[list[Mapping[str, str]]] = field(default_factory=list)

    def written(self, info: Mapping[str, Any]) -> None:
        """Takes in what was written into memory before the next turn."""
        self.writes.append([list(row or ()) for row in info["written"][: self.batch]])

    def note(self, prompts: TokenBatch, action: Action, rewards: Any, info: Mapping[str, Any]) -> None:
        """Takes in a turn; rows behind `batch` are not ours."""
        queries, answers = prompts.rows()[: self.batch], TokenBatch(action.ids, action.mask).rows()[: self.batch]
        turns: Sequence[Turn | None] = list(info["turns"])[: self.batch]
        log_probs = (action.log_probs if action.log_probs is not None else torch.zeros(action.ids.shape)).tolist()[: self.batch]
        real = [turn is not None for turn in turns]
        self.real.append(real)
        self.turns.append([query + answer if there else [] for query, answer, there in zip(queries, answers, real, strict=True)])
        self.prompts.append([len(query) if there else 0 for query, there in zip(queries, real, strict=True)])
        self.log_probs.append([[0.0] * len(q) + row[: len(a)] for q, a, row in zip(queries, answers, log_probs, strict=True)])
        self.rewards.append(rewards[: self.batch].tolist())
        self.scored.append(info["scored"][: self.batch].tolist())
        self.asking.append([turn is not None and turn.asking for turn in turns])
        self.critic_tokens.append([[] if turn is None else critic_ids(turn, self.whole) for turn in turns])
        self.seen += [turn for turn in turns if turn is not None]
        self.terms.append({name: np.asarray(values)[: self.batch].tolist() for name, values in info["reward_terms"].items()})

    def rollout(self, stm0: Tensor, **known: Any) -> Rollout:
        """All turns as tensors on the device and in the precision of `stm0`; `known` are the fields that are no record of turns."""
        device = stm0.device
        turns = turns_first(self.turns)
        log_probs = torch.zeros(turns.ids.shape, dtype=stm0.dtype)
        for index, per_row in enumerate(self.log_probs):
            for row, values in enumerate(per_row):
                if self.real[index][row]:
                    log_probs[index, row, : len(values)] = torch.tensor(values, dtype=stm0.dtype)
        names = sorted({name for terms in self.terms for name in terms})
        nothing = [float("nan")] * self.batch
        return Rollout(
            stm0=stm0,
            writes=turns_first(self.writes).to(device),
            turns=turns.to(device),
            answer=answer_positions(torch.tensor(self.prompts), turns.mask).to(device),
            sampled_log_probs=log_probs.to(device),
            rewards=torch.tensor(self.rewards, dtype=stm0.dtype, device=device),
            scored=torch.tensor(self.scored, device=device),
            asking=torch.tensor(self.asking, device=device),
            real=torch.tensor(self.real).to(device),
            critic_tokens=turns_first(self.critic_tokens).to(device),
            turn=torch.arange(1, len(self.real) + 1, device=device)[:, None].expand(len(self.real), self.batch),
            scored_turns=self.seen,
            told=self.told,
            terms={name: torch.tensor([terms.get(name, nothing) for terms in self.terms]) for name in names},
            **known,
        )


def critic_ids(turn: Turn, whole: bool = False) -> list[int]:
    """What the critic reads: the saved interactions, or all earlier ones where it reads the `whole` dialogue; then the query."""
    return _saved_and_prompt(turn.history if whole else turn.saved, turn.prompt)


Following = tuple[list[int], list[int], list[int]]
"""After a cut: what the critic would read, the next query as a prompt, and the interaction that was not written."""


def following(continuation: Continuation | None, whole: bool = False) -> Following:
    """What would have followed an episode, had it gone on; empty where it was not cut. `whole` as in `critic_ids`."""
    if continuation is None:
        return [], [], []
    saved, prompt = continuation.history if whole else continuation.saved, list(continuation.prompt)
    return _saved_and_prompt(saved, prompt), prompt, continuation.last.ids


def _saved_and_prompt(saved: Sequence[SavedInteraction], prompt: Sequence[int]) -> list[int]:
    return [token for each in saved for token in each.ids] + list(prompt)


def collect(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Scenario],
    *,
    seed: int,
    iteration: int,
    device: torch.device | str = "cpu",
    left: Tensor | None = None,
    reset_ratio: float = 1.0,
    group_size: int = 1,
    share: Share | None = None,
    whole: bool = False,
) -> Rollout:
    """Plays each conversation once, or as a group of samples from the same stm0.

    Args:
        env: At least as many rows as conversations of the share times `group_size`; its memory is an STM.
        policy: Samples the answers.
        conversations: Those of all processes, at least one.
        seed: Together with iteration, conversation and turn the key of every draw.
        iteration: Of the training.
        device: Where the rollout goes.
        left: Memory that the last rollout ended with; needed where `reset_ratio` is below 1.
        reset_ratio: Probability that a conversation starts from fresh memory instead of from a row of `left`.
        group_size: Rows of each conversation, side by side: stm0 is the same, answers are drawn anew.
        share: Which of the conversations this process plays; None: all.
        whole: The critic reads all that was said so far, not the saved interactions alone.

    Returns:
        The rollout, one batch row for each sample.

    Raises:
        RewardError: The reward failed; `turns` of the error holds all turns so far.
    """
    share = (share or Share(0, len(conversations), len(conversations))).times(group_size)
    samples = [each for each in conversations for _ in range(group_size)]
    keys, mine = draw_keys(samples)[share.start : share.stop], samples[share.start : share.stop]
    carried = _carried(env.num_envs, mine, left, reset_ratio, seed, iteration)
    observation, info, stm0 = _begin(env, mine, seed, iteration, left, carried)
    steps, recorder = torch.from_numpy(info["steps"][: len(mine)]).to(device), _Recorder(len(mine), whole)
    truncated = _play(
        env, policy, observation, info, recorder, lambda turn: [generator(seed, "answer", iteration, *key, turn) for key in keys]
    )
    after, after_query, unwritten = (
        TokenBatch.pad(rows, device) for rows in zip(*(following(each, whole) for each in env.continuations[: len(mine)]), strict=True)
    )
    return recorder.rollout(
        stm0[:, : len(mine)].to(device),
        steps=steps.expand(len(recorder.real), -1),
        truncated=truncated.to(device),
        after=after,
        after_query=after_query,
        unwritten=unwritten,
        left=env.memory[:, : len(mine)].to(device),
        carried=carried[: len(mine)].to(device),
        group=torch.arange(len(mine), device=device) // group_size,
        share=share,
        iteration=iteration,
    )


def _play(
    env: ConversationVectorEnv,
    policy: Policy,
    observation: Mapping[str, Any],
    info: Mapping[str, Any],
    recorder: _Recorder,
    draws: Callable[[int], Sequence[torch.Generator]],
) -> Tensor:
    """Plays all episodes to their end; returns which of them were cut, bool `[batch]`."""
    if env.warm_up:
        recorder.written(info)
    turn, cut = 0, np.zeros(env.num_envs, dtype=np.bool_)
    while env.active.any():
        turn += 1
        recorder.written(info)
        recorder.told.append(list(env.told[: recorder.batch]))
        prompts = token_batch(observation)
        action = _act(env, policy, prompts, draws(turn))
        try:
            observation, rewards, _, truncated, info = env.step(action)
        except PlayError as error:
            error.turns = (*recorder.seen, *error.turns)
            raise
        cut |= truncated
        recorder.note(prompts, action, rewards, info)
    return torch.from_numpy(cut[: recorder.batch])


def _begin(
    env: ConversationVectorEnv, conversations: Sequence[Scenario], seed: int, iteration: int, left: Tensor | None, carried: Tensor
) -> tuple[dict[str, Any], dict[str, Any], Tensor]:
    """Resets to `conversations`: observation, info, and stm0 of every row, fresh or the row of `left` that `carried` names."""
    stm_seeds = [derive_seed(seed, "stm0", iteration, conversation.id) for conversation in conversations]
    options: dict[str, object] = {"conversations": list(conversations), "stm_seeds": stm_seeds}
    if left is not None:
        options |= {"stm": left[:, carried.clamp(min=0)], "stm_rows": (carried >= 0).numpy()}
    observation, info = env.reset(seed=derive_seed(seed, "env", iteration) % 2**31, options=options)
    stm0 = env.backend.init(info["stm_seeds"].tolist())
    if left is not None:
        stm0 = env.backend.reset_rows(stm0, carried >= 0, left[:, carried.clamp(min=0)])
    return observation, info, stm0


def draw_keys(conversations: Sequence[Scenario]) -> list[tuple[str, int]]:
    """What the draws of each row depend on, whatever stands beside it: its conversation, and the rows of the same one before it."""
    seen: Counter[str] = Counter()
    keys = []
    for conversation in conversations:
        keys.append((conversation.id, seen[conversation.id]))
        seen[conversation.id] += 1
    return keys


def _carried(rows: int, scenarios: Sequence[Scenario], left: Tensor | None, reset_ratio: float, seed: int, iteration: int) -> Tensor:
    """Row of `left` that each row of an environment starts from, -1 for fresh memory, int64 `[rows]`."""
    carried = torch.full((rows,), -1)
    if left is not None:
        carried[: len(scenarios)] = torch.tensor([_carried_from(left, reset_ratio, seed, iteration, each.id) for each in scenarios])
    return carried


def _carried_from(left: Tensor, reset_ratio: float, *key: int | str) -> int:
    """Row of `left` that an episode starts from, -1 for fresh memory."""
    if derive_seed("carry", *key) / 2**63 < reset_ratio:
        return -1
    return derive_seed("carried row", *key) % left.shape[1]


def _act(env: ConversationVectorEnv, policy: Policy, prompts: TokenBatch, generators: Sequence[torch.Generator]) -> Action:
    """Answers of the active rows; the others get nothing."""
    rows = torch.from_numpy(np.flatnonzero(env.active))
    if len(rows) == len(prompts.ids):
        found = policy.act(prompts, env.memory, generators)
        return Action(found.ids.cpu(), found.mask.cpu(), None if found.log_probs is None else found.log_probs.cpu())
    memory = env.backend.select_rows(env.memory, rows.tolist())
    found = policy.act(TokenBatch(prompts.ids[rows], prompts.mask[rows]), memory, [generators[int(row)] for row in rows])
    shape = (len(prompts.ids), found.ids.shape[1])
    ids, mask, log_probs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    ids[rows], mask[rows] = found.ids.cpu(), found.mask.cpu()
    if found.log_probs is not None:
        log_probs = log_probs.to(found.log_probs.dtype)
        log_probs[rows] = found.log_probs.cpu()
    return Action(ids, mask, log_probs)
