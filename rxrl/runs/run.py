"""A run: what every training does in its folder, whatever it trains."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rxrl.allocation import keep_freed_memory
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError, Interrupted, TrainingError, some_of
from rxrl.models import ReactiveTransformer
from rxrl.runs.checkpoints import BEST, STEP, Saved, abandon_later, load_state, numbered, prune, restoring, save_checkpoint
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import WATCHING, absolute_paths, code_files, differences, edited_files, moved_code
from rxrl.runs.processes import Processes
from rxrl.runs.sharding import gathered_model, load_weights
from rxrl.runs.signals import Interruption
from rxrl.runs.trackers import Tracker
from rxrl.runs.tracking import MetricsLog

FORMAT = 5
_OTHER = {"config": "with another configuration", "curriculum": "with another curriculum", "conversations": "on other conversations"}
_logger = logging.getLogger(__name__)


class Run:
    """The folder of a training, with its lock, metrics, trackers and signals; checkpoints to resume from, and the best weights.

    Args:
        folder: Of the run; a claimed `RunFolder` where a larger job goes on in it.
        kind: Kind of training; no other kind resumes from its checkpoints.
        unit: What is finished before a signal ends the training, such as `iteration`.
        model: Saved with every checkpoint.
        tokenizer: Saved with every checkpoint.
        processes: Those of the training; the first one writes.
        identity: What must be the same when the run resumes: plain values under `config`, `conversations` and perhaps `curriculum`.
        part: Part of a larger job, whose checkpoints have a folder of their own.
        keep: Checkpoints to resume from that are kept.
        trackers: Where metrics go besides `metrics.jsonl`.

    Attributes:
        best: What the best weights so far were best by, in order of importance.
    """

    def __init__(
        self,
        folder: str | Path | RunFolder,
        kind: str,
        unit: str,
        model: ReactiveTransformer,
        tokenizer: Tokenizer,
        processes: Processes,
        identity: Mapping[str, Any],
        *,
        part: str = "",
        keep: int = 2,
        trackers: tuple[Tracker, ...] = (),
    ) -> None:
        self.folder, self.kind, self.unit, self.processes, self.keep = RunFolder.of(folder), kind, unit, processes, keep
        if getattr(tokenizer, "template", False) != model.config.template:
            raise CheckpointError(
                "Only one of model and tokenizer has the markers of the interaction template: make the model with the settings "
                "that the tokenizer gives it (`Tokenizer.model_settings`)."
            )
        self.model, self.tokenizer = model, tokenizer
        self.checkpoints = self.folder.path / "checkpoints" / part
        self.identity = absolute_paths(identity)
        self.code = code_files(self.identity)
        self.log = MetricsLog(self.folder.path, trackers, writes=processes.first)
        self.best: tuple[float, ...] | None = None
        self._interruption = Interruption()
        self._tracker_ids: dict[str, str] = {}

    @contextmanager
    def running(self, say: Callable[[str], None], resumed: bool) -> Iterator[None]:
        """Claims the folder, opens the trackers, listens for signals and keeps freed memory for the next tensors.

        Args:
            say: Is told what a signal leads to.
            resumed: Whether the training goes on from a checkpoint.

        Raises:
            CheckpointError: The folder holds checkpoints of another run, which would outlive those of this one.
            RunInUse: Another process writes there.
        """
        with self.folder.claimed(self.processes.first):
            if not resumed and numbered(self.checkpoints):
                raise CheckpointError(
                    f"{self.folder.path} holds the checkpoints of a run, but this one starts anew: go on with it (--resume, in Python "
                    "`resume()`) or give another folder."
                )
            keep_freed_memory()
            try:
                self.log.open(self._tracker_ids)
                with self._interruption.watched(say, self.unit):
                    yield
            finally:
                self.log.close()

    def save(self, number: int, state: Mapping[str, Any], tensors: Mapping[str, Any], modules: Sequence[nn.Module] = ()) -> Path:
        """Writes a checkpoint that the run can resume from, and drops older ones; the first process writes, the others wait.

        Args:
            number: Of the iteration or step.
            state: Plain values: where the training stands.
            tensors: Optimizer states and other values that hold tensors.
            modules: What is trained besides the model; the first one is saved as the critic.
        """
        path, model = self.checkpoints / f"{STEP}-{number:06d}", gathered_model(self.model)
        self.processes.check_alike([model, *modules])
        if self.processes.first:
            envelope = {
                "kind": self.kind,
                "format": FORMAT,
                "number": number,
                "log": self.log.position(),
                "trackers": self.log.tracker_ids(),
                "best": self.best,
                "code": self.code,
            }
            critic = next(iter(modules), None)
            save_checkpoint(path, model, self.tokenizer, state={**envelope, **self.identity, **state}, tensors=tensors, critic=critic)
            prune(self.checkpoints, self.keep)
        self.processes.wait()
        return path

    def save_best(self, number: int, score: Sequence[float], state: Mapping[str, Any], critic: nn.Module | None = None) -> bool:
        """Keeps the current weights in place of the best so far, where `score` is higher; returns whether it was."""
        if self.best is not None and tuple(score) <= self.best:
            return False
        self.best = tuple(map(float, score))
        self.save_weights(self.checkpoints / f"{BEST}-{number:06d}", "best", {"number": number, **state}, critic)
        if self.processes.first:
            prune(self.checkpoints, 1, BEST)
        return True

    def save_weights(self, path: Path, kind: str, state: Mapping[str, Any], critic: nn.Module | None = None) -> Path:
        """Writes the current weights, to start from; `kind` says what they are. All processes call it, the first one writes."""
        model = gathered_model(self.model)
        if self.processes.first:
            kept = {"kind": f"{self.kind}-{kind}", "log": self.log.position()}
            save_checkpoint(path, model, self.tokenizer, state={**kept, **state}, critic=critic)
        return path

    def take_best(self) -> None:
        """Replaces the weights by the best so far, where some were kept."""
        if found := numbered(self.checkpoints, BEST):
            load_weights(self.model, ReactiveTransformer.from_pretrained(found[-1]).state_dict())

    def resume(self, path: str | Path | None = None, rewind: bool = True) -> tuple[Path, Saved, Saved] | None:
        """Reads the state to go on from.

        Args:
            path: Checkpoint of this run, the newest by default; those behind it are then kept as `abandoned-...`.
            rewind: Cut the metrics files back to it; false where others have written behind it.

        Returns:
            Checkpoint, plain values and tensors; None where there is no checkpoint.

        Raises:
            CheckpointError: It belongs to another run, or is broken, or was written by another version.
            RunInUse: Another process writes there.
        """
        with self.folder.claimed(self.processes.first):
            # Only now is a replacement that was killed half-way undone.
            self.processes.wait()
            found = numbered(self.checkpoints) if path is None else [Path(path)]
            if not found:
                return None
            state, tensors = load_state(found[-1])
            with restoring(found[-1]):
                self._check(found[-1], state)
                if self.processes.first and path is not None:
                    abandon_later(self.checkpoints, int(state["number"]))
                if self.processes.first:
                    # A kill may have come between a checkpoint and this.
                    prune(self.checkpoints, self.keep)
                self.processes.wait()
                self._tracker_ids = state["trackers"]
                self.best = None if state["best"] is None else tuple(map(float, state["best"]))
                if rewind:
                    self.log.rewind(state["log"])
        return found[-1], state, tensors

    @property
    def interrupted(self) -> bool:
        """Whether a signal has come, in any process."""
        return self.processes.any(self._interruption.received is not None)

    def leave(self, number: int, path: Path) -> None:
        """Ends the training after a signal, in good order.

        Raises:
            Interrupted: Always; with the number of the signal.
        """
        received = self._interruption.received or signal.SIGTERM
        raise Interrupted(f"Interrupted after {self.unit} {number}: wrote {path}; go on with --resume.", received)

    def _check(self, path: Path, state: Saved) -> None:
        """Refuses a checkpoint that this run cannot go on from, and tells of code that was edited since."""
        if state.get("kind") != self.kind:
            raise CheckpointError(f"{path} belongs to another kind of training than this one: start from it with --from.")
        if state["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {state['format']}, this version of rxrl reads {FORMAT}: start from it with --from.")
        for name, given in self.identity.items():
            saved = moved_code(state[name], state["code"], self.code)
            if saved == given:
                continue
            named = differences(saved, given, WATCHING) if isinstance(given, Mapping) and name == "config" else [""]
            if named:
                which = f" ({some_of(named)})" if named != [""] else ""
                raise CheckpointError(f"{path} belongs to a run {_OTHER[name]}{which}: give the same, or choose another folder.")
        for file in edited_files(state["code"], self.code):
            _logger.warning("%s was edited since %s was written; the run goes on with the file as it is now.", file, path.name)


def check_finite(loss: Tensor, name: str) -> None:
    """Ends a training whose loss is no number.

    Args:
        loss: One number.
        name: What it is, for the message.

    Raises:
        TrainingError: It is NaN or infinite.
    """
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"{name} is {float(loss.detach())}: lower the learning rate; checkpoints stay.")
