"""The update: replays a rollout from stm0 with current weights, gradients through memory, one optimizer step a minibatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rxrl.algorithms import AlgorithmConfig, LossResult, PolicyInputs, Totals, sum_results
from rxrl.algorithms.advantages import Reduce
from rxrl.algorithms.losses import value_loss
from rxrl.models import ReactiveTransformer
from rxrl.models.experts import RouterStatistics, load_balance_loss
from rxrl.models.trajectory import answer_hidden
from rxrl.seeding import generator
from rxrl.training.critics import AnyCritic, critic_values, turns_ahead
from rxrl.training.replay import scatter, trajectory, turn_by_turn
from rxrl.training.rollout import Rollout
from rxrl.training.signals import REWARD_ONLY, Signals
from rxrl.training.targets import Targets, trained_turns
from rxrl.training.token_statistics import LazyLogits, token_statistics

NO_ADVANTAGE = 1e-6
"""What rounding may leave of an advantage of 0, in points of reward or, where they are scaled, in spreads."""


def minibatches(batch: int, count: int, *key: int | str) -> Iterator[Tensor]:
    """Row indices of `count` minibatches (fewer where there are fewer rows), about equal; which, depends on `key`."""
    order = torch.randperm(batch, generator=generator(*key))
    yield from (part.sort().values for part in order.tensor_split(min(count, batch)))


@dataclass(frozen=True, slots=True)
class Shares:
    """Share of each sampled token in the means of a loss, `[turns, batch, time]`, 0 where it does not count.

    Attributes:
        weights: In the policy loss and its terms.
        previous: 1 where a turn before has something to compare with.
        imitate: In self-imitation.
    """

    weights: Tensor
    previous: Tensor
    imitate: Tensor

    def at(self, turn: int) -> Shares:
        """Those of one turn, index from 0."""
        here = slice(turn, turn + 1)
        return Shares(self.weights[here], self.previous[here], self.imitate[here])


def shares_of(rollout: Rollout, config: AlgorithmConfig) -> Shares:
    """The share of every token of whole episodes."""
    dtype = rollout.rewards.dtype
    counted = rollout.answer & (trained_turns(rollout, config) & ~_left_to_lessons(rollout)).unsqueeze(-1)
    weights = counted.to(dtype)
    if config.loss_per == "turn":
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    elif config.loss_per == "episode":
        weights = weights / weights.sum((0, 2), keepdim=True).clamp(min=1)
    previous = (rollout.turn > 1).unsqueeze(-1).expand_as(counted)
    if config.experimental.consistency_form == "positions":
        lengths = rollout.answer.sum(-1)
        before = torch.cat([torch.zeros_like(lengths[:1]), lengths[:-1]])
        previous = previous & (rollout.answer.cumsum(-1) <= before.unsqueeze(-1))
    mean = rollout.rewards.sum(0) / rollout.scored.sum(0).clamp(min=1)
    best = (mean >= config.experimental.self_imitation_above) & rollout.scored.any(0)
    return Shares(weights, previous.to(dtype), (counted & best[:, None]).to(dtype))


def _left_to_lessons(rollout: Rollout) -> Tensor:
    """Turns that the loss of the algorithm leaves to a signal that replaces it, bool `[turns, batch]`."""
    left = torch.zeros_like(rollout.real)
    for lesson in rollout.lessons.values():
        left = left | (lesson.weights > 0) if lesson.replaces else left
    return left


def totals_of(rollout: Rollout, config: AlgorithmConfig, reduce: Reduce | None = None, signals: Signals = REWARD_ONLY) -> Totals:
    """What the sums of a minibatch are divided by.

    Args:
        rollout: The rows of the whole minibatch that this process has; its parts may then go through `actor_loss` one by one.
        config: What counts how much.
        reduce: Mean over processes; None: there is one.
        signals: What is learned from.
    """
    taught = signals.weights(rollout)
    shares = shares_of(rollout, config)
    sums = torch.stack(
        [
            shares.weights.sum(),
            (shares.weights * shares.previous).sum(),
            rollout.real[1:].sum().to(shares.weights.dtype),
            shares.imitate.sum(),
            trained_turns(rollout, config).sum().to(shares.weights.dtype),
            *(weights.sum() for weights in taught.values()),
        ]
    )
    weights, previous, memory, imitate, turns, *others = (sums if reduce is None else reduce(sums)).unbind()
    return Totals(weights, previous, memory, imitate, turns, dict(zip(taught, others, strict=True)))


@dataclass(frozen=True, slots=True)
class Memories:
    """Memories around some turns, each `[layers, turns, batch, slots, dim]`.

    Attributes:
        read: What each turn reads.
        before: What the turn before it read; for the first turn of an episode its own.
        path: The memories whose changes are looked at, one after another.
        real: bool `[turns of path, batch]`.
        first_turn: Number of the first turn of `path`, from 1.
    """

    read: Tensor
    before: Tensor
    path: Tensor
    real: Tensor
    first_turn: int = 1


def has_advantage(rollout: Rollout, targets: Targets, config: AlgorithmConfig) -> bool:
    """Whether rewards have anything to say about these rows: some trained turn has an advantage, or self-imitation an answer to imitate."""
    teaching = targets.advantages.abs() > NO_ADVANTAGE
    if teaching.ndim > rollout.scored.ndim:
        teaching = teaching.any(-1)
    imitates = bool(config.experimental.self_imitation) and bool(shares_of(rollout, config).imitate.any())
    return imitates or bool((teaching & trained_turns(rollout, config)).any())


def actor_loss(
    model: ReactiveTransformer,
    rollout: Rollout,
    targets: Targets,
    config: AlgorithmConfig,
    reference_head: torch.nn.Linear,
    first: bool = False,
    totals: Totals | None = None,
    reduce: Reduce | None = None,
    signals: Signals = REWARD_ONLY,
) -> tuple[LossResult, Tensor]:
    """The loss of all signals on a minibatch, or of some rows of one, with the load-balancing loss of the experts.

    Args:
        model: Current weights.
        rollout: Whole episodes.
        targets: What is fixed, for the same rows.
        config: Coefficients.
        reference_head: Output head of the reference.
        first: No step was taken since collection, so this pass itself supplies the old log-probabilities.
        totals: Those of the whole minibatch, so that losses of its parts add up; None: these rows are all of it.
        reduce: Mean over processes, for what the experts were given; None: there is one.
        signals: What is learned from; the rollout holds their lessons.

    Returns:
        Loss with metrics, and the detached log-probabilities of this pass, `[turns, batch, time]`.
    """
    totals = totals_of(rollout, config, None, signals) if totals is None else totals
    replay, shares = _Replay(model, config, reference_head, first, totals, signals), shares_of(rollout, config)
    if config.checkpoint_turns:
        result, log_probs, routed = _turn_by_turn(replay, rollout, targets, shares)
    else:
        stms = trajectory(model, rollout, config)
        memories = Memories(stms, torch.cat([stms[:, :1], stms[:, :-1]], dim=1), stms, rollout.real)
        result, log_probs, routed = replay.loss(rollout, targets, shares, memories)
    if routed is not None:
        loads, probabilities, tokens = routed
        if reduce is not None:
            loads, tokens = reduce(loads), reduce(tokens.to(loads.dtype))
        balance = load_balance_loss(loads, probabilities, tokens)
        result = replace(result, loss=result.loss + config.balance * balance, metrics={**result.metrics, "balance": balance.detach()})
    return result, scatter(log_probs, rollout)


Routed = tuple[Tensor, Tensor, Tensor]
"""What `RouterStatistics.sums` gives."""


@dataclass(frozen=True, slots=True)
class _Replay:
    """The decoder on some turns, and the loss of what it says."""

    model: ReactiveTransformer
    config: AlgorithmConfig
    reference_head: torch.nn.Linear
    first: bool
    totals: Totals
    signals: Signals = REWARD_ONLY

    def loss(
        self, rollout: Rollout, targets: Targets, shares: Shares, memories: Memories, earlier: Rollout | None = None
    ) -> tuple[LossResult, Tensor, Routed | None]:
        """Loss of some turns without load balancing, the log-probabilities `[tokens]`, and what the experts were given.

        `earlier` is the turn before, where it is not among these.
        """
        answer = rollout.answer
        statistics = RouterStatistics(rollout.turns.mask & rollout.real.unsqueeze(-1)) if self.config.balance else None
        hidden = answer_hidden(self.model, memories.read, rollout.turns, answer, statistics)
        theirs = targets.reference_hidden
        policy = LazyLogits.of(self.model.decoder.head, hidden)
        said = token_statistics(
            policy,
            rollout.turns.ids[answer],
            self.config.temperature,
            reference=None if theirs is None else LazyLogits.of(self.reference_head, theirs[answer]),
            previous=self._previous(rollout, memories, hidden, earlier),
            estimator=self.config.experimental.kl_estimator,
            thoughts=policy.thoughts(rollout.turns.ids, answer),
        )
        inputs = PolicyInputs(
            log_probs=said.log_probs,
            old_log_probs=said.log_probs.detach() if self.first else targets.old_log_probs[answer],
            advantages=_per_token(targets.advantages, rollout),
            weights=shares.weights[answer],
            entropy=said.entropy,
            reference_kl=said.reference_kl,
            previous_kl=said.previous_kl,
            has_previous=shares.previous[answer],
            memory=memories.path,
            real=memories.real,
            reference_log_probs=said.reference_log_probs,
            imitate=shares.imitate[answer] if self.config.experimental.self_imitation else None,
            first_turn=memories.first_turn,
            totals=self.totals,
        )
        result = self._with_signals(self.config.algorithm.loss(inputs, self.config), memories, rollout, hidden)
        return result, said.log_probs.detach(), statistics.sums() if statistics is not None and statistics.loads else None

    def _with_signals(self, reward: LossResult, memories: Memories, rollout: Rollout, hidden: Tensor) -> LossResult:
        """The loss of all signals by their coefficients, and each of them alone."""
        signals = self.signals
        losses = signals.losses(self.model, memories.read, memories.before, rollout, hidden, self.totals.signals)
        if not losses and signals.reward == 1:
            return reward
        loss = signals.reward * reward.loss
        for each in signals.others:
            loss = loss + each.coefficient * losses[each.name]
        metrics = {f"signal/{name}": value.detach() for name, value in losses.items()}
        return LossResult(loss, {**reward.metrics, **metrics}, {"reward": reward.loss, **losses})

    @torch.no_grad()
    def _previous(self, rollout: Rollout, memories: Memories, hidden: Tensor, earlier: Rollout | None) -> LazyLogits | None:
        """What the policy is compared with from turn to turn (IMPO's consistency)."""
        if not self.config.looks_back or memories.path.shape[1] < 2:
            return None
        if self.config.experimental.consistency_form == "same-tokens":
            found = answer_hidden(self.model, memories.before, rollout.turns, rollout.answer)
        elif earlier is None:
            answer = torch.cat([torch.zeros_like(rollout.answer[:1]), rollout.answer[:-1]])
            found = hidden[_same_position(answer, rollout.answer)]
        else:
            found = answer_hidden(self.model, memories.before, earlier.turns, earlier.answer)
            found = found[_same_position(earlier.answer, rollout.answer)]
        return LazyLogits.of(self.model.decoder.head, found)


def _same_position(earlier: Tensor, answer: Tensor) -> Tensor:
    """For each token of `answer`, which of the tokens of `earlier` stands at its position; any one where there is none.

    Args:
        earlier: bool `[turns, batch, time]`, the answers of the turns before.
        answer: bool `[turns, batch, time]`.
    """
    lengths = earlier.sum(-1)
    begins = (lengths.flatten().cumsum(0) - lengths.flatten()).view_as(lengths)
    index = begins.unsqueeze(-1) + (answer.cumsum(-1) - 1).minimum((lengths - 1).clamp(min=0).unsqueeze(-1))
    return index[answer].clamp(max=max(0, int(lengths.sum()) - 1))


def _turn_by_turn(replay: _Replay, rollout: Rollout, targets: Targets, shares: Shares) -> tuple[LossResult, Tensor, Routed | None]:
    """One turn after another, each recomputed in the backward pass: memory use does not grow with the turns."""

    def visit(turn: int, before: Tensor, memory: Tensor) -> tuple[LossResult, Tensor, Routed | None]:
        read, previous = memory.unsqueeze(1), before.unsqueeze(1)
        path = read if turn == 0 else torch.cat([previous, read], dim=1)
        memories = Memories(read, previous, path, rollout.real[max(0, turn - 1) : turn + 1], max(1, turn))
        earlier = rollout.at(turn - 1) if turn else None
        return replay.loss(rollout.at(turn), targets.at(turn), shares.at(turn), memories, earlier)

    results, log_probs, routed = zip(*turn_by_turn(replay.model, rollout, replay.config, visit), strict=True)
    return sum_results(results), torch.cat(log_probs), _summed(routed)


def _summed(routed: Sequence[Routed | None]) -> Routed | None:
    """What the experts were given in all turns; None for a dense decoder, or where nothing balances."""
    loads, probabilities, tokens = ([each[part] for each in routed if each is not None] for part in range(3))
    return (torch.stack(loads).sum(0), torch.stack(probabilities).sum(0), torch.stack(tokens).sum(0)) if loads else None


def critic_loss(
    critic: AnyCritic,
    rollout: Rollout,
    targets: Targets,
    config: AlgorithmConfig,
    model: ReactiveTransformer,
    totals: Totals | None = None,
) -> LossResult:
    """Value loss of a minibatch, or of some rows of one, over the turns that are trained on; arguments as in `actor_loss`.

    In rewards a turn, so that the first turns of an episode, whose returns add up most, weigh no more than the last.
    """
    values, ahead = critic_values(critic, rollout, model), turns_ahead(rollout.turn, rollout.steps, config)
    total = None if totals is None else totals.turns
    old, returns = targets.values / ahead, targets.returns / ahead
    loss = value_loss(values, old, returns, trained_turns(rollout, config), config.value_clip, total)
    return LossResult(loss, {"value_loss": loss.detach()})


def _per_token(values: Tensor, rollout: Rollout) -> Tensor:
    """Values of `[turns, batch]` or `[turns, batch, time]` at the answer tokens of each turn, `[tokens]`."""
    spread = values.unsqueeze(-1).expand(rollout.answer.shape) if values.ndim == 2 else values
    return spread[rollout.answer]
