"""Runs one supervised stage: from a checkpoint (or none) to a checkpoint, resumable, with metrics and validation."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from rxrl.algorithms import LossResult
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import BEST, load_state, numbered, prune, save_checkpoint
from rxrl.runs.optim import make_optimizer, schedule_factor, set_learning_rates, train_only
from rxrl.runs.signals import Interruption
from rxrl.runs.tracking import MetricsLog
from rxrl.stages.config import StageConfig
from rxrl.stages.tasks import SmatTask, StageTask
from rxrl.writing import sweep

Observer = Callable[[str, int, int, dict[str, Any]], None]
"""Called with stage, step, steps in all (where tokens end the stage: as the batches so far let expect) and metrics."""


class StageRunner:
    """The training loop of the supervised stages.

    Args:
        name: Stage, for metrics.
        model: Trained in place.
        tokenizer: Saved with every checkpoint.
        task: What to train.
        config: Steps, optimizer, validation.
        folder: Metrics and resumable checkpoints go here.
        observers: Called at each line of metrics.
        checkpoint_every: Steps between two resumable checkpoints; None: none.
    """

    def __init__(
        self,
        name: str,
        model: ReactiveTransformer,
        tokenizer: Tokenizer,
        task: StageTask,
        config: StageConfig,
        folder: str | Path,
        observers: tuple[Observer, ...] = (),
        checkpoint_every: int | None = None,
    ) -> None:
        self.name, self.model, self.tokenizer, self.task, self.config = name, model, tokenizer, task, config
        self.folder, self.observers, self.checkpoint_every = Path(folder), observers, checkpoint_every
        self.accelerator = Accelerator()
        if self.accelerator.num_processes > 1:
            raise ConfigError(
                f"Supervised stages run in one process, here are {self.accelerator.num_processes}: start them without torchrun; "
                "`rxrl train` shares conversations out."
            )
        self.groups = model.group_parameters()
        self.actor, self.optimizer = self.accelerator.prepare(model, make_optimizer(self.groups, config.optimizer))
        self.log = MetricsLog(self.folder)
        self.step, self.tokens, self.seconds, self.done = 0, 0, 0.0, False
        self.best: tuple[float, float] | None = None
        self.interruption = Interruption()

    def run(self, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
        """Trains to the end of the stage and returns the last validation.

        Args:
            say: Is told what a signal (Ctrl-C, SIGTERM) leads to.

        Raises:
            Interrupted: A signal came; a checkpoint was written.
            TrainingError: Training cannot go on.
        """
        validation: dict[str, Any] = {}
        with self.interruption.watched(say, "step"):
            while not self._finished():
                started = time.perf_counter()
                result, norm = self._step()
                self.seconds += time.perf_counter() - started
                due = self.step % self.config.validate_every == 0 or self._finished()
                if due:
                    validation = self.task.validate(self.model.eval())
                    self._keep_best(validation)
                    self.done = self.task.phase_done(validation)
                if due or self.step % self.config.log_every == 0:
                    self._record(result, norm, validation if due else {})
                if self.interruption.received is not None:
                    path, number = self.save_resumable(), self.interruption.received
                    raise Interrupted(f"Interrupted after step {self.step}: wrote {path}; go on with --resume.", number)
                if self.checkpoint_every and self.step % self.checkpoint_every == 0:
                    self.save_resumable()
        if self.config.finish_with == "best":
            self._take_best()
        return validation

    @property
    def progress(self) -> float:
        """Share of the stage that is done, in [0, 1]: of its steps or of its tokens, whichever is nearer to the end."""
        by_tokens = 0.0 if self.config.max_tokens is None else self.tokens / self.config.max_tokens
        return min(1.0, max(self.step / self.config.most_iterations, by_tokens))

    def save(self, path: str | Path) -> Path:
        """Writes the checkpoint that the next stage starts from."""
        state = {"kind": "stage", "stage": self.name, "step": self.step, "tokens": self.tokens, "log": self.log.position()}
        return save_checkpoint(path, self.model, self.tokenizer, state=state)

    def save_resumable(self) -> Path:
        """Writes a checkpoint that this stage can go on from."""
        state = {
            "kind": "stage-run",
            "stage": self.name,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "done": self.done,
            "task": self.task.state() if isinstance(self.task, SmatTask) else {},
            "log": self.log.position(),
            "best": self.best,
            "config": self.config.saved(),
            "data": self.task.fingerprints(),
        }
        folder = self.checkpoints
        tensors = {"optimizer": self.optimizer.state_dict()}
        path = save_checkpoint(folder / f"step-{self.step:06d}", self.model, self.tokenizer, state=state, tensors=tensors)
        prune(folder, 2)
        return path

    def resume(self, rewind: bool = True) -> bool:
        """Goes on from the newest checkpoint of this stage in the folder; False where there is none.

        Args:
            rewind: Cut the metrics files back to it; false where others have written behind it.
        """
        sweep(self.checkpoints)
        found = numbered(self.checkpoints)
        if not found:
            return False
        state, tensors = load_state(found[-1])
        if state.get("config") != self.config.saved():
            raise CheckpointError(f"{found[-1]} belongs to a stage with another configuration: start anew in another folder.")
        if state["data"] != self.task.fingerprints():
            raise CheckpointError(f"{found[-1]} belongs to a stage on other data: give the same, or start anew in another folder.")
        self.model.load_state_dict(ReactiveTransformer.from_pretrained(found[-1]).state_dict())
        self.optimizer.load_state_dict(tensors["optimizer"])
        self.step, self.tokens, self.done = state["step"], state["tokens"], state["done"]
        self.seconds = state["seconds"]
        self.best = None if state["best"] is None else (state["best"][0], state["best"][1])
        if isinstance(self.task, SmatTask):
            self.task.restore(state["task"])
        if rewind:
            self.log.rewind(state["log"])
        return True

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints of this stage."""
        return self.folder / "checkpoints" / self.name

    def _keep_best(self, validation: dict[str, Any]) -> None:
        """Keeps the weights of the lowest validation loss; longer conversations are harder, so they count before a lower loss."""
        found = (float(validation.get("steps", 0)), -float(validation["loss"]))
        wanted = self.checkpoint_every is not None or self.config.finish_with == "best"
        if not wanted or (self.best is not None and found <= self.best):
            return
        self.best = found
        state = {"kind": "stage-best", "stage": self.name, "step": self.step, "loss": validation["loss"]}
        save_checkpoint(self.checkpoints / f"{BEST}-{self.step:06d}", self.model, self.tokenizer, state=state)
        prune(self.checkpoints, 1, BEST)

    def _take_best(self) -> None:
        if found := numbered(self.checkpoints, BEST):
            self.model.load_state_dict(ReactiveTransformer.from_pretrained(found[-1]).state_dict())

    def _finished(self) -> bool:
        return self.done or self.progress >= 1

    def _step(self) -> tuple[LossResult, torch.Tensor]:
        train_only(self.groups, self.task.groups(self.progress))
        set_learning_rates(self.optimizer, schedule_factor(self.config.optimizer, self.progress))
        result, tokens = self.actor(lambda model: self.task.loss(model.train(), self.step))
        if not bool(torch.isfinite(result.loss)):
            loss = float(result.loss.detach())
            raise TrainingError(f"The loss of stage {self.name} is {loss} at step {self.step + 1}: lower the learning rate.")
        self.optimizer.zero_grad()
        self.accelerator.backward(result.loss)
        norm = self.accelerator.clip_grad_norm_(list(self.model.parameters()), self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.tokens += tokens
        return result, torch.as_tensor(norm).detach()

    def _record(self, result: LossResult, norm: torch.Tensor, validation: dict[str, Any]) -> None:
        line: dict[str, Any] = {"phase": self.name, "iteration": self.step, "tokens": self.tokens, "loss": result.loss.detach()}
        line |= {name: value for name, value in result.metrics.items() if name != "loss"}
        line |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        line |= {f"val_{name}": value for name, value in validation.items()}
        self.log.write(line, {"tokens_per_second": self.tokens / max(self.seconds, 1e-9)})
        for observer in self.observers:
            observer(self.name, self.step, round(self.step / self.progress), line)
