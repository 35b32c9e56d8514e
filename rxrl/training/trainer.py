"""The trainer of Memory Reinforcement Learning: collect, estimate, update, evaluate, and move through the curriculum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from operator import methodcaller
from pathlib import Path
from typing import Any

from torch import Tensor

from rxrl.algorithms import AlgorithmConfig
from rxrl.algorithms.losses import adapted_coefficient
from rxrl.curricula import Curriculum, Stage, StepScheduler
from rxrl.data.sources import EpisodeSource
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ENVIRONMENTS, ConversationVectorEnv
from rxrl.errors import TrainingError
from rxrl.evaluation import Evaluation
from rxrl.evaluation.metrics import summarise_stage
from rxrl.evaluation.play import Playthrough, play_conditions
from rxrl.evaluation.records import keeping_transcripts
from rxrl.models import ReactiveTransformer
from rxrl.policies import ModelPolicy, Oracle
from rxrl.runs.checkpoints import Saved, restoring
from rxrl.runs.folder import RunFolder
from rxrl.runs.processes import Processes
from rxrl.runs.run import Run
from rxrl.runs.trackers import Tracker, open_trackers
from rxrl.runs.tracking import Clock, MetricsLog, TimedPolicy, plain
from rxrl.training.alarms import Alarm, Alarms
from rxrl.training.callbacks import Callback, Progress
from rxrl.training.config import MRLConfig
from rxrl.training.episodes import EnvFactory, Episodes
from rxrl.training.learner import Learner
from rxrl.training.offline import with_accepted
from rxrl.training.rollout import Rollout, collect
from rxrl.training.rules import check_rules, check_signals, check_stages, number_of_groups, stage_algorithm
from rxrl.training.state import TrainerState, mean_min_max
from rxrl.training.step_back import Fall, Guard, Standing, held_out_metrics
from rxrl.types import Policy, RewardFunction


class MRLTrainer:
    """Trains the memory of a Reactive Transformer by reinforcement through a step curriculum.

    Collects only through the public `ConversationVectorEnv`, so a subclass of it trains unmodified.

    Args:
        model: The starting model, trained in place. A frozen copy of it is the reference.
        tokenizer: The tokenizer of the model.
        curriculum: The stages to train.
        source: Conversations to train on.
        held_out: Conversations to evaluate on while training.
        config: Settings of the run.
        folder: Metrics and checkpoints go here; a claimed `RunFolder` where a larger job goes on in it.
        reward: Used in place of `config.reward`.
        env: Class or factory of the environment, takes the arguments of `ConversationVectorEnv`; None: as `config.env` names it.
        callbacks: Notified of training events.
        start: A checkpoint whose critic is loaded where it has one.
        trackers: Where metrics go besides `metrics.jsonl`; None: as `config.tracking` says.

    Attributes:
        config, curriculum, tokenizer, folder: As given.
        processes: This process among those of the training.
        clock: Seconds of each phase.
        learner: Model, critic, reference and optimizers.
        model: The learner's model.
        episodes: Conversations, environments and rewards.
        scheduler: Where the run stands in the curriculum.
        state: Where it stands otherwise; saved with every checkpoint.
        alarms: Watches the metrics.
        guard: Knows the last good weights, and goes back to them.
        run: Its folder, with lock, checkpoints and signals.
        log: `metrics.jsonl`, `timings.jsonl` and the trackers.
        callbacks: Those that are notified; none but in the first process.
        left: Memory that the last episodes of all processes ended with, where others may start from it.
        sounded: The alarm that ends the run after its next checkpoint.
    """

    config: MRLConfig
    curriculum: Curriculum
    tokenizer: Tokenizer
    folder: Path
    processes: Processes
    clock: Clock
    learner: Learner
    model: ReactiveTransformer
    episodes: Episodes
    scheduler: StepScheduler
    state: TrainerState
    alarms: Alarms
    guard: Guard
    run: Run
    log: MetricsLog
    callbacks: tuple[Callback, ...]
    left: Tensor | None = None
    sounded: Alarm | None = None
    _work: Mapping[str, int]
    """Episodes and tokens of the last iteration, for what is done in a second."""

    def __init__(
        self,
        model: ReactiveTransformer,
        tokenizer: Tokenizer,
        *,
        curriculum: Curriculum,
        source: EpisodeSource,
        held_out: EpisodeSource,
        config: MRLConfig,
        folder: str | Path | RunFolder,
        reward: RewardFunction | None = None,
        env: EnvFactory | None = None,
        callbacks: Sequence[Callback] = (),
        start: str | Path | None = None,
        trackers: tuple[Tracker, ...] | None = None,
    ) -> None:
        check_rules(curriculum, held_out, config.evaluation.conversations)
        self.config, self.curriculum, self.tokenizer = config, curriculum, tokenizer
        self.folder = RunFolder.of(folder).path
        self.processes, self.clock = Processes(config.precision), Clock()
        check_stages(curriculum, config, self.processes.count)
        check_signals(curriculum, config, source)
        self.learner = Learner(model, config, self.processes, self.clock, start)
        self.model = self.learner.model
        self.episodes = Episodes(
            self.model,
            self.learner.reference,
            tokenizer,
            curriculum=curriculum,
            source=source,
            held_out=held_out,
            config=config,
            env=env or ENVIRONMENTS.find(config.env),
            reward=reward,
        )
        self.scheduler, self.state, self.alarms = StepScheduler(curriculum), TrainerState(), Alarms(config.alarms)
        self.guard = Guard(config.step_back, config.seed, self.learner)
        self._work = {}
        self.callbacks = tuple(callbacks) if self.processes.first else ()
        if trackers is None:
            trackers = open_trackers(config.tracking, self.folder, config.saved())
        identity = {
            "config": config.saved(),
            "curriculum": curriculum.saved(),
            "conversations": self.episodes.fingerprints(),
        }
        self.run = Run(
            folder, "mrl", "iteration", self.model, tokenizer, self.processes, identity, keep=config.keep_checkpoints, trackers=trackers
        )
        self.log = self.run.log

    def train(self, say: Callable[[str], None] = lambda text: None) -> ReactiveTransformer:
        """Runs the curriculum to its end and returns the trained model.

        Args:
            say: Is told what a signal (Ctrl-C, SIGTERM) leads to.

        Raises:
            CheckpointError: The folder holds another run.
            Interrupted: A signal came; a checkpoint was written.
            RunInUse: Another process writes in the folder.
            TrainingError: Training cannot go on, or an alarm was to stop it.
        """
        with self._running(say):
            while not self.finished:
                stage = self.scheduler.stage
                self._take_stock(stage)
                algorithm = self.begin(stage)
                rollout = self.collect(stage, algorithm)
                targets, metrics = self.learner.estimate(rollout, algorithm)
                metrics |= self.learner.update(rollout, targets, algorithm)
                self._after_update(stage, algorithm, rollout, metrics)
                held_out = self.evaluate(stage) if self._evaluation_due() else None
                fall = self.guard.look(self._standing(held_out))
                self._record(stage, metrics, held_out, fall)
                if held_out is not None:
                    self._advance(stage, self._after(fall, stage) or held_out)
                self._save_or_leave()
        return self.model

    @property
    def finished(self) -> bool:
        """Whether the curriculum has ended, or all iterations are done."""
        limit = self.config.max_iterations
        return self.scheduler.finished or (limit is not None and self.state.iteration >= limit)

    @property
    def total(self) -> int:
        """Iterations at most."""
        whole = sum(stage.iterations for stage in self.curriculum.stages)
        return min(whole, self.config.max_iterations or whole)

    def begin(self, stage: Stage) -> AlgorithmConfig:
        """Freezes what the stage does not train, sets the learning rates, and returns the stage's options of the algorithm."""
        self.learner.prepare(stage, min(1.0, self.state.iteration / self.total), self.guard.rate)
        algorithm, steered = stage_algorithm(stage, self.config), self.state.kl_coefficient
        # The coefficient goes on where it was steered to; a stage with one of its own begins with that.
        begins = "kl" in stage.algorithm and not self.state.stage_iteration
        fixed = algorithm.experimental.adaptive_kl is None or steered is None or begins
        return algorithm if fixed else algorithm.model_copy(update={"kl": steered})

    def collect(self, stage: Stage, algorithm: AlgorithmConfig) -> Rollout:
        """Plays this process's share of the conversations of one iteration with the current policy."""
        state, config, samples = self.state, self.config, algorithm.samples
        with self.clock("collect"), self.processes.autocast():
            count = number_of_groups(stage.episodes or config.episodes, samples)
            conversations = self.episodes.conversations(self.scheduler.stage_index, count, state.iteration, state.positions)
            if not algorithm.algorithm.plays:
                conversations = with_accepted(conversations)
            share = self.processes.share([conversation.id for conversation in conversations])
            env = self.episodes.environment(self.scheduler.stage_index, (share.stop - share.start) * samples)
            rollout = collect(
                env,
                self._policy(env, algorithm),
                conversations,
                seed=config.seed,
                iteration=state.iteration,
                device=self.processes.device,
                left=self.left,
                reset_ratio=stage.reset_ratio_at(state.stage_iteration),
                group_size=samples,
                share=share,
                whole=config.critic == "dialogue",
            )
            played = [each for each in conversations[share.start : share.stop] for _ in range(samples)]
            rollout = self.learner.compared(self.episodes.with_lessons(stage, rollout, played, self.learner.signals))
        self._tell(lambda each: each.on_rollout(rollout))
        return rollout

    def _policy(self, env: ConversationVectorEnv, algorithm: AlgorithmConfig) -> Policy:
        """Who answers while episodes are collected: the model, or the data where the algorithm plays no rollouts."""
        if not algorithm.algorithm.plays:
            return Oracle(env)
        return TimedPolicy(ModelPolicy(self.model.eval(), env.limits.said, temperature=algorithm.temperature), self.clock)

    def evaluate(self, stage: Stage, count: int | None = None, controls: Sequence[str] = ()) -> Evaluation:
        """Plays held-out conversations of a stage, greedy, always from fresh memory and without teacher forcing."""
        evaluation = self._play_held_out(stage, count, controls)
        self._tell(lambda each: each.on_evaluation(evaluation))
        return evaluation

    def _play_held_out(self, stage: Stage, count: int | None = None, controls: Sequence[str] = ()) -> Evaluation:
        with self.clock("evaluate"), self.processes.autocast():
            conversations = self.episodes.to_evaluate(stage, count or self.config.evaluation.conversations)
            share = self.processes.share([conversation.id for conversation in conversations])
            mine = conversations[share.start : share.stop]
            env = self.episodes.evaluation_environment(stage, mine)
            policy = ModelPolicy(self.model.eval(), env.limits.said)
            played = play_conditions(env, policy, mine, seed=self.config.seed, controls=controls)
            whole = {name: _joined(self.processes.objects([records])) for name, records in played.items()}
            return Evaluation.of(whole, seed=self.config.seed, resamples=200)

    def save(self) -> Path:
        """Writes a checkpoint that the run can resume from, and drops older ones."""
        state = {
            "trainer": asdict(self.state),
            "scheduler": self.scheduler.state_dict(),
            "alarms": self.alarms.state_dict(),
            "step_back": self.guard.state_dict(),
        }
        tensors = {"left": self.left, "good": self.guard.weights, **self.learner.state_dict()}
        critic = self.learner.trained_critic
        with self.clock("save"):
            path = self.run.save(self.state.iteration, state, tensors, [] if critic is None else [critic])
        self._tell(lambda each: each.on_checkpoint(path))
        return path

    def save_result(self, path: str | Path) -> Path:
        """Writes the weights, to start from."""
        state = {"iteration": self.state.iteration, "tokens": self.state.tokens}
        return self.run.save_weights(Path(path), "result", state, self.learner.trained_critic)

    def resume(self, path: str | Path | None = None, rewind: bool = True) -> bool:
        """Goes on from a checkpoint of this run, the newest by default; False where there is none.

        Args:
            path: Checkpoint of this run; those behind it are then kept as `abandoned-...`.
            rewind: Cut the metrics files back to it; false where others have written behind it.

        Raises:
            CheckpointError: It belongs to another run, or is broken, or was written by another version.
            RunInUse: Another process writes in the folder.
        """
        found = self.run.resume(path, rewind)
        if found is None:
            return False
        checkpoint, state, tensors = found
        with restoring(checkpoint):
            self.learner.load_state_dict(tensors, checkpoint)
            self.left = None if tensors["left"] is None else tensors["left"].to(self.processes.device)
            self.state = TrainerState.of(Saved(state["trainer"], state.file))
            self.scheduler.load_state_dict(state["scheduler"])
            self.alarms.load_state_dict(Saved(state["alarms"], state.file))
            self.guard.load_state_dict(Saved(state["step_back"], state.file), tensors["good"])
        return True

    @contextmanager
    def _running(self, say: Callable[[str], None]) -> Iterator[None]:
        unscored = "transcripts.unscored.jsonl" if self.processes.first else f"transcripts.unscored.{self.processes.rank}.jsonl"
        with self.run.running(say, resumed=self.state.iteration > 0), keeping_transcripts(self.folder / unscored):
            self._tell(lambda each: each.on_start(self))
            yield
            self._tell(lambda each: each.on_end(self))

    def _after_update(self, stage: Stage, algorithm: AlgorithmConfig, rollout: Rollout, metrics: dict[str, Any]) -> None:
        """Takes note of an iteration, steers the coefficient of the KL, and keeps the memory that others may start from."""
        self.state.iteration += 1
        self.state.tokens += (tokens := sum(self.processes.objects([rollout.tokens])))
        self._work = {"episodes": rollout.share.total, "tokens": tokens}
        self.left = self.processes.rows(rollout.left, dim=1) if stage.reset_ratio < 1 else None
        self.learner.carry(stage.reset_ratio < 1)
        steering = algorithm.experimental
        if steering.adaptive_kl is not None:
            kl, target = float(metrics["kl"]), steering.adaptive_kl
            metrics["kl_coefficient"] = algorithm.kl
            self.state.kl_coefficient = adapted_coefficient(algorithm.kl, kl, target, steering.adaptive_rate)
        if self.callbacks:
            told = {name: plain(value) for name, value in metrics.items()}
            self._tell(lambda each: each.on_update(told))

    def _evaluation_due(self) -> bool:
        done = self.state.stage_iteration + 1
        return done % self.config.evaluation.every == 0 or done >= self.scheduler.stage.iterations or self.finished

    def _standing(self, held_out: Evaluation | None) -> Standing | None:
        return None if held_out is None else Standing.of(held_out, self.state.iteration)

    def _take_stock(self, stage: Stage) -> None:
        """Where a stage begins, plays its held-out conversations: what it begins with may be the best that it sees."""
        if self.guard.begins(index := self.scheduler.stage_index):
            standing = self._standing(self._play_held_out(stage))
            self.guard.begin(index, standing)
            self._keep_best(stage, index, standing)

    def _after(self, fall: Fall | None, stage: Stage) -> Evaluation | None:
        """After a step back: drops the memory that weights of no use have written, and returns how the good ones do."""
        if fall is None or fall.back_to is None:
            return None
        self.left = None
        self.learner.carry(False)
        return self._play_held_out(stage)

    def _settle(self, stage: Stage, index: int, held_out: Evaluation) -> Evaluation:
        """The run has ended: no worse than it began. Returns how the weights do that it ends with."""
        fall = self.guard.settle(self._standing(held_out), lambda: Standing.of(self._play_held_out(stage), 0))
        if fall is None:
            return held_out
        self._sound([fall.alarm], stage)
        self._keep_best(stage, index, self.guard.good)
        return self._after(fall, stage) or held_out

    def _record(self, stage: Stage, metrics: dict[str, Any], held_out: Evaluation | None, fall: Fall | None) -> None:
        """One line of metrics; the stage's rewards are kept for the report."""
        state = self.state
        reward = float(metrics["reward"])
        state.stage_rewards.append(reward if math.isfinite(reward) else None)
        line = {"phase": "mrl", "stage": stage.name, "steps": stage.steps, "iteration": state.iteration, "tokens": state.tokens}
        line |= metrics | {"learning_rate": self.learner.optimizer.param_groups[0]["lr"]}
        if held_out is not None:
            line |= held_out_metrics(held_out)
        begun = self.alarms.observe({name: plain(value) for name, value in line.items()})
        if fall is not None:
            begun = [*begun, fall.alarm]
            line |= {} if fall.back_to is None else {"stepped_back_to": fall.back_to}
        if active := self.alarms.active | {alarm.name for alarm in begun}:
            line["alarms"] = sorted(active)
        written = self.log.write(line, self._times())
        self._tell(lambda each: each.on_iteration(Progress("mrl", state.iteration, self.total, written, stage)))
        self._sound(begun, stage)
        self.sounded = begun[0] if begun and self.config.alarms.stop else None

    def _sound(self, alarms: Sequence[Alarm], stage: Stage) -> None:
        for alarm in alarms:
            self.state.alarms.append({"iteration": self.state.iteration, "stage": stage.name, **asdict(alarm)})
            self._tell(methodcaller("on_alarm", alarm))

    def _times(self) -> dict[str, float]:
        """Seconds by phase, and episodes and tokens in a second of collecting and training."""
        seconds = self.clock.take()
        busy = sum(seconds.get(phase, 0.0) for phase in ("collect", "estimate", "update"))
        return seconds | {f"{name}_per_second": count / max(busy, 1e-9) for name, count in self._work.items()}

    def _advance(self, stage: Stage, held_out: Evaluation) -> None:
        """Lets the scheduler decide; a stage that ends leaves its row for the report."""
        seen, done = held_out_metrics(held_out), self.state.stage_iteration
        index = self.scheduler.stage_index
        self._keep_best(stage, index, self._standing(held_out))
        decision = self.scheduler.observe(seen, iterations=done - self.scheduler.iteration)
        if decision.action == "hold" and not self.finished:
            return
        if self.finished:
            held_out = self._settle(stage, index, held_out)
        ended = decision.reason if decision.action != "hold" else f"the run's {self.config.max_iterations} iterations were done"
        strategy = ", ".join(sorted(stage.strategies))
        row = summarise_stage(steps=stage.steps, strategy=strategy, records=held_out.records, iterations=done, ended=ended, name=stage.name)
        row |= {"training_reward": mean_min_max(self.state.stage_rewards)}
        self.state.stages.append(row)
        self.state.stage_rewards = []
        self.left = None
        self.learner.carry(False)
        self._tell(lambda each: each.on_stage_end(row))

    def _keep_best(self, stage: Stage, index: int, standing: Standing | None) -> None:
        """Keeps the weights with the best held-out retention (reward, where users react or nothing asks for facts).

        A later stage is harder, so it counts before a better number.
        """
        if not self.config.keep_best or standing is None:
            return
        state = {"iteration": standing.iteration, "stage": stage.name, standing.name: standing.mean}
        with self.clock("save"):
            self.run.save_best(self.state.iteration, (index, standing.mean), state, self.learner.trained_critic)

    def _save_or_leave(self) -> None:
        """Writes a checkpoint where one is due; leaves after it where a signal or an alarm says so."""
        signalled = self.run.interrupted
        if not (signalled or self.sounded or self.finished or self.state.iteration % self.config.checkpoint_every == 0):
            return
        path = self.save()
        if signalled:
            self.run.leave(self.state.iteration, path)
        if self.sounded:
            raise TrainingError(f"Stopped by the alarm {self.sounded.name!r}: {self.sounded.message} Wrote {path}.")

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for each in self.callbacks:
            call(each)


def _joined(parts: Sequence[Playthrough]) -> Playthrough:
    """One playthrough of those of all processes, in order; costs are the first one's."""
    return Playthrough((record for part in parts for record in part), parts[0].costs, sum(part.left_out for part in parts))
