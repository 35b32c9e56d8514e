"""Plays held-out conversations once each through the public vector environment, with the true memory and with controls.

A control changes what the policy *reads*, never what the environment holds: at every turn of the true run the
policy answers once more, reading an empty or another conversation's memory, and that answer is scored in the same way.
So all conditions have the same turns, the same distances and the same history.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from rxrl.envs import ConversationVectorEnv, has_references, token_batch
from rxrl.errors import ConfigError, DataError, PlayError, unknown_name
from rxrl.evaluation.records import TurnRecord, asking_keys
from rxrl.evaluation.resuming import TRUE, Played, TurnCost, Watch
from rxrl.evaluation.swapping import Knowledge, arrange, choose_partners
from rxrl.policies import Oracle
from rxrl.rewards.retention import held
from rxrl.seeding import derive_seed, generator
from rxrl.types import Action, Conversation, Policy, Scenario, Score, TokenBatch, Turn

EMPTY, SWAPPED, ORACLE = "empty_memory", "swapped_memory", "oracle"
CONTROLS = (EMPTY, SWAPPED, ORACLE)
"""Controls at a turn: what was said before is the same."""
BYTES_OF_ID = 8
"""Size of a token id in a transcript."""
EMPTY_WHOLE, SWAPPED_WHOLE = "empty_memory_whole", "swapped_memory_whole"
WHOLE_CONTROLS = (EMPTY_WHOLE, SWAPPED_WHOLE)
"""Controls of whole dialogues, which the answers of the control itself lead through."""


class Playthrough(list[TurnRecord]):
    """The records of one condition, by conversation and turn.

    Attributes:
        costs: What the turns took (true memory and oracle only).
        left_out: Asking turns of the true run that this control does not have.
    """

    def __init__(self, records: Iterable[TurnRecord] = (), costs: Iterable[TurnCost] = (), left_out: int = 0) -> None:
        super().__init__(records)
        self.costs = list(costs)
        self.left_out = left_out

    @classmethod
    def joined(cls, parts: Sequence[Playthrough]) -> Playthrough:
        """One playthrough of several that have no conversation in common."""
        return cls((record for part in parts for record in part), _summed(cost for part in parts for cost in part.costs),
                   sum(part.left_out for part in parts))  # fmt: skip

    def without(self, conversations: Collection[str]) -> Playthrough:
        """The records of all but some conversations, by their ids; costs cannot be told apart."""
        return Playthrough((record for record in self if record.turn.conversation_id not in conversations), self.costs, self.left_out)


def play(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Scenario],
    *,
    seed: int,
    greedy: bool = True,
    control: str | None = None,
) -> Playthrough:
    """Plays every conversation once, in batches of `env.num_envs`; the last batch may be smaller.

    Args:
        env: The environment; rows of it must not reset themselves.
        policy: Answers the queries.
        conversations: Each id once.
        seed: Keys every draw: stm0 by conversation, sampled answers by conversation and turn.
        greedy: Likeliest tokens; sampled answers otherwise.
        control: One of `CONTROLS` or `WHOLE_CONTROLS`, or None for the true memory. `empty_memory`: the policy reads stm0 at every turn.
            `swapped_memory`: asking turns only, reading the memory of a conversation of the same batch that holds every asked
            key with another value; turns without such a partner are left out, and scenarios that react read that of any other row.
            `oracle`: the reference answers in place of the policy. `empty_memory_whole`, `swapped_memory_whole`: as the first two, from the
            first turn to the last, so that what follows follows from those answers.

    Returns:
        One record for each turn. Batch size and order change nothing, but for whose memory a swapped row reads.

    Raises:
        ConfigError: The control is unknown, or environment or memory cannot play it.
        DataError: A conversation id occurs twice.
        RewardError: The reward failed; `turns` of the error holds all turns with the true memory so far.
    """
    return play_conditions(env, policy, conversations, seed=seed, greedy=greedy, controls=(control,) if control else ())[control or TRUE]


def play_conditions(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Scenario],
    *,
    seed: int,
    greedy: bool = True,
    controls: Sequence[str] = (),
) -> dict[str, Playthrough]:
    """Plays the true memory and several controls in one go: the same as `play` for each, at less cost.

    Args:
        env: As in `play`.
        policy: As in `play`.
        conversations: As in `play`.
        seed: As in `play`.
        greedy: As in `play`.
        controls: Any of `CONTROLS` and `WHOLE_CONTROLS`.

    Returns:
        A playthrough for `"true"` and for each control.

    Raises:
        ConfigError: As in `play`.
        DataError: As in `play`.
        RewardError: The reward failed; `turns` of the error holds all turns with the true memory so far.
    """
    return _conditions(_Session(env, seed, greedy, Watch()), policy, conversations, controls)


def _conditions(session: _Session, policy: Policy, conversations: Sequence[Scenario], controls: Sequence[str]) -> dict[str, Playthrough]:
    _check(session.env, conversations, controls)
    inside = [control for control in controls if control in (EMPTY, SWAPPED)]
    results = session.play(policy, conversations, inside)
    for control in [control for control in controls if control in WHOLE_CONTROLS]:
        played = session.play(policy, conversations, (), reads=control)[TRUE]
        results[control] = Playthrough([replace(record, control=control) for record in played])
    if ORACLE in controls:
        try:
            results[ORACLE] = session.play(Oracle(session.env), conversations, (), name=ORACLE)[TRUE]
        except PlayError as error:
            error.turns = tuple(record.turn for record in results[TRUE])
            raise
        results[ORACLE][:] = [replace(record, control=ORACLE) for record in results[ORACLE]]
    return results


def play_parts(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Scenario],
    *,
    seed: int,
    greedy: bool = True,
    controls: Sequence[str] = (),
    watch: Watch | None = None,
) -> dict[str, Playthrough]:
    """As `play_conditions`; of a mix each kind by itself, so that memories are swapped within a kind, and with the controls that suit it.

    Args:
        env: As in `play`.
        policy: As in `play`.
        conversations: As in `play`.
        seed: As in `play`.
        greedy: As in `play`.
        controls: As in `play_conditions`. Where conversations and scenarios are mixed, those of whole dialogues are for scenarios alone,
            and the others for conversations.
        watch: Follows the evaluation, and keeps what was played.

    Returns:
        A playthrough for `"true"` and for each control.

    Raises:
        ConfigError: As in `play`.
        DataError: As in `play`.
        RewardError: As in `play_conditions`.
    """
    kinds: dict[str, list[Scenario]] = defaultdict(list)
    for each in conversations:
        kinds["" if isinstance(each, Conversation) else each.extra.get("scenario", type(each).__qualname__)].append(each)
    mixed = "" in kinds and len(kinds) > 1
    wanted = {kind: [control for control in controls if not mixed or (control in WHOLE_CONTROLS) == bool(kind)] for kind in kinds}
    session = _Session(env, seed, greedy, watch or Watch())
    session.watch.total += sum(_passes(wanted[kind]) * sum(each.steps for each in own) for kind, own in kinds.items())
    found: dict[str, list[Playthrough]] = {name: [] for name in (TRUE, *controls)}
    for kind, own in kinds.items():
        try:
            played = _conditions(session, policy, own, wanted[kind])
        except PlayError as error:
            error.turns = (*(record.turn for part in found[TRUE] for record in part), *error.turns)
            raise
        for name, part in played.items():
            found[name].append(part)
    return {name: Playthrough.joined(parts) for name, parts in found.items()}


@dataclass(frozen=True, slots=True)
class _Session:
    """One environment with the settings of an evaluation."""

    env: ConversationVectorEnv
    seed: int
    greedy: bool
    watch: Watch

    def play(
        self, policy: Policy, conversations: Sequence[Scenario], controls: Sequence[str], reads: str = TRUE, name: str = ""
    ) -> dict[str, Playthrough]:
        """Plays all conversations; `reads` says whose memory the answers that go on come from, `name` whose they are."""
        known = {each.id: Knowledge.of(each) for each in conversations} if SWAPPED in controls else {}
        found: dict[str, list[TurnRecord]] = {name: [] for name in (TRUE, *controls)}
        costs: list[TurnCost] = []
        try:
            for batch in self._batches(conversations, known):
                key = (name, reads, *controls)
                played = self.watch.batch(key, batch, partial(self._play_batch, policy, batch, controls, known, reads))
                for control, records in played.records.items():
                    found[control] += records
                costs += played.costs
        except PlayError as error:
            error.turns = (*(record.turn for record in found[TRUE]), *error.turns)
            raise
        asked = asking_keys(found[TRUE])
        order = {conversation.id: place for place, conversation in enumerate(conversations)}
        return {
            name: Playthrough(
                sorted(records, key=lambda record: (order[record.turn.conversation_id], record.turn.index)),
                _summed(costs) if name == TRUE else (),
                len(asked - asking_keys(records)),
            )
            for name, records in found.items()
        }

    def _batches(self, conversations: Sequence[Scenario], known: Mapping[str, Knowledge]) -> Iterator[list[Scenario]]:
        """Conversations of one length together, so that rows end together; by partnership where memories are swapped."""
        size = self.env.num_envs
        length = attrgetter("steps")
        for _, group in groupby(sorted(conversations, key=length), key=length):
            same = list(group)
            yield from arrange(same, known, size) if known else (same[start : start + size] for start in range(0, len(same), size))

    def _play_batch(
        self, policy: Policy, batch: list[Scenario], controls: Sequence[str], known: Mapping[str, Knowledge], reads: str
    ) -> Iterator[Played]:
        env = self.env
        seeds = [derive_seed(self.seed, "stm0", conversation.id) for conversation in batch]
        observation, info = env.reset(seed=self.seed, options={"conversations": batch, "stm_seeds": seeds})
        empty = env.backend.init(info["stm_seeds"].tolist()) if EMPTY in controls or reads == EMPTY_WHOLE else None
        turn = 0
        while env.active.any():
            turn += 1
            rows = np.flatnonzero(env.active).tolist()
            ask = _Ask(self, policy, batch, token_batch(observation), turn)
            others = {EMPTY: (dict(zip(rows, rows, strict=True)), empty)} if EMPTY in controls else {}
            if SWAPPED in controls:
                others[SWAPPED] = (choose_partners(batch, known, rows, turn, self.seed), env.memory)
            counterfactual = {control: ask.answers(sources, memory) for control, (sources, memory) in others.items()}
            tokens, size = _tokens_read(env.memory, observation, info, rows), _bytes_of(env.memory, rows)
            start = time.perf_counter()
            # One row alone has nobody to swap with: its own memory is the best stand-in, and it counts as such.
            sources = rows[1:] + rows[:1] if reads == SWAPPED_WHOLE else rows
            answers = ask.answers(dict(zip(rows, sources, strict=True)), empty if reads == EMPTY_WHOLE else env.memory)
            observation, rewards, _, _, info = env.step(_action(answers, env.num_envs))
            cost = TurnCost(turn, len(rows), tokens, time.perf_counter() - start, size)
            yield TRUE, [_record(info["turns"][row], _score(rewards, info, row)) for row in rows], cost
            for control, given in counterfactual.items():
                yield control, self._rescored(control, info["turns"], given), None

    def _rescored(self, control: str, turns: Sequence[Turn], given: Mapping[int, list[int]]) -> list[TurnRecord]:
        """Records of the same turns with other answers."""
        others = [self.env.answered_with(row, turns[row], ids) for row, ids in given.items()]
        try:
            scores = self.env.score(others)
        except PlayError as error:
            error.turns = ()
            raise
        return [_record(turn, score, control) for turn, score in zip(others, scores, strict=True)]


@dataclass(frozen=True, slots=True)
class _Ask:
    """The queries of one turn, ready to be answered from any memory."""

    session: _Session
    policy: Policy
    batch: Sequence[Scenario]
    prompts: TokenBatch
    turn: int

    def answers(self, sources: Mapping[int, int], memory: Any) -> dict[int, list[int]]:
        """Answer ids of the rows in `sources`, each reading the row of `memory` that it maps to."""
        rows = list(sources)
        if not rows:
            return {}
        if isinstance(self.policy, Oracle):
            # It looks at the environment, whatever memory it is shown, and so answers for all rows of it.
            action = self.policy.act(self.prompts, None, None)
            given = TokenBatch(action.ids, action.mask).rows()
            return {row: given[row] for row in rows}
        prompts, read = TokenBatch(self.prompts.ids[rows], self.prompts.mask[rows]), memory
        if list(sources.values()) != list(range(self.session.env.num_envs)):
            read = self.session.env.backend.select_rows(memory, list(sources.values()))
        action = self.policy.act(prompts, read, None if self.session.greedy else self._generators(rows))
        return dict(zip(rows, TokenBatch(action.ids, action.mask).rows(), strict=True))

    def _generators(self, rows: Sequence[int]) -> list[torch.Generator]:
        return [generator(self.session.seed, "answer", self.batch[row].id, self.turn) for row in rows]


def _check(env: ConversationVectorEnv, conversations: Sequence[Scenario], controls: Sequence[str]) -> None:
    for control in controls:
        if control not in (*CONTROLS, *WHOLE_CONTROLS):
            raise ConfigError(unknown_name("control", control, (*CONTROLS, *WHOLE_CONTROLS)))
    if env.autoreset_mode != AutoresetMode.DISABLED:
        raise ConfigError(f"Evaluation needs an environment with autoreset_mode DISABLED, got {env.autoreset_mode.value}.")
    without = next((each for each in conversations if not has_references(each)), None) if ORACLE in controls else None
    if without is not None:
        raise ConfigError(f"The oracle answers with references, and scenario {without.id!r} has none: leave this control out.")
    counts: dict[str, int] = defaultdict(int)
    for conversation in conversations:
        counts[conversation.id] += 1
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise DataError(f"Expected every conversation once, got {len(twice)} ids more than once (first: {twice[0]!r}): remove the repeats.")


def _passes(controls: Sequence[str]) -> int:
    """How often a conversation is played: once for the true memory with its controls at a turn, and once for each other control."""
    return 1 + sum(control in (*WHOLE_CONTROLS, ORACLE) for control in controls)


def _record(turn: Turn, score: Score, control: str | None = None) -> TurnRecord:
    return TurnRecord.of(turn, retention=held(turn), score=score, control=control)


def _score(rewards: Any, info: Mapping[str, Any], row: int) -> Score:
    terms = {name: float(values[row]) for name, values in info["reward_terms"].items()}
    value = float(rewards[row]) if info["scored"][row] else None
    return Score(value, {name: None if np.isnan(term) else term for name, term in terms.items()})


def _action(answers: Mapping[int, list[int]], num_envs: int) -> Action:
    batch = TokenBatch.pad([answers.get(row, []) for row in range(num_envs)])
    return Action(batch.ids, batch.mask)


def _tokens_read(memory: Any, observation: Mapping[str, Any], info: Mapping[str, Any], rows: Sequence[int]) -> int:
    prompt = int(np.asarray(observation["length"])[rows].sum())
    if hasattr(memory, "token_counts"):
        return prompt + int(memory.token_counts()[rows].sum())
    return prompt + sum(len(info["written"][row] or ()) for row in rows)


def _bytes_of(memory: Any, rows: Sequence[int]) -> int | None:
    """Size of the memory of some rows: of a tensor its values, of a transcript its token ids; None for what is neither."""
    if memory is None:
        return 0
    if isinstance(memory, torch.Tensor):
        return memory.numel() * memory.element_size() // memory.shape[1] * len(rows) if memory.dim() > 1 else None
    return int(memory.token_counts()[rows].sum()) * BYTES_OF_ID if hasattr(memory, "token_counts") else None


def _summed(costs: Iterable[TurnCost]) -> list[TurnCost]:
    by_turn: dict[int, list[TurnCost]] = defaultdict(list)
    for cost in costs:
        by_turn[cost.turn].append(cost)
    return [
        TurnCost(
            turn,
            sum(c.rows for c in group),
            sum(c.tokens for c in group),
            sum(c.seconds for c in group),
            None if any(c.memory_bytes is None for c in group) else sum(c.memory_bytes or 0 for c in group),
        )
        for turn, group in sorted(by_turn.items())
    ]
