"""Checkpoints: directories that are written whole or not at all, the last few and the best kept, and the way back into a run."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError
from rxrl.models import ReactiveTransformer

STATE_FILE, TENSORS_FILE, CRITIC_FILE = "training_state.json", "training_state.pt", "critic.safetensors"
_logger = logging.getLogger(__name__)
STEP, BEST = "step", "best"
"""Checkpoints are named `step-NNNNNN` (to go on from) and `best-NNNNNN` (to start from)."""


class Saved(dict[str, Any]):
    """Values of a checkpoint; asking for one that it lacks is an error that names the key and the file."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(
            f"{self.file} lacks {key!r}: it was written by another version of rxrl and cannot be resumed; "
            "start a new run from its weights (--from), or go on with the version that wrote it."
        )


def save_checkpoint(
    path: str | Path,
    model: ReactiveTransformer,
    tokenizer: Tokenizer,
    *,
    state: Mapping[str, Any],
    tensors: Mapping[str, Any] | None = None,
    critic: nn.Module | None = None,
) -> Path:
    """Writes a checkpoint beside its final place and renames it, so that it is whole or absent.

    Args:
        path: Directory; an existing one is replaced.
        model: Its weights and configuration.
        tokenizer: Saved with its hash.
        state: Plain values: where the run stands.
        tensors: Optimizer states and other values that hold tensors; None where the checkpoint is only to start from.
        critic: Saved where there is one.
    """
    path = Path(path)
    temporary, old = path.with_name(f".{path.name}.new"), _set_aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        bring_back(path)
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        tokenizer.save(temporary)
        (temporary / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")
        if tensors is not None:
            torch.save(dict(tensors), temporary / TENSORS_FILE)
        if critic is not None:
            save_file({name: value.contiguous() for name, value in critic.state_dict().items()}, temporary / CRITIC_FILE)
        _flush(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as an error of their own.
        shutil.rmtree(temporary, ignore_errors=True)
        bring_back(path)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CheckpointError(f"The checkpoint {path} could not be written ({reason}); older ones are untouched.") from error
    shutil.rmtree(old, ignore_errors=True)
    return path


def bring_back(path: Path) -> None:
    """Restores what was set aside for a replacement that never came, because the process was killed in between."""
    old = _set_aside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """As `bring_back`, for everything in a folder."""
    for old in Path(folder).glob(".*.old"):
        bring_back(old.with_name(old.name.removeprefix(".").removesuffix(".old")))


def load_state(path: str | Path) -> tuple[Saved, Saved]:
    """Plain values and tensors of a checkpoint that a run can go on from.

    Raises:
        CheckpointError: A file is missing or broken.
    """
    folder = Path(path)
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        tensors = torch.load(folder / TENSORS_FILE, weights_only=True, map_location="cpu")
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise CheckpointError(f"{folder} cannot be resumed: {missing} is missing; start from it instead.") from None
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"The training state of {folder} is broken ({reason}): use an older checkpoint.") from None
    return Saved(state, folder / STATE_FILE), Saved(tensors, folder / TENSORS_FILE)


def load_critic(path: str | Path, critic: nn.Module) -> bool:
    """Loads the critic of a checkpoint into `critic`; False where the checkpoint has none, or one of another kind or size.

    Raises:
        CheckpointError: The file is broken.
    """
    file = Path(path) / CRITIC_FILE
    if not file.exists():
        return False
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"The critic in {file} cannot be read ({str(error).splitlines()[0]}): copy it again, or delete it.") from None
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in critic.state_dict().items()}:
        _logger.warning("The critic in %s is of another kind or size than the one that is asked for, which starts anew.", file)
        return False
    critic.load_state_dict(found)
    return True


def numbered(folder: str | Path, kind: str = STEP) -> list[Path]:
    """Checkpoints `kind-NNNNNN` of a folder, oldest first."""
    return sorted(path for path in Path(folder).glob(f"{kind}-*") if (path / STATE_FILE).exists())


def abandon_later(folder: str | Path, iteration: int) -> None:
    """Renames checkpoints behind `iteration`, from where a run goes on another time, to `abandoned-...`: they are no longer part of it."""
    for path in [path for kind in (STEP, BEST) for path in numbered(folder, kind)]:
        if int(path.name.rpartition("-")[2]) > iteration:
            names = (f"abandoned-{path.name}" + f"-{number}" * (number > 1) for number in count(1))
            abandoned = next(there for there in map(path.with_name, names) if not there.exists())
            path.rename(abandoned)
            _logger.warning("%s is later than what the run goes on from: kept as %s.", path, abandoned.name)


def prune(folder: str | Path, keep: int, kind: str = STEP) -> None:
    """Deletes all but the last `keep` numbered checkpoints, and what killed writes have left."""
    for path in [*numbered(folder, kind)[:-keep], *Path(folder).glob(f".{kind}-*.new")]:
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _flush(folder: Path) -> None:
    """Makes sure that the files are on the disk before the folder gets its name."""
    for file in [*folder.iterdir(), folder]:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
