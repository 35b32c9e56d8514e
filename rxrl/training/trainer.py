"""The trainer of Memory Reinforcement Learning: collect, refer, estimate, update, evaluate, and move through the curriculum."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from rxrl.algorithms import AlgorithmConfig
from rxrl.config import parse_config
from rxrl.curricula import Curriculum, Stage, StepScheduler
from rxrl.data.sources import ConversationSource
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ConversationVectorEnv
from rxrl.errors import CheckpointError, TrainingError
from rxrl.evaluation import Evaluation, evaluate
from rxrl.evaluation.metrics import summarise_stage
from rxrl.facts import attribute_values
from rxrl.models import Critic, ModelPolicy, ReactiveTransformer, StmBackend
from rxrl.rewards import load_reward, mean_embeddings
from rxrl.seeding import derive_seed
from rxrl.training.checkpoints import load_critic, load_state, numbered, prune, save_checkpoint
from rxrl.training.config import MRLConfig
from rxrl.training.optim import make_optimizer, schedule_factor, set_learning_rates, train_only
from rxrl.training.rollout import Rollout, collect
from rxrl.training.tracking import MetricsLog, Tracker, open_trackers
from rxrl.training.update import (
    Targets,
    actor_loss,
    advantages_of,
    bootstrap_values,
    critic_loss,
    critic_values,
    minibatches,
    policy_log_probs,
    reference_pass,
    rollout_metrics,
    targets_of_rows,
)
from rxrl.types import RewardFunction

EnvFactory = Callable[..., ConversationVectorEnv]
Observer = Callable[["Progress"], None]
VALUE_SAMPLE = 512
"""Conversations from which the known values of each attribute are taken."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the terminal and callbacks are told after each iteration."""

    iteration: int
    total: int
    stage: Stage
    metrics: dict[str, Any]


@dataclass(slots=True)
class TrainerState:
    """Where a run stands, apart from weights and optimizers."""

    iteration: int = 0
    tokens: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    stage_rewards: list[float] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    critic_ready: bool = False


class MRLTrainer:
    """Trains the memory of a Reactive Transformer by reinforcement through a step curriculum.

    Collects only through the public `ConversationVectorEnv`, so a subclass of it trains unmodified.

    Args:
        model: Starts here; a frozen copy of it is the reference. Trained in place.
        tokenizer: Belongs to the model.
        curriculum: Stages to walk through.
        source: Conversations to train on.
        held_out: Conversations to evaluate on while training.
        config: The run.
        folder: Metrics and checkpoints go here.
        reward: Used in place of `config.reward`.
        env: Class or factory of the environment; takes the arguments of `ConversationVectorEnv`.
        observers: Called after each iteration.
        start: A checkpoint whose critic is loaded where it has one.
        trackers: Where metrics go besides `metrics.jsonl`; None: as `config.tracking` says.
    """

    def __init__(
        self,
        model: ReactiveTransformer,
        tokenizer: Tokenizer,
        *,
        curriculum: Curriculum,
        source: ConversationSource,
        held_out: ConversationSource,
        config: MRLConfig,
        folder: str | Path,
        reward: RewardFunction | None = None,
        env: EnvFactory = ConversationVectorEnv,
        observers: Sequence[Observer] = (),
        start: str | Path | None = None,
        trackers: tuple[Tracker, ...] | None = None,
    ) -> None:
        self.config, self.curriculum, self.tokenizer = config, curriculum, tokenizer
        self.source, self.held_out = source, held_out
        self.folder, self.make_env, self.observers, self.own_reward = Path(folder), env, observers, reward
        self.accelerator = Accelerator()
        self.scheduler = StepScheduler(curriculum)
        self.state = TrainerState()
        self.left: Tensor | None = None
        self.reference_left: Tensor | None = None
        self.reference = copy.deepcopy(model).requires_grad_(False).eval().to(self.accelerator.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, "critic"))
            critic = Critic(model.config, config.critic_layers)
        critic.load_encoder(model.embedding, model.encoder)
        if start is not None:
            self.state.critic_ready = load_critic(start, critic)
        self.groups = model.group_parameters()
        self.model = model
        self.actor, self.optimizer, self.critic, self.critic_optimizer = self.accelerator.prepare(
            model,
            make_optimizer(self.groups, config.optimizer),
            critic,
            make_optimizer({"critic": list(critic.named_parameters())}, config.critic_optimizer),
        )
        if trackers is None:
            trackers = open_trackers(config.tracking, self.folder, config.model_dump(mode="json"))
        self.log = MetricsLog(self.folder, trackers)
        self._values: dict[tuple[int, str], dict[str, tuple[str, ...]]] = {}
        self._times: dict[str, float] = {}
        self._env: tuple[tuple[int, str, int], ConversationVectorEnv] | None = None

    def train(self) -> ReactiveTransformer:
        """Runs the curriculum to its end and returns the trained model."""
        while not self.scheduler.finished and not self._stopped():
            stage = self.scheduler.stage
            algorithm = self._algorithm(stage)
            self._prepare(stage)
            rollout = self._timed("collect", self.collect, stage, algorithm)
            targets, metrics = self._timed("estimate", self.estimate, rollout, algorithm)
            metrics |= self._timed("update", self.update, rollout, targets, algorithm)
            self.state.iteration += 1
            self.state.tokens += rollout.tokens
            self.left, self.reference_left = (rollout.left, self.reference_left) if stage.reset_ratio < 1 else (None, None)
            held_out = self._timed("evaluate", self.evaluate, stage) if self._evaluation_due() else None
            self._record(stage, metrics, held_out)
            if held_out is not None:
                self._advance(stage, held_out)
            if self.state.iteration % self.config.checkpoint_every == 0:
                self.save()
        self.save()
        self.log.close()
        return self.model

    def collect(self, stage: Stage, algorithm: AlgorithmConfig) -> Rollout:
        """Plays the conversations of one iteration with the current policy."""
        conversations = [c for each, count in self._mixture(stage) for c in self._next_conversations(each, count)]
        env = self.environment(stage, len(conversations))
        policy = ModelPolicy(self.model.eval(), self.config.max_answer_tokens + 1, temperature=algorithm.temperature)
        return collect(
            env,
            policy,
            conversations,
            seed=self.config.seed,
            iteration=self.state.iteration,
            device=self.accelerator.device,
            left=self.left,
            reset_ratio=stage.reset_ratio_at(len(self.state.stage_rewards)),
        )

    def estimate(self, rollout: Rollout, algorithm: AlgorithmConfig) -> tuple[Targets, dict[str, Any]]:
        """Reference, values, advantages and old log-probabilities: all that is fixed before the first step of the update."""
        if not self.state.critic_ready:
            self._start_critic(rollout)
        with torch.no_grad():
            values = critic_values(self.critic, rollout)
        advantages, returns = advantages_of(rollout, values, algorithm, bootstrap_values(self.critic, rollout))
        hidden = None
        if algorithm.kl:
            hidden, self.reference_left = reference_pass(self.reference, rollout, self.reference_left)
        targets = Targets(advantages, returns, values, self._old_log_probs(rollout, algorithm), hidden)
        return targets, rollout_metrics(rollout, values, returns)

    def update(self, rollout: Rollout, targets: Targets, algorithm: AlgorithmConfig) -> dict[str, Any]:
        """Epochs over minibatches of conversations; stops between epochs where the KL to the old policy grows too large."""
        metrics: dict[str, Any] = {}
        for epoch in range(algorithm.epochs):
            seen: list[dict[str, Tensor]] = []
            for rows in minibatches(rollout.batch, algorithm.minibatches, self.config.seed, "minibatch", self.state.iteration, epoch):
                part, aims = rollout.rows(rows), targets_of_rows(targets, rows)
                first = epoch == 0 and not seen
                result, log_probs = self._step_actor(part, aims, algorithm, first)
                if first:
                    targets.old_log_probs[:, rows] = log_probs
                    metrics["sampler_gap"] = (log_probs - part.sampled_log_probs).abs().max()
                seen.append(result | self._step_critic(part, aims, algorithm))
            metrics |= {name: torch.stack([each[name] for each in seen]).mean() for name in seen[0]}
            metrics["epochs"] = epoch + 1
            if algorithm.target_kl is not None and float(metrics["approx_kl"]) > algorithm.target_kl:
                break
        return metrics

    def evaluate(self, stage: Stage, count: int | None = None, controls: Sequence[str] = ()) -> Evaluation:
        """Plays held-out conversations of a stage, greedy, always from fresh memory and without teacher forcing."""
        count = count or self.config.evaluation.conversations
        strategies = stage.strategies
        strategy = max(strategies, key=lambda name: strategies[name])
        conversations = self.held_out.take(steps=stage.steps, strategy=strategy, start=0, count=count)
        conversations = list({conversation.id: conversation for conversation in conversations}.values())
        env = self._new_env(replace_stage(stage, teacher_forcing=False), len(conversations), conversations)
        policy = ModelPolicy(self.model.eval(), self.config.max_answer_tokens + 1)
        return evaluate(env, policy, conversations, seed=self.config.seed, controls=controls, resamples=200)

    def save(self) -> Path:
        """Writes a checkpoint that the run can go on from, and drops older ones."""
        folder = self.folder / "checkpoints"
        tensors = {
            "optimizer": self.optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "reference": self.reference.state_dict(),
            "left": self.left,
            "reference_left": self.reference_left,
        }
        path = save_checkpoint(
            folder / f"step-{self.state.iteration:06d}",
            self.model,
            self.tokenizer,
            critic=self.accelerator.unwrap_model(self.critic),
            state={
                "kind": "mrl",
                "trainer": asdict(self.state),
                "scheduler": self.scheduler.state_dict(),
                "metrics_position": self.log.position(),
                "config": self.config.model_dump(mode="json"),
                "curriculum": self.curriculum.model_dump(mode="json"),
            },
            tensors=tensors,
        )
        prune(folder, self.config.keep_checkpoints)
        return path

    def resume(self, path: str | Path | None = None) -> bool:
        """Goes on from a checkpoint of this run, the newest by default; False where there is none."""
        found = numbered(self.folder / "checkpoints") if path is None else [Path(path)]
        if not found:
            return False
        state, tensors = load_state(found[-1])
        if state.get("kind") != "mrl" or state["config"] != self.config.model_dump(mode="json"):
            raise CheckpointError(f"{found[-1]} belongs to a run with another configuration: start a new run in another folder.")
        if state["curriculum"] != self.curriculum.model_dump(mode="json"):
            raise CheckpointError(f"{found[-1]} belongs to a run with another curriculum: start a new run in another folder.")
        self.model.load_state_dict(ReactiveTransformer.from_pretrained(found[-1]).state_dict())
        load_critic(found[-1], self.accelerator.unwrap_model(self.critic))
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.critic_optimizer.load_state_dict(tensors["critic_optimizer"])
        self.reference.load_state_dict(tensors["reference"])
        self.left, self.reference_left = tensors["left"], tensors["reference_left"]
        self.state = TrainerState(**state["trainer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.log.rewind(state["metrics_position"])
        return True

    def environment(self, stage: Stage, rows: int) -> ConversationVectorEnv:
        """The environment of a stage, made once."""
        key = (self.scheduler.stage_index, stage.name, rows)
        if self._env is None or self._env[0] != key:
            self._env = (key, self._new_env(stage, rows, self._sample(stage)))
        return self._env[1]

    def _new_env(self, stage: Stage, rows: int, conversations: Sequence[Any]) -> ConversationVectorEnv:
        key = (stage.steps, next(iter(stage.strategies)))
        if key not in self._values:
            self._values[key] = attribute_values(self._sample(stage))
        own = attribute_values(conversations)
        values = {name: tuple(sorted({*self._values[key].get(name, ()), *own.get(name, ())})) for name in {*self._values[key], *own}}
        limit = self.model.config.max_length
        return self.make_env(
            conversations,
            memory=StmBackend(self.model),
            reward=self.reward(stage),
            codec=self.tokenizer,
            num_envs=rows,
            strategy=max(stage.strategies, key=lambda name: stage.strategies[name]),
            # A prompt leaves room for one token of an answer at least, and for the [EOS] behind it.
            max_query_tokens=limit - 5,
            max_answer_tokens=self.config.max_answer_tokens,
            max_interaction_tokens=limit,
            teacher_forcing=stage.teacher_forcing,
            values=values,
        )

    def reward(self, stage: Stage) -> RewardFunction:
        """The reward of a stage: its own, the run's object, or the configured one."""
        if stage.reward is None and self.own_reward is not None:
            return self.own_reward
        return load_reward(stage.reward or self.config.reward, embed=partial(mean_embeddings, self.reference.embedding.weight))

    def _sample(self, stage: Stage) -> list[Any]:
        strategy = next(iter(stage.strategies))
        return self.source.take(steps=stage.steps, strategy=strategy, start=0, count=VALUE_SAMPLE)

    def _algorithm(self, stage: Stage) -> AlgorithmConfig:
        return parse_config(
            self.config.algorithm.model_dump() | stage.algorithm, AlgorithmConfig, source=f"algorithm options of stage {stage.name!r}"
        )

    def _prepare(self, stage: Stage) -> None:
        """Freezes what the stage does not train and sets the learning rates."""
        critic = self.accelerator.unwrap_model(self.critic)
        train_only(self.groups | {"critic": list(critic.named_parameters())}, stage.trained_groups)
        total = self.config.max_iterations or sum(each.iterations for each in self.curriculum.stages)
        progress = min(1.0, self.state.iteration / total)
        set_learning_rates(self.optimizer, schedule_factor(self.config.optimizer, progress), stage.learning_rates)
        set_learning_rates(self.critic_optimizer, schedule_factor(self.config.critic_optimizer, progress), stage.learning_rates)

    def _mixture(self, stage: Stage) -> list[tuple[Stage, int]]:
        """Stages (this one, and earlier ones by their share) and how many conversations each gives."""
        count = stage.episodes or self.config.episodes
        stages, shares = zip(*self.curriculum.mixture(self.scheduler.stage_index), strict=True)
        numbers = split_count(count, shares, self.config.seed, "mixture", self.state.iteration)
        return [(each, number) for each, number in zip(stages, numbers, strict=True) if number]

    def _next_conversations(self, stage: Stage, count: int) -> list[Any]:
        taken: list[Any] = []
        numbers = split_count(count, list(stage.strategies.values()), self.config.seed, "strategies", self.state.iteration, stage.name)
        for strategy, number in zip(stage.strategies, numbers, strict=True):
            key = f"{stage.steps}:{strategy}"
            start = self.state.positions.get(key, 0)
            found = self.source.take(steps=stage.steps, strategy=strategy, start=start, count=number)
            # A conversation that names no strategy plays the one that it was taken for.
            taken += [replace(each, extra={"strategy": strategy, **each.extra}) for each in found]
            self.state.positions[key] = start + number
        return taken

    def _start_critic(self, rollout: Rollout) -> None:
        """The critic's shift starts at the mean reward, so that its first values are of the right size."""
        critic = self.accelerator.unwrap_model(self.critic)
        with torch.no_grad():
            critic.shift.fill_(float(rollout.rewards[rollout.scored].mean()) if rollout.scored.any() else 0.0)
        self.state.critic_ready = True

    @torch.no_grad()
    def _old_log_probs(self, rollout: Rollout, algorithm: AlgorithmConfig) -> Tensor:
        """Computed by the code and in the shapes of the first epoch; its first minibatch supplies its own in its first pass."""
        old = torch.zeros_like(rollout.sampled_log_probs)
        _, *others = minibatches(rollout.batch, algorithm.minibatches, self.config.seed, "minibatch", self.state.iteration, 0)
        for rows in others:
            old[:, rows] = policy_log_probs(self.model, rollout.rows(rows), algorithm)
        return old

    def _step_actor(self, rollout: Rollout, targets: Targets, algorithm: AlgorithmConfig, first: bool) -> tuple[dict[str, Tensor], Tensor]:
        head = self.reference.decoder.head
        result, log_probs = self.actor(lambda model: actor_loss(model, rollout, targets, algorithm, head, first))
        norm = self._step(result.loss, self.optimizer, [p for named in self.groups.values() for _, p in named], algorithm.max_grad_norm)
        return {**result.metrics, "loss": result.loss.detach(), "grad_norm": norm}, log_probs

    def _step_critic(self, rollout: Rollout, targets: Targets, algorithm: AlgorithmConfig) -> dict[str, Tensor]:
        result = critic_loss(self.critic, rollout, targets, algorithm)
        norm = self._step(result.loss, self.critic_optimizer, list(self.critic.parameters()), self.config.critic_optimizer.max_grad_norm)
        return {**result.metrics, "critic_grad_norm": norm}

    def _step(self, loss: Tensor, optimizer: Any, parameters: list[torch.nn.Parameter], max_norm: float) -> Tensor:
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"The loss is {float(loss.detach())} in iteration {self.state.iteration + 1}: lower the learning rate; checkpoints stay."
            )
        optimizer.zero_grad()
        if loss.requires_grad:
            self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(parameters, max_norm)
        optimizer.step()
        return torch.as_tensor(norm).detach()

    def _stopped(self) -> bool:
        return self.config.max_iterations is not None and self.state.iteration >= self.config.max_iterations

    def _evaluation_due(self) -> bool:
        done = len(self.state.stage_rewards) + 1
        return done % self.config.evaluation.every == 0 or done >= self.scheduler.stage.iterations

    def _record(self, stage: Stage, metrics: dict[str, Any], held_out: Evaluation | None) -> None:
        """One line of metrics; the stage's rewards are kept for the report."""
        self.state.stage_rewards.append(float(metrics["reward"]))
        line = {"phase": "mrl", "stage": stage.name, "steps": stage.steps, "iteration": self.state.iteration, "tokens": self.state.tokens}
        line |= metrics | {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        if held_out is not None:
            line |= held_out_metrics(held_out)
        self.log.write(line, self._times)
        self._times = {}
        total = self.config.max_iterations or sum(each.iterations for each in self.curriculum.stages)
        for observer in self.observers:
            observer(Progress(self.state.iteration, total, stage, line))

    def _advance(self, stage: Stage, held_out: Evaluation) -> None:
        """Lets the scheduler decide; a stage that ends leaves its row for the report."""
        done = len(self.state.stage_rewards)
        decision = self.scheduler.observe(held_out_metrics(held_out), iterations=done - self.scheduler.iteration)
        if decision.action == "hold":
            return
        strategy = ", ".join(sorted(stage.strategies))
        row = summarise_stage(
            steps=stage.steps, strategy=strategy, records=held_out.records, iterations=done, ended=decision.reason, name=stage.name
        )
        self.state.stages.append(row | {"training_reward": mean_min_max(self.state.stage_rewards)})
        self.state.stage_rewards = []
        self.left = self.reference_left = None

    def _timed(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments)
        self._times[name] = self._times.get(name, 0.0) + time.perf_counter() - started
        return result


def held_out_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Held-out retention and reward as flat numbers; the scheduler's rules name them."""
    asking = [record for record in evaluation.records if record.retention is not None]
    if not asking:
        return {}
    rewards = [record.reward for record in asking if record.reward is not None]
    return {
        "retention": sum(record.retention for record in asking if record.retention is not None) / len(asking),
        "held_out_reward": sum(rewards) / max(1, len(rewards)),
    }


def split_count(count: int, shares: Sequence[float], *key: int | str) -> list[int]:
    """Parts of `count` in proportion to `shares` (which sum to 1), exact on average over the draws that `key` names."""
    offset = derive_seed(*key) / 2**63
    edges = [min(count, math.floor(count * share + offset)) for share in accumulate(shares)]
    return [after - before for before, after in pairwise([0, *edges[:-1], count])]


def mean_min_max(values: Sequence[float]) -> dict[str, float]:
    """Mean, smallest and largest of at least one value."""
    return {"min": min(values), "mean": sum(values) / len(values), "max": max(values)}


def replace_stage(stage: Stage, **changes: Any) -> Stage:
    """The stage with some fields changed."""
    return stage.model_copy(update=changes)


