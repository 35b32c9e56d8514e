"""What a training writes to go on from, and the way back into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rxrl.curricula import Stage
from rxrl.errors import CheckpointError
from rxrl.runs.checkpoints import BEST, STEP, Saved, abandon_later, load_state, numbered, prune, save_checkpoint
from rxrl.writing import sweep

if TYPE_CHECKING:
    from rxrl.training.trainer import MRLTrainer, TrainerState

KIND, FORMAT = "mrl", 3
WATCHING = frozenset({"tracking", "alarms", "checkpoint_every", "keep_checkpoints", "keep_best"})
"""Settings that may differ when a run goes on: they watch the training and do not change it."""


def check_folder(trainer: MRLTrainer) -> None:
    """Keeps a new run out of the folder of another one, whose later checkpoints would outlive its own.

    Raises:
        CheckpointError: There are checkpoints that this run did not write or go on from.
    """
    if not trainer.state.iteration and numbered(trainer.folder / "checkpoints"):
        raise CheckpointError(
            f"{trainer.folder} holds the checkpoints of a run, but this one starts anew: go on with it (`resume()`) or give another folder."
        )


def save_run(trainer: MRLTrainer) -> Path:
    """Writes a checkpoint that the run can go on from, and drops older ones; the first process writes, the others wait."""
    folder, learner = trainer.folder / "checkpoints", trainer.learner
    path = folder / f"{STEP}-{trainer.state.iteration:06d}"
    trainer.processes.check_alike([learner.model, learner.critic])
    if trainer.processes.first:
        save_checkpoint(
            path,
            trainer.model,
            trainer.tokenizer,
            critic=learner.trained_critic,
            state={
                "kind": KIND,
                "format": FORMAT,
                "trainer": asdict(trainer.state),
                "scheduler": trainer.scheduler.state_dict(),
                "alarms": trainer.alarms.state_dict(),
                "log": trainer.log.position(),
                "trackers": trainer.log.tracker_ids(),
                "config": trainer.config.saved(),
                "curriculum": trainer.curriculum.saved(),
                "conversations": trainer.episodes.fingerprints(),
            },
            tensors={"left": trainer.left, **learner.state_dict()},
        )
        prune(folder, trainer.config.keep_checkpoints)
    trainer.processes.wait()
    return path


def save_best(trainer: MRLTrainer, stage: Stage, retention: float) -> None:
    """Keeps the current weights, to start from, in place of the best ones so far."""
    folder, iteration = trainer.folder / "checkpoints", trainer.state.iteration
    if trainer.processes.first:
        state = {"kind": "mrl-best", "iteration": iteration, "stage": stage.name, "retention": retention}
        save_checkpoint(
            folder / f"{BEST}-{iteration:06d}", trainer.model, trainer.tokenizer, state=state, critic=trainer.learner.trained_critic
        )
        prune(folder, 1, BEST)


def resume_run(trainer: MRLTrainer, path: str | Path | None = None, rewind: bool = True) -> bool:
    """Goes on from a checkpoint of this run, the newest by default; False where there is none.

    Raises:
        CheckpointError: It belongs to another run, or is broken, or was written by another version.
    """
    folder = trainer.folder / "checkpoints"
    if trainer.processes.first:
        sweep(folder)
    trainer.processes.wait()
    found = numbered(folder) if path is None else [Path(path)]
    if not found:
        return False
    state, tensors = load_state(found[-1])
    _check(trainer, found[-1], state)
    if trainer.processes.first and path is not None:
        abandon_later(folder, int(state["trainer"]["iteration"]))
    trainer.processes.wait()
    trainer.learner.load_state_dict(tensors, found[-1])
    trainer.left = None if tensors["left"] is None else tensors["left"].to(trainer.processes.device)
    _restore(trainer.state, Saved(state["trainer"], state.file))
    trainer.scheduler.load_state_dict(state["scheduler"])
    trainer.alarms.load_state_dict(Saved(state["alarms"], state.file))
    trainer.tracker_ids = state["trackers"]
    if rewind:
        trainer.log.rewind(state["log"])
    return True


def _check(trainer: MRLTrainer, path: Path, state: Saved) -> None:
    """Refuses a checkpoint that this run cannot go on from."""
    if state.get("kind") != KIND:
        raise CheckpointError(f"{path} does not belong to a training with `rxrl train`: start from it with --from.")
    if state["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}, this version of rxrl reads {FORMAT}: start from it with --from.")
    if changed := _differences(state["config"], trainer.config.saved()):
        raise CheckpointError(
            f"{path} belongs to a run with another configuration ({', '.join(changed)}): start a new run in another folder."
        )
    if state["curriculum"] != trainer.curriculum.saved():
        raise CheckpointError(f"{path} belongs to a run with another curriculum: start a new run in another folder.")
    if state["conversations"] != trainer.episodes.fingerprints():
        raise CheckpointError(f"{path} belongs to a run on other conversations: give the same ones, or start a new run in another folder.")


def _differences(saved: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of settings that differ."""
    found: list[str] = []
    for name in sorted({*saved, *given} - (WATCHING if not prefix else frozenset())):
        one, other = saved.get(name), given.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += _differences(one, other, f"{prefix}{name}.")
        elif one != other:
            found.append(f"{prefix}{name}")
    return found


def _restore(state: TrainerState, saved: Saved) -> None:
    for field in fields(state):
        setattr(state, field.name, saved[field.name])
    state.best = None if state.best is None else (int(state.best[0]), float(state.best[1]))
