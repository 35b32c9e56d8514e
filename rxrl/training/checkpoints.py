"""Checkpoints: directories that are written whole or not at all, the last few kept, and the way back into a run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        model.save_pretrained(temporary)
        tokenizer.save(temporary)
        (temporary / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")
        if tensors is not None:
            torch.save(dict(tensors), temporary / TENSORS_FILE)
        if critic is not None:
            save_file({name: value.contiguous() for name, value in critic.state_dict().items()}, temporary / CRITIC_FILE)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not path.exists():
            old.rename(path)
        reason = error.strerror or error
        raise CheckpointError(f"The checkpoint {path} could not be written ({reason}); older ones are untouched.") from error
    shutil.rmtree(old, ignore_errors=True)
    return path


def load_state(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plain values and tensors of a checkpoint that a run can go on from.

    Raises:
        CheckpointError: A file is missing or broken.
    """
    folder = Path(path)
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        tensors = torch.load(folder / TENSORS_FILE, weights_only=True)
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise CheckpointError(f"{folder} cannot be resumed: {missing} is missing; start from it instead.") from None
    except (ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"The training state of {folder} is broken ({reason}): use an older checkpoint.") from None
    return state, tensors


def load_critic(path: str | Path, critic: nn.Module) -> bool:
    """Loads the critic of a checkpoint into `critic`; False where the checkpoint has none."""
    file = Path(path) / CRITIC_FILE
    if not file.exists():
        return False
    try:
        critic.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{file} does not fit the critic ({str(error).splitlines()[0]}): use the file that belongs to it.") from None
    return True


def numbered(folder: str | Path) -> list[Path]:
    """Checkpoints `step-NNNNNN` of a folder, oldest first."""
    return sorted(path for path in Path(folder).glob("step-*") if (path / STATE_FILE).exists())


def prune(folder: str | Path, keep: int) -> None:
    """Deletes all but the last `keep` numbered checkpoints."""
    for path in numbered(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)
