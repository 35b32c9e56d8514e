"""Runs one supervised stage: from a checkpoint (or none) to a checkpoint, resumable, with metrics and validation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from rxrl.algorithms import LossResult
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.runs.averaging import MovingAverage
from rxrl.runs.callbacks import Progress, RunCallback
from rxrl.runs.checkpoints import STATE_FILE, Saved, restoring
from rxrl.runs.folder import RunFolder
from rxrl.runs.optim import make_optimizer, schedule_factor, set_learning_rates, train_only
from rxrl.runs.processes import Processes, Share
from rxrl.runs.run import Run, check_finite
from rxrl.runs.sharding import freeze_alike, gathered, gathered_model, is_sharded, load_optimizer, load_weights, shard
from rxrl.runs.trackers import open_trackers
from rxrl.stages.batches import RouterCounts, StageBatch, Whole, share_of, sum_of_parts
from rxrl.stages.config import StageConfig
from rxrl.stages.pace import Pace, compile_layers
from rxrl.stages.tasks import SmatTask, StageTask


class StageRunner:
    """The training loop of the supervised stages.

    Args:
        name: Stage, for metrics.
        model: Trained in place.
        tokenizer: Saved with every checkpoint.
        task: What to train.
        config: Steps, optimizer, validation.
        folder: Metrics and resumable checkpoints go here; a claimed `RunFolder` where a larger job goes on in it.
        callbacks: Notified of events.
        checkpoint_every: Steps between two resumable checkpoints; None: none.
    """

    def __init__(
        self,
        name: str,
        model: ReactiveTransformer,
        tokenizer: Tokenizer,
        task: StageTask,
        config: StageConfig,
        folder: str | Path | RunFolder,
        callbacks: Sequence[RunCallback] = (),
        checkpoint_every: int | None = None,
    ) -> None:
        self.name, self.task, self.config = name, task, config
        self.processes = Processes(config.precision)
        self.callbacks, self.checkpoint_every = tuple(callbacks) if self.processes.first else (), checkpoint_every
        self.model = model.to(self.processes.device)
        if config.compile:
            compile_layers(self.model)
        if config.shard and self.processes.count > 1:
            shard(self.model, self.processes)
        self.groups = model.group_parameters()
        self.optimizer = make_optimizer(self.groups, config.optimizer)
        self.average = None if config.ema is None else MovingAverage(self.model, config.ema)
        identity: dict[str, Any] = {"config": config.saved(), "conversations": task.fingerprints()}
        claimed = RunFolder.of(folder)
        trackers = open_trackers(config.tracking, claimed.path, identity["config"]) if self.processes.first else ()
        self.run = Run(claimed, "stage", "step", model, tokenizer, self.processes, identity, part=name, trackers=trackers)
        self.log, self.pace = self.run.log, Pace()
        self.step, self.tokens, self.done = 0, 0, False
        self._learns: list[bool] = []

    def train(self, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        """Trains to the end of the stage and returns the last validation.

        Args:
            say: Is told what a signal (Ctrl-C, SIGTERM) leads to, and where the stage ends short of what it looks for.

        Raises:
            CheckpointError: The folder holds checkpoints of another run of this stage.
            Interrupted: A signal came; a checkpoint was written.
            RunInUse: Another process writes in the folder.
            TrainingError: Training cannot go on.
        """
        validation: dict[str, Any] = {}
        with self.run.running(say, resumed=self.step > 0):
            self._tell(lambda each: each.on_start(self))
            self.pace.start()
            while not self.finished:
                result, norm = self.take_step()
                due = self.step % self.config.validate_every == 0 or self.finished
                if due:
                    with self._weights_to_keep():
                        validation = self._validate()
                        self._keep_best(validation)
                    self.done = self.task.phase_done(validation)
                if due or self.step % self.config.log_every == 0:
                    self._record(result, norm, validation if due else {})
                if self.run.interrupted:
                    self.run.leave(self.step, self.save_resumable())
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save_resumable()
            self._tell(lambda each: each.on_end(self))
        if (short := self._short(validation)) is not None:
            say(short)
        self.processes.wait()
        if self.config.finish_with == "best":
            self.run.take_best()
        elif self.average is not None:
            self.average.take()
        return validation

    def complete(self, resume: bool, say: Callable[[str], None] = lambda text: None) -> None:
        """Trains the stage as a part of a larger job, and leaves the checkpoint of its end beside the resumable ones.

        Args:
            resume: Load what the stage ended with, or go on from its newest checkpoint, where the folder has them.
            say: See `train`.
        """
        if resume and (self.checkpoints / STATE_FILE).exists():
            load_weights(self.model, ReactiveTransformer.from_pretrained(self.checkpoints).state_dict())
            return
        if resume:
            self.resume(rewind=False)
        self.train(say)
        self.save(self.checkpoints)

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1]: of its steps or of its tokens, whichever is nearer to the end."""
        by_tokens = 0.0 if self.config.max_tokens is None else self.tokens / self.config.max_tokens
        return min(1.0, max(self.step / self.config.most_iterations, by_tokens))

    @property
    def finished(self) -> bool:
        """Whether the stage has reached its end."""
        return self.done or self.progress >= 1

    def save(self, path: str | Path) -> Path:
        """Writes the checkpoint that the next stage starts from; the first process writes, the others wait."""
        self.run.save_weights(Path(path), "result", {"stage": self.name, "step": self.step, "tokens": self.tokens})
        self.processes.wait()
        return Path(path)

    def save_resumable(self) -> Path:
        """Writes a checkpoint that this stage can resume from."""
        state = {
            "stage": self.name,
            "tokens": self.tokens,
            "done": self.done,
            "task": self.task.state() if isinstance(self.task, SmatTask) else {},
        }
        average = {} if self.average is None else {"ema": self.average.state()}
        path = self.run.save(self.step, state, gathered({"optimizer": self.optimizer.state_dict(), **average}))
        self._tell(lambda each: each.on_checkpoint(path))
        return path

    def resume(self, rewind: bool = True) -> bool:
        """Goes on from the newest checkpoint of this stage in the folder; False where there is none.

        Args:
            rewind: Cut the metrics files back to it; false where others have written behind it.
        """
        found = self.run.resume(rewind=rewind)
        if found is None:
            return False
        path, state, tensors = found
        with restoring(path):
            load_weights(self.model, ReactiveTransformer.from_pretrained(path).state_dict())
            load_optimizer(self.optimizer, tensors["optimizer"])
            if self.average is not None:
                self.average.restore(tensors["ema"])
            self.step, self.tokens, self.done = int(state["number"]), int(state["tokens"]), bool(state["done"])
            if isinstance(self.task, SmatTask):
                self.task.restore(Saved(state["task"], state.file))
        return True

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of this stage."""
        return self.run.checkpoints

    def _short(self, validation: dict[str, Any]) -> str | None:
        """What to say where the stage ends before it answers as much as its configuration asks for."""
        wanted, right = getattr(self.config, "accuracy", None), validation.get("asking_accuracy")
        if wanted is None or right is None or right >= wanted:
            return None
        return (
            f"Stage {self.name} ended with {right:.3f} of the validation answers right, below its accuracy of {wanted:g}: what it has not "
            "learned to read, memory will not hold. Raise its iterations."
        )

    def _weights_to_keep(self) -> AbstractContextManager[None]:
        """The weights that validate and that the stage ends with: the average, where there is one."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _keep_best(self, validation: dict[str, Any]) -> None:
        """Keeps the weights of the lowest validation loss; what is longer or later counts before a lower loss."""
        if self.checkpoint_every is not None or self.config.finish_with == "best":
            score = (float(validation.get("steps", validation.get("part", 0))), -float(validation["loss"]))
            self.run.save_best(self.step, score, {"stage": self.name, "loss": validation["loss"]})

    def _validate(self) -> dict[str, Any]:
        """Validates in every process; what the first one finds counts for all."""
        with self.pace("model"):
            found = self.task.validate(gathered_model(self.model).eval(), self.progress)
        return found if self.processes.count == 1 else self.processes.objects([found])[0]

    def take_step(self) -> tuple[LossResult, torch.Tensor]:
        """One optimizer step; returns the loss of this process's rows and the norm of the gradients of all."""
        progress = self.progress
        self._freeze(progress)
        set_learning_rates(self.optimizer, schedule_factor(self.config.optimizer, self.task.schedule(progress)))
        with self.pace("data"):
            share = share_of(self.task.size(self.step), self.processes)
            batch = self.task.take(self.step, share, progress, self.processes.largest)
        with self.pace("model"):
            result, tokens = self._backward(batch)
            if not is_sharded(self.model):
                self.processes.average_gradients(self.model.parameters())
            norm = gathered(torch.nn.utils.clip_grad_norm_(list(self.model.parameters()), self.config.optimizer.max_grad_norm))
            self.optimizer.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        self.tokens += tokens
        self.pace.add(tokens)
        sizes = {name: result.loss.new_tensor(count) for name, count in (("tokens", batch.tokens), ("positions", batch.positions))}
        return LossResult(result.loss, {**result.metrics, **sizes}), norm.detach()

    def _freeze(self, progress: float) -> None:
        """Freezes what does not learn at `progress` in [0, 1] of the stage."""
        train_only(self.groups, self.task.groups(progress))
        for parameter in self.task.frozen(self.model, progress):
            parameter.requires_grad_(False)
        learns = [parameter.requires_grad for parameter in self.model.parameters()]
        if is_sharded(self.model) and learns != self._learns:
            freeze_alike(self.model)
            self._learns = learns

    def _backward(self, batch: StageBatch) -> tuple[LossResult, int]:
        """Gradients of a batch, part by part; returns its loss in this process, and its tokens in all of them."""
        self.optimizer.zero_grad()
        # As many in every process: each pass gathers divided weights, which all must do together.
        parts = batch.parts(min(self.config.accumulation, batch.share.total // self.processes.count))
        whole, tokens = self._whole(batch, parts)
        results = []
        for part in parts:
            with self.processes.autocast():
                result = self.model(lambda model: batch.loss(model.train(), part, whole))  # noqa: B023 - called at once
            check_finite(result.loss, f"The loss of stage {self.name} at step {self.step + 1}")
            result.loss.backward()
            results.append(LossResult(result.loss.detach(), result.metrics))
        return sum_of_parts(results), tokens

    def _whole(self, batch: StageBatch, parts: Sequence[Share]) -> tuple[Whole | None, int]:
        """What the loss on a part is told of the whole batch, and its tokens in all processes; None where there is one part.

        Experts need the router's counts of the whole batch before the first backward pass. Several parts of one process are therefore
        counted by a forward pass without gradients; processes with one part each exchange them within it.
        """
        if self.processes.count == 1 and self.config.accumulation == 1:
            return None, batch.tokens
        each = [batch.counts(self.model, part) for part in parts]
        names = sorted(each[0])
        own = [torch.stack([counts[name].double() for counts in each]).sum(0).reshape(-1) for name in names]
        flat = torch.cat([*own, torch.tensor([float(batch.tokens)], dtype=torch.float64, device=own[0].device)])
        *sums, tokens = torch.split_with_sizes(self.processes.mean(flat), [*(len(value) for value in own), 1])
        totals = {name: value.reshape(each[0][name].shape) for name, value in zip(names, sums, strict=True)}
        tokens_of_all = round(float(tokens) * self.processes.count)
        if self.config.accumulation == 1:
            return Whole(totals, self.processes.mean), tokens_of_all
        if not self.config.balance or self.model.config.decoder.experts == 1:
            return Whole(totals), tokens_of_all
        router = RouterCounts()
        with self.processes.autocast(), torch.no_grad():
            for part in parts:
                self.model(lambda model: batch.loss(model.train(), part, Whole(totals, router.count)))  # noqa: B023 - called at once
        return Whole(totals, router.reduced(self.processes.mean)), tokens_of_all

    def _record(self, result: LossResult, norm: torch.Tensor, validation: dict[str, Any]) -> None:
        metrics = self.processes.metrics({name: value for name, value in result.metrics.items() if name != "loss"}, ())
        metrics["padding_share"] = 1 - metrics.pop("tokens") / metrics.pop("positions")
        loss = self.processes.metrics({"loss": result.loss.detach()}, ())
        line: dict[str, Any] = {"phase": self.name, "iteration": self.step, "tokens": self.tokens, **loss, **metrics}
        line |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        line |= {f"val_{name}": value for name, value in validation.items()}
        times = self.pace.take()
        written = self.log.write(line, times)
        progress = Progress(self.name, self.step, round(self.step / self.progress), written, times=times)
        self._tell(lambda each: each.on_iteration(progress))

    def _tell(self, call: Callable[[RunCallback], None]) -> None:
        for each in self.callbacks:
            call(each)
