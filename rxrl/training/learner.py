"""The learner: model, critic, frozen reference and optimizers; what is fixed before an update, and the update itself."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rxrl.algorithms import AlgorithmConfig, LossResult, Totals, sum_results
from rxrl.algorithms.advantages import Reduce
from rxrl.algorithms.losses import MAXIMA, OVER_ALL
from rxrl.curricula import Stage
from rxrl.factory import checkpoint_folder
from rxrl.models import ReactiveTransformer, SharedCritic
from rxrl.runs.checkpoints import load_critic
from rxrl.runs.optim import GroupOptimizer, make_optimizer, schedule_factor, set_learning_rates, train_only
from rxrl.runs.processes import Processes
from rxrl.runs.run import check_finite
from rxrl.runs.tracking import Clock
from rxrl.seeding import derive_seed
from rxrl.training.config import MRLConfig
from rxrl.training.critics import AnyCritic, bootstrap_values, critic_values, make_critic, turns_ahead
from rxrl.training.gradients import SignalGradients
from rxrl.training.health import MemoryWatch
from rxrl.training.replay import reference_memory, reference_pass
from rxrl.training.rollout import Rollout
from rxrl.training.rules import stage_signals
from rxrl.training.signals import REWARD_ONLY, Signals, active_signals
from rxrl.training.signals.imitation import KeptEpisodes, as_result, imitation_losses
from rxrl.training.targets import Targets, advantages_of, old_policy, rollout_metrics, start_critic
from rxrl.training.update import actor_loss, critic_loss, has_advantage, minibatches, totals_of

Groups = Mapping[str, Collection[tuple[str, nn.Parameter]]]
Metrics = dict[str, Any]


class Learner:
    """What learns, and how: one optimizer step a minibatch, whatever the number of micro-batches and processes.

    Args:
        model: Trained in place; a frozen copy of it is the reference.
        config: The run.
        processes: Those of the training.
        clock: Times the phases.
        start: A checkpoint whose critic is loaded where it has one.

    Attributes:
        config, processes, clock: As given.
        model: The policy.
        reference: Its frozen start.
        reference_left: Memory that the reference ended the last rollout with, where episodes carry memory over.
        critic: Of the kind that the configuration names.
        critic_ready: Whether the critic has learned something.
        signals: What the update learns from, as the stage and the share of the run that is done have it.
        kept: Good episodes of the last iterations, where they are imitated.
        groups, critic_groups: Named parameters by group.
        optimizer, critic_optimizer: Each takes one step a minibatch.
    """

    config: MRLConfig
    processes: Processes
    clock: Clock
    model: ReactiveTransformer
    reference: ReactiveTransformer
    reference_left: Tensor | None
    critic: AnyCritic
    critic_ready: bool
    signals: Signals
    kept: KeptEpisodes
    groups: Groups
    critic_groups: Groups
    optimizer: GroupOptimizer
    critic_optimizer: GroupOptimizer

    def __init__(
        self, model: ReactiveTransformer, config: MRLConfig, processes: Processes, clock: Clock, start: str | Path | None = None
    ) -> None:
        self.config, self.processes, self.clock = config, processes, clock
        self.model = model.to(processes.device)
        if config.attention_backend is not None:
            model.use_attention(config.attention_backend)
        self.reference = copy.deepcopy(model).requires_grad_(False).eval()
        self.reference_left = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "critic"))
            self.critic = make_critic(config.critic, model, config.critic_layers)
        self.critic_ready = start is not None and load_critic(checkpoint_folder(start), self.critic)
        self.critic.to(processes.device)
        self.signals, self.kept = REWARD_ONLY, KeptEpisodes()
        self.groups = model.group_parameters()
        self.critic_groups = {"critic": list(self.critic.named_parameters())}
        self.optimizer = make_optimizer(self.groups, config.optimizer)
        self.critic_optimizer = make_optimizer(self.critic_groups, config.critic_optimizer)

    def prepare(self, stage: Stage, progress: float, rate: float = 1.0) -> None:
        """Freezes what the stage does not train, sets learning rates and signals; optimizer state of frozen groups waits.

        Args:
            stage: Of the curriculum.
            progress: Share of the run that is done, in [0, 1].
            rate: Factor on the learning rates of the policy.
        """
        self.signals = replace(active_signals(stage_signals(stage, self.config), progress), start=self.reference)
        train_only({**self.groups, **self.critic_groups}, stage.trained_groups)
        set_learning_rates(self.optimizer, schedule_factor(self.config.optimizer, progress) * rate, stage.learning_rates)
        set_learning_rates(self.critic_optimizer, schedule_factor(self.config.critic_optimizer, progress), stage.learning_rates)

    def compared(self, rollout: Rollout) -> Rollout:
        """The rollout with what the reference makes of lessons that are compared with it; it runs its own memory."""
        with self.clock("estimate"), self.processes.autocast(), torch.no_grad():
            memory = partial(reference_memory, self.reference, rollout, self.reference_left)
            return self.signals.compared(self.reference, memory, rollout)

    def estimate(self, rollout: Rollout, algorithm: AlgorithmConfig) -> tuple[Targets, Metrics]:
        """Reference, values, advantages and old log-probabilities: all that is fixed before the first step of the update.

        Args:
            rollout: This process's part of the global batch.
            algorithm: Options of the stage.
        """
        reduce = self.processes.mean
        values, bootstrap, hidden = torch.zeros_like(rollout.rewards), None, None
        with self.clock("estimate"), self.processes.autocast(), torch.no_grad():
            if algorithm.needs_critic:
                with self.clock("estimate/critic"):
                    if not self.critic_ready:
                        start_critic(self.critic, rollout, algorithm, reduce)
                        self.critic_ready = True
                    values = critic_values(self.critic, rollout, self.model) * turns_ahead(rollout.turn, rollout.steps, algorithm)
                    bootstrap = bootstrap_values(self.critic, rollout, self.model)
                    bootstrap = bootstrap * turns_ahead(rollout.real.sum(0) + 1, rollout.steps[0], algorithm)
            if not algorithm.kl:
                self.reference_left = None
            else:
                with self.clock("estimate/reference"):
                    hidden, self.reference_left = reference_pass(self.reference, rollout, self.reference_left)
            with self.clock("estimate/old_log_probs"):
                first_epoch = [rows for part, _ in self._minibatches(rollout, algorithm, 0) for rows in self._micro_batches(part)]
                old, penalties = old_policy(self.model, rollout, algorithm, first_epoch, hidden, self.reference.decoder.head)
            advantages, returns = advantages_of(rollout, values, algorithm, bootstrap, penalties, reduce)
            metrics = rollout_metrics(self._with_all_terms(rollout), values, returns, algorithm, reduce)
            return Targets(advantages, returns, values, old, hidden), metrics

    def update(self, rollout: Rollout, targets: Targets, algorithm: AlgorithmConfig) -> Metrics:
        """Epochs over minibatches of conversations; stops between epochs where the KL to the old policy grows too large."""
        metrics: Metrics = {}
        with self.clock("update"):
            for epoch in range(algorithm.epochs):
                seen: list[Metrics] = []
                counted: list[Metrics] = []
                for rows, counts in self._minibatches(rollout, algorithm, epoch):
                    first = epoch == 0 and not seen
                    part = rollout if counts else _nothing(rollout)
                    totals = totals_of(part.rows(rows), algorithm, self.processes.mean, self.signals)
                    found, log_probs = self._step_actor(part, targets, rows, algorithm, totals, first)
                    if first:
                        # The pass before the first step is also that of the old policy.
                        targets = targets.with_old_log_probs(rows, log_probs) if counts else targets
                        metrics |= {name: found.pop(name) for name in list(found) if _only_once(name)}
                        metrics["first_ratio_deviation"] = found["ratio_deviation"]
                    if algorithm.needs_critic and not isinstance(self.critic, SharedCritic):
                        found |= self._step_critic(part, targets, rows, algorithm, totals)
                    seen.append(found)
                    # A minibatch of turns without a score has no mean of anything.
                    counted += [found] if totals.turns > 0 else []
                metrics |= {name: torch.stack([each[name] for each in counted or seen]).mean() for name in seen[0]}
                metrics["epochs"] = epoch + 1
                if algorithm.target_kl is not None and float(metrics["approx_kl"]) > algorithm.target_kl:
                    break
            if self.signals.imitation is not None:
                self.kept.take(rollout, self.signals.imitation.options, self.processes.objects)
        return metrics

    @property
    def trained_critic(self) -> AnyCritic | None:
        """The critic, where it has learned something; an algorithm without one leaves it as it was made."""
        return self.critic if self.critic_ready else None

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights of the policy."""
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def go_back(self, weights: Mapping[str, Tensor]) -> None:
        """Gives the policy other weights of its own past; the critic, which has seen more since, stays as it is.

        The optimizer forgets the direction that led away from them. It keeps the scale of the gradients: without it, the first steps would
        be as large as the rate allows.
        """
        self.model.load_state_dict(weights)
        self.optimizer.forget_direction()

    @contextmanager
    def as_at_the_start(self) -> Iterator[None]:
        """Gives the policy the weights of its start meanwhile."""
        weights = self.weights()
        self.model.load_state_dict(self.reference.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(weights)

    def carry(self, carries: bool) -> None:
        """Keeps the memory that the reference ended the rollouts of all processes with, where episodes carry memory over."""
        left = self.reference_left
        self.reference_left = None if left is None or not carries else self.processes.rows(left, dim=1)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer states, reference and carried memory; weights of model and critic stand in files of their own."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "reference": self.reference.state_dict(),
            "reference_left": self.reference_left,
            "critic_ready": self.critic_ready,
            "kept": self.kept.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], checkpoint: Path) -> None:
        """Goes on from a saved state, with the weights of the checkpoint that it belongs to."""
        self.model.load_state_dict(ReactiveTransformer.from_pretrained(checkpoint).state_dict())
        load_critic(checkpoint, self.critic)
        self.optimizer.load_state_dict(state["optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.reference.load_state_dict(state["reference"])
        left = state["reference_left"]
        self.reference_left = None if left is None else left.to(self.processes.device)
        self.critic_ready = state["critic_ready"]
        self.kept.restore(state["kept"], self.processes.device)

    def _minibatches(self, rollout: Rollout, algorithm: AlgorithmConfig, epoch: int) -> Iterator[tuple[Tensor, bool]]:
        """Rows of this process in each minibatch of the global batch, and whether they count.

        Where it has none it takes one that does not count: all processes then compute and exchange the same kinds of things.
        """
        for rows in minibatches(rollout.share.total, algorithm.minibatches, self.config.seed, "minibatch", rollout.iteration, epoch):
            own = rollout.share.own(rows)
            counts = len(own) > 0
            # Moved here, once: rows index all that a rollout holds.
            yield (own if counts else torch.zeros(1, dtype=torch.int64)).to(self.processes.device), counts

    def _with_all_terms(self, rollout: Rollout) -> Rollout:
        """The rollout with the reward terms of all processes: one may have met a term that the others have not."""
        names = sorted({name for each in self.processes.objects([list(rollout.terms)]) for name in each})
        nothing = torch.full(rollout.rewards.shape, float("nan"))
        return replace(rollout, terms={name: rollout.terms.get(name, nothing) for name in names})

    def _micro_batches(self, rows: Tensor) -> Sequence[Tensor]:
        """Rows of each forward and backward pass."""
        size = self.config.micro_batch or len(rows)
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    def _step_actor(
        self, rollout: Rollout, targets: Targets, rows: Tensor, algorithm: AlgorithmConfig, totals: Totals, first: bool
    ) -> tuple[Metrics, Tensor]:
        """One step of the policy on the `rows` of a minibatch; `first`: no step was taken since collection.

        Returns:
            Metrics, and the log-probabilities of the sampled tokens before the step, `[turns, rows, time]`.
        """
        head, reduce = self.reference.decoder.head, self._reduce_of(rollout, targets, rows, algorithm, totals)
        results, said, watch = [], [], MemoryWatch(self.processes.device)
        apart = self._gradients_apart(rollout.iteration) if first else None
        shared = algorithm.needs_critic and isinstance(self.critic, SharedCritic)
        self.optimizer.zero_grad()
        self.critic_optimizer.zero_grad()
        for part in self._micro_batches(rows):
            played = rollout.rows(part)
            with self.processes.autocast(), watch.on(self.model, active=first and bool(played.real.any())):
                result, log_probs = actor_loss(self.model, played, targets.rows(part), algorithm, head, first, totals, reduce, self.signals)
                if shared:
                    value = critic_loss(self.critic, played, targets.rows(part), algorithm, self.model, totals)
                    result = joined(result, value, algorithm.value)
            if apart is not None:
                apart.add(result.terms)
            results.append(self._backward(result))
            said.append(log_probs)
        results += self._imitate(algorithm)
        found = sum_results(results)
        metrics = self._whole({**found.metrics, "loss": found.loss}, totals)
        before = torch.cat(said, dim=1)
        if first:
            # What nobody has sampled has no other probability to compare with.
            gap = (before - rollout.sampled_log_probs[:, rows]).abs().max() * algorithm.algorithm.plays
            compared = {} if apart is None else apart.metrics(self.processes.mean)
            metrics |= {"sampler_gap": self.processes.max(gap), **watch.metrics(self.processes.mean), **compared}
        if shared:
            norms = self._step(self.critic_optimizer, self.critic_groups, self.config.critic_optimizer.max_grad_norm)
            metrics["critic_grad_norm"] = norms["grad_norm"]
        rewarded = self.signals.reward > 0 and has_advantage(rollout.rows(rows), targets.rows(rows), algorithm)
        imitated = bool(metrics.get("signal/imitation", torch.zeros(())) > 0)
        teaches = self.processes.any(rewarded or totals.teach) or imitated
        metrics["without_advantage"] = torch.tensor(float(not teaches), device=self.processes.device)
        take = teaches or shared or not algorithm.skip_without_advantage
        return metrics | self._step(self.optimizer, self.groups, self.config.optimizer.max_grad_norm, take), before

    def _imitate(self, algorithm: AlgorithmConfig) -> list[LossResult]:
        """Adds the gradients of imitation; one result for each piece of this process, and one where it has none."""
        if (active := self.signals.imitation) is None:
            return []
        mine = self.kept.share(self.processes.rank, self.processes.count)
        with self.processes.autocast():
            losses = imitation_losses(self.model, mine, algorithm, self.processes.mean)
            nothing = torch.zeros((), device=self.processes.device)
            return [self._backward(as_result(each(), active.coefficient)) for each in losses] or [as_result(nothing, 0.0)]

    def _gradients_apart(self, iteration: int) -> SignalGradients | None:
        """What compares the gradients of the signals, where that is due and the policy learns."""
        every = self.config.compare_signals_every
        learning = [p for named in self.groups.values() for _, p in named if p.requires_grad]
        if not self.signals.others or not learning or every is None or iteration % every:
            return None
        return SignalGradients(self.signals, learning)

    def _step_critic(self, rollout: Rollout, targets: Targets, rows: Tensor, algorithm: AlgorithmConfig, totals: Totals) -> Metrics:
        """One step of the critic on the `rows` of a minibatch."""
        results = []
        self.critic_optimizer.zero_grad()
        for part in self._micro_batches(rows):
            with self.processes.autocast():
                result = critic_loss(self.critic, rollout.rows(part), targets.rows(part), algorithm, self.model, totals)
            results.append(self._backward(result))
        metrics = self._whole(sum_results(results).metrics, totals)
        norms = self._step(self.critic_optimizer, self.critic_groups, self.config.critic_optimizer.max_grad_norm)
        return metrics | {"critic_grad_norm": norms["grad_norm"]}

    def _whole(self, metrics: Mapping[str, Tensor], totals: Totals) -> Metrics:
        """Metrics of a minibatch over all processes; NaN for means over turns that are trained on, where there are none."""
        whole, nothing = self.processes.metrics(metrics, MAXIMA), totals.turns == 0
        everywhere = OVER_ALL | {name for name in whole if name.startswith("signal/")}
        return {name: value if name in everywhere else value.masked_fill(nothing, torch.nan) for name, value in whole.items()}

    def _reduce_of(self, rollout: Rollout, targets: Targets, rows: Tensor, algorithm: AlgorithmConfig, totals: Totals) -> Reduce:
        """What turns the router counts of a forward pass into those of the whole minibatch.

        With one pass a process they are exchanged inside it. Micro-batches need them before the first of them: a pass without gradients
        counts, so that the loss does not depend on how a minibatch is cut.
        """
        parts = self._micro_batches(rows)
        if self.config.micro_batch is None or not algorithm.balance or self.model.config.decoder.experts == 1:
            return self.processes.mean
        counted: dict[int, list[Tensor]] = {}

        def count(value: Tensor) -> Tensor:
            counted.setdefault(value.ndim, []).append(value)
            return value

        head = self.reference.decoder.head
        with self.processes.autocast(), torch.no_grad():
            for part in parts:
                actor_loss(self.model, rollout.rows(part), targets.rows(part), algorithm, head, True, totals, count)
        whole = {ndim: self.processes.mean(torch.stack(values).sum(0)) for ndim, values in counted.items()}
        return lambda value: whole[value.ndim]

    def _backward(self, result: LossResult) -> LossResult:
        """Adds the gradients of a loss; returns it without its graph."""
        loss = result.loss
        check_finite(loss, "The loss")
        # Not by accelerate, which would divide by the gradient accumulation of any other trainer in this process.
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        return LossResult(loss.detach(), result.metrics)

    def _step(self, optimizer: torch.optim.Optimizer, groups: Groups, max_norm: float, take: bool = True) -> Metrics:
        """One optimizer step, where it is to be taken, with the gradients of all processes, scaled down to `max_norm`.

        Returns:
            Norms of the gradients before that.
        """
        parameters = [p for named in groups.values() for _, p in named]
        self.processes.average_gradients(parameters)
        norms = {f"grad_norm/{name}": grad_norm(p for _, p in named) for name, named in groups.items()}
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        if take:
            optimizer.step()
        norms = {"grad_norm": torch.as_tensor(norm).detach()} | (norms if len(groups) > 1 else {})
        # Where nothing has a gradient, the norm is a 0 that lies on the CPU.
        return {name: value.to(self.processes.device) for name, value in norms.items()}


def _only_once(name: str) -> bool:
    """Whether a metric is of the first minibatch alone."""
    compared = name.startswith("signal/") and name.endswith(("_grad_norm", "_cosine"))
    return compared or name in {"sampler_gap", "memory_drift", "gate_openness"}


def joined(policy: LossResult, value: LossResult, coefficient: float) -> LossResult:
    """One loss for a policy and a critic that share an encoder."""
    return LossResult(policy.loss + coefficient * value.loss, {**policy.metrics, **value.metrics}, policy.terms)


def grad_norm(parameters: Iterator[nn.Parameter]) -> Tensor:
    """Norm of the gradients of some parameters; 0 where they have none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.stack(torch._foreach_norm(gradients)).norm() if gradients else torch.zeros(())


def _nothing(rollout: Rollout) -> Rollout:
    """The same rows, none of which counts."""
    return replace(rollout, scored=torch.zeros_like(rollout.scored), real=torch.zeros_like(rollout.real))
