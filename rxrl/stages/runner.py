"""Runs one supervised stage: from a checkpoint (or none) to a checkpoint, resumable, with metrics and validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rxrl.algorithms import LossResult
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError
from rxrl.models import ReactiveTransformer
from rxrl.runs.callbacks import Progress, RunCallback
from rxrl.runs.checkpoints import STATE_FILE, Saved, restoring
from rxrl.runs.folder import RunFolder
from rxrl.runs.optim import make_optimizer, schedule_factor, set_learning_rates, train_only
from rxrl.runs.processes import Processes
from rxrl.runs.run import Run, check_finite
from rxrl.stages.config import StageConfig
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
        self.callbacks, self.checkpoint_every = tuple(callbacks), checkpoint_every
        self.processes = Processes()
        if self.processes.count > 1:
            raise ConfigError(
                f"Supervised stages run in one process, here are {self.processes.count}: start them without torchrun; "
                "`rxrl train` shares conversations out."
            )
        self.model = model.to(self.processes.device)
        self.groups = model.group_parameters()
        self.optimizer = make_optimizer(self.groups, config.optimizer)
        identity = {"config": config.saved(), "conversations": task.fingerprints()}
        self.run = Run(folder, "stage", "step", model, tokenizer, self.processes, identity, part=name)
        self.log = self.run.log
        self.step, self.tokens, self.seconds, self.done = 0, 0, 0.0, False

    def train(self, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        """Trains to the end of the stage and returns the last validation.

        Args:
            say: Is told what a signal (Ctrl-C, SIGTERM) leads to.

        Raises:
            CheckpointError: The folder holds checkpoints of another run of this stage.
            Interrupted: A signal came; a checkpoint was written.
            RunInUse: Another process writes in the folder.
            TrainingError: Training cannot go on.
        """
        validation: dict[str, Any] = {}
        with self.run.running(say, resumed=self.step > 0):
            self._tell(lambda each: each.on_start(self))
            while not self.finished:
                started = time.perf_counter()
                result, norm = self._step()
                self.seconds += time.perf_counter() - started
                due = self.step % self.config.validate_every == 0 or self.finished
                if due:
                    validation = self.task.validate(self.model.eval())
                    self._keep_best(validation)
                    self.done = self.task.phase_done(validation)
                if due or self.step % self.config.log_every == 0:
                    self._record(result, norm, validation if due else {})
                if self.run.interrupted:
                    self.run.leave(self.step, self.save_resumable())
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save_resumable()
            self._tell(lambda each: each.on_end(self))
        if self.config.finish_with == "best":
            self.run.take_best()
        return validation

    def complete(self, resume: bool, say: Callable[[str], None] = lambda text: None) -> None:
        """Trains the stage as a part of a larger job, and leaves the checkpoint of its end beside the resumable ones.

        Args:
            resume: Load what the stage ended with, or go on from its newest checkpoint, where the folder has them.
            say: See `train`.
        """
        if resume and (self.checkpoints / STATE_FILE).exists():
            self.model.load_state_dict(ReactiveTransformer.from_pretrained(self.checkpoints).state_dict())
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
        """Writes the checkpoint that the next stage starts from."""
        return self.run.save_weights(Path(path), "result", {"stage": self.name, "step": self.step, "tokens": self.tokens})

    def save_resumable(self) -> Path:
        """Writes a checkpoint that this stage can resume from."""
        state = {
            "stage": self.name,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "done": self.done,
            "task": self.task.state() if isinstance(self.task, SmatTask) else {},
        }
        path = self.run.save(self.step, state, {"optimizer": self.optimizer.state_dict()})
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
            self.model.load_state_dict(ReactiveTransformer.from_pretrained(path).state_dict())
            self.optimizer.load_state_dict(tensors["optimizer"])
            self.step, self.tokens, self.done = int(state["number"]), int(state["tokens"]), bool(state["done"])
            self.seconds = float(state["seconds"])
            if isinstance(self.task, SmatTask):
                self.task.restore(Saved(state["task"], state.file))
        return True

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of this stage."""
        return self.run.checkpoints

    def _keep_best(self, validation: dict[str, Any]) -> None:
        """Keeps the weights of the lowest validation loss; longer conversations are harder, so they count before a lower loss."""
        if self.checkpoint_every is not None or self.config.finish_with == "best":
            score = (float(validation.get("steps", 0)), -float(validation["loss"]))
            self.run.save_best(self.step, score, {"stage": self.name, "loss": validation["loss"]})

    def _step(self) -> tuple[LossResult, torch.Tensor]:
        train_only(self.groups, self.task.groups(self.progress))
        set_learning_rates(self.optimizer, schedule_factor(self.config.optimizer, self.progress))
        with self.processes.autocast():
            result, tokens = self.model(lambda model: self.task.loss(model.train(), self.step))
        check_finite(result.loss, f"The loss of stage {self.name} at step {self.step + 1}")
        self.optimizer.zero_grad()
        result.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(self.model.parameters()), self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.tokens += tokens
        return result, norm.detach()

    def _record(self, result: LossResult, norm: torch.Tensor, validation: dict[str, Any]) -> None:
        line: dict[str, Any] = {"phase": self.name, "iteration": self.step, "tokens": self.tokens, "loss": result.loss.detach()}
        line |= {name: value for name, value in result.metrics.items() if name != "loss"}
        line |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        line |= {f"val_{name}": value for name, value in validation.items()}
        written = self.log.write(line, {"tokens_per_second": self.tokens / max(self.seconds, 1e-9)})
        progress = Progress(self.name, self.step, round(self.step / self.progress), written)
        self._tell(lambda each: each.on_iteration(progress))

    def _tell(self, call: Callable[[RunCallback], None]) -> None:
        for each in self.callbacks:
            call(each)
