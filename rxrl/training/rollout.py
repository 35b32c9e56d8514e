"""Collection through the public vector environment, and the rollout that it leaves: tokens, rewards and stm0, no memory per turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rxrl.data.batches import answer_positions, turns_first
from rxrl.envs import ConversationVectorEnv, token_batch
from rxrl.seeding import derive_seed, generator
from rxrl.types import Action, Conversation, Policy, TokenBatch, Turn, interaction_ids, prompt_ids


@dataclass(frozen=True, slots=True)
class Rollout:
    """Episodes as the update replays them.

    Attributes:
        stm0: Memory before the first write, `[layers, batch, slots, dim]`.
        writes: Interactions written before each turn, ids and mask `[turns, batch, time]`.
        turns: `[BOS] [Q] query [A] sampled answer` of each turn, ids and mask `[turns, batch, time]`; written answers may differ.
        answer: bool `[turns, batch, time]`, true for sampled tokens in `turns`.
        sampled_log_probs: Of the sampled tokens as the sampler saw them, `[turns, batch, time]`, 0 elsewhere.
        rewards: `[turns, batch]`, 0 where not scored.
        scored: bool `[turns, batch]`.
        real: bool `[turns, batch]`, false past the end of an episode; real turns come first.
        truncated: bool `[batch]`, episodes that were cut instead of ended.
        critic: Saved interactions and query of each turn, ids and mask `[turns, batch, time]`.
        turn: Turn numbers, int64 `[turns, batch]`.
        steps: Turns of the episodes, int64 `[turns, batch]`.
        scored_turns: The scored turns in order, for metrics and transcripts.
        terms: Reward terms by name, `[turns, batch]`, NaN where a term does not apply.
        left: Memory that the episodes ended with, `[layers, batch, slots, dim]`.
    """

    stm0: Tensor
    writes: TokenBatch
    turns: TokenBatch
    answer: Tensor
    sampled_log_probs: Tensor
    rewards: Tensor
    scored: Tensor
    real: Tensor
    truncated: Tensor
    critic: TokenBatch
    turn: Tensor
    steps: Tensor
    left: Tensor
    scored_turns: list[Turn] = field(default_factory=list)
    terms: dict[str, Tensor] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Number of conversations."""
        return self.real.shape[1]

    @property
    def tokens(self) -> int:
        """Real tokens decoded and written."""
        return int(self.turns.mask.sum() + self.writes.mask.sum())

    def rows(self, rows: Tensor) -> Rollout:
        """The rollout of some conversations, padding kept, so that shapes depend on the rollout alone."""

        def pick(batch: TokenBatch) -> TokenBatch:
            return TokenBatch(batch.ids[:, rows], batch.mask[:, rows])

        return Rollout(
            stm0=self.stm0[:, rows],
            writes=pick(self.writes),
            turns=pick(self.turns),
            answer=self.answer[:, rows],
            sampled_log_probs=self.sampled_log_probs[:, rows],
            rewards=self.rewards[:, rows],
            scored=self.scored[:, rows],
            real=self.real[:, rows],
            truncated=self.truncated[rows],
            critic=pick(self.critic),
            turn=self.turn[:, rows],
            steps=self.steps[:, rows],
            left=self.left[:, rows],
        )


@dataclass(slots=True)
class _Recorder:
    """What collection notes turn by turn, one list entry a turn, rows of ended episodes empty."""

    batch: int
    writes: list[list[list[int]]] = field(default_factory=list)
    turns: list[list[list[int]]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    log_probs: list[list[list[float]]] = field(default_factory=list)
    rewards: list[list[float]] = field(default_factory=list)
    scored: list[list[bool]] = field(default_factory=list)
    real: list[list[bool]] = field(default_factory=list)
    critic: list[list[list[int]]] = field(default_factory=list)
    seen: list[Turn] = field(default_factory=list)
    terms: list[dict[str, list[float]]] = field(default_factory=list)

    def note(self, queries: list[list[int]], action: Action, info: dict[str, object], rewards: Sequence[float], scored: list[bool]) -> None:
        answers = TokenBatch(action.ids, action.mask).rows()
        turns: Sequence[Turn | None] = list(info["turns"])[: self.batch]  # type: ignore[call-overload]
        log_probs = action.log_probs if action.log_probs is not None else torch.zeros(action.ids.shape)
        real = [turn is not None for turn in turns]
        self.real.append(real)
        self.turns.append([query + answer if there else [] for query, answer, there in zip(queries, answers, real, strict=True)])
        self.prompts.append([len(query) if there else 0 for query, there in zip(queries, real, strict=True)])
        self.log_probs.append([[0.0] * len(q) + row[: len(a)] for q, a, row in zip(queries, answers, log_probs.tolist(), strict=True)])
        self.rewards.append(list(rewards))
        self.scored.append(scored)
        self.critic.append([[] if turn is None else critic_ids(turn) for turn in turns])
        self.seen += [turn for turn in turns if turn is not None]
        terms = info["reward_terms"]
        self.terms.append({name: np.asarray(values)[: self.batch].tolist() for name, values in terms.items()})  # type: ignore[attr-defined]


def critic_ids(turn: Turn) -> list[int]:
    """What the critic reads: the saved interactions, then the query."""
    saved = [token for each in turn.saved for token in interaction_ids(each.query_ids, each.answer_ids)]
    return saved + prompt_ids(turn.query_ids)


def collect(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Conversation],
    *,
    seed: int,
    iteration: int,
    device: torch.device | str = "cpu",
    left: Tensor | None = None,
    reset_ratio: float = 1.0,
    samples: int = 1,
) -> Rollout:
    """Plays each conversation once.

    Args:
        env: At least as many rows as conversations; its memory is an STM.
        policy: Samples the answers.
        conversations: At least one. The same conversation may stand in several rows (a group).
        seed: Together with iteration, conversation and turn the key of every draw.
        iteration: Of the training.
        device: Where the rollout goes.
        left: Memory that the last rollout ended with; needed where `reset_ratio` is below 1.
        reset_ratio: Probability that a conversation starts from fresh memory instead of from its row of `left`.
        samples: Rows in a row that share a conversation and so their stm0.

    Returns:
        The rollout, one batch row for each conversation.
    """
    count = len(conversations)
    stm_seeds = [derive_seed(seed, "stm0", iteration, conversation.id) for conversation in conversations]
    carried = torch.tensor(
        [
            left is not None and derive_seed(seed, "carry", iteration, row // samples) / 2**63 >= reset_ratio
            for row in range(env.num_envs)
        ]
    )
    options: dict[str, object] = {"conversations": list(conversations), "stm_seeds": stm_seeds}
    stm0 = env.backend.init([*stm_seeds, *[0] * (env.num_envs - count)])
    if left is not None and carried.any():
        rows = torch.arange(env.num_envs).clamp(max=left.shape[1] - 1)
        options |= {"stm": left[:, rows], "stm_rows": carried.numpy()}
        stm0 = env.backend.reset_rows(stm0, carried, left[:, rows])
    observation, info = env.reset(seed=derive_seed(seed, "env", iteration) % 2**31, options=options)
    recorder = _Recorder(count)
    written = info["written"]
    turn = 0
    while env.active.any():
        turn += 1
        recorder.writes.append([list(row or ()) for row in written[:count]])
        prompts = token_batch(observation)
        action = _act(env, policy, prompts, [generator(seed, "answer", iteration, row, turn) for row in range(count)])
        observation, rewards, _, truncated, info = env.step(action)
        queries = prompts.rows()[:count]
        recorder.note(queries, _first_rows(action, count), info, rewards[:count].tolist(), info["scored"][:count].tolist())
        written = info["written"]
        cut = truncated
    return _rollout(recorder, conversations, stm0[:, :count], env.memory[:, :count], torch.from_numpy(np.asarray(cut[:count])), device)


def _act(env: ConversationVectorEnv, policy: Policy, prompts: TokenBatch, generators: Sequence[torch.Generator]) -> Action:
    """Answers of the active rows; the others get nothing."""
    rows = torch.from_numpy(np.flatnonzero(env.active))
    if len(rows) == len(prompts.ids):
        found = policy.act(prompts, env.memory, generators)
        return Action(found.ids.cpu(), found.mask.cpu(), None if found.log_probs is None else found.log_probs.cpu())
    memory = env.backend.select_rows(env.memory, rows.tolist())  # type: ignore[attr-defined]
    found = policy.act(TokenBatch(prompts.ids[rows], prompts.mask[rows]), memory, [generators[int(row)] for row in rows])
    shape = (len(prompts.ids), found.ids.shape[1])
    ids, mask, log_probs = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    ids[rows], mask[rows] = found.ids.cpu(), found.mask.cpu()
    if found.log_probs is not None:
        log_probs = log_probs.to(found.log_probs.dtype)
        log_probs[rows] = found.log_probs.cpu()
    return Action(ids, mask, log_probs)


def _first_rows(action: Action, count: int) -> Action:
    return Action(action.ids[:count], action.mask[:count], None if action.log_probs is None else action.log_probs[:count])


def _rollout(
    recorder: _Recorder, conversations: Sequence[Conversation], stm0: Tensor, left: Tensor, truncated: Tensor, device: torch.device | str
) -> Rollout:
    turns = turns_first(recorder.turns)
    log_probs = torch.zeros(turns.ids.shape, dtype=stm0.dtype)
    for index, per_row in enumerate(recorder.log_probs):
        for row, values in enumerate(per_row):
            if recorder.real[index][row]:
                log_probs[index, row, : len(values)] = torch.tensor(values, dtype=stm0.dtype)
    real = torch.tensor(recorder.real)
    count = real.shape[0]
    answer = answer_positions(torch.tensor(recorder.prompts), turns.mask)
    names = sorted({name for terms in recorder.terms for name in terms})
    nothing = [float("nan")] * len(conversations)
    return Rollout(
        stm0=stm0.to(device),
        writes=turns_first(recorder.writes).to(device),
        turns=turns.to(device),
        answer=answer.to(device),
        sampled_log_probs=log_probs.to(device),
        rewards=torch.tensor(recorder.rewards, dtype=stm0.dtype, device=device),
        scored=torch.tensor(recorder.scored, device=device),
        real=real.to(device),
        truncated=truncated.to(device),
        critic=turns_first(recorder.critic).to(device),
        turn=torch.arange(1, count + 1, device=device)[:, None].expand(count, len(conversations)),
        steps=torch.tensor([conversation.steps for conversation in conversations], device=device).expand(count, -1),
        left=left.to(device),
        scored_turns=recorder.seen,
        terms={name: torch.tensor([terms.get(name, nothing) for terms in recorder.terms]) for name in names},
    )


