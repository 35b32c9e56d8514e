"""Checkpoints: directories that are written whole or not at all, with the last few and the best kept, and read to resume a run."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError
from rxrl.manifest import MANIFEST_FILE, check_files, write_manifest
from rxrl.models import ReactiveTransformer
from rxrl.reading import OBJECT, Refusal, guarded, read_json
from rxrl.reading.tensors import read_archive, read_tensors
from rxrl.writing import NEW, beside, exact_numbers, move, replacing_folder, write_json

STATE_FILE, TENSORS_FILE, CRITIC_FILE = "training_state.json", "training_state.pt", "critic.safetensors"
_logger = logging.getLogger(__name__)
STEP, BEST = "step", "best"
"""Checkpoints are named `step-NNNNNN` (to go on from) and `best-NNNNNN` (to start from)."""
_NUMBERED = re.compile(r"[a-z]+-\d+")


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
    """Writes a checkpoint with a manifest of its files, whole or not at all.

    Args:
        path: Directory; an existing one is replaced.
        model: Its weights and configuration.
        tokenizer: Saved with its hash.
        state: Plain values: where the run stands.
        tensors: Optimizer states and other values that hold tensors; None where the checkpoint is only to start from.
        critic: Saved where there is one.
    """
    path = Path(path)
    with replacing_folder(path, kept="older ones are untouched") as folder:
        model.save_pretrained(folder)
        tokenizer.save(folder)
        write_json(folder / STATE_FILE, state, exact=True)
        if tensors is not None:
            torch.save(_with_shared_names(tensors), folder / TENSORS_FILE)
        if critic is not None:
            save_file({name: value.contiguous() for name, value in critic.state_dict().items()}, folder / CRITIC_FILE)
        write_manifest(folder, [file.name for file in folder.iterdir() if file.name != MANIFEST_FILE])
    return path


def _with_shared_names(value: Any) -> Any:
    """The same values, in which equal texts are one object.

    A pickle refers back to an object that it has written. Names that were read from a checkpoint are other objects than those of the
    code, so without this a resumed run would write other bytes.
    """
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, Mapping):
        return {_with_shared_names(key): _with_shared_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_shared_names(each) for each in value]
    if type(value) is tuple:
        return tuple(_with_shared_names(each) for each in value)
    return value


def load_state(path: str | Path) -> tuple[Saved, Saved]:
    """Plain values and tensors of a checkpoint that a run can go on from.

    Raises:
        CheckpointError: A file is missing or broken.
    """
    folder = Path(path)
    for name in (STATE_FILE, TENSORS_FILE):
        if not (folder / name).is_file():
            raise _resumable(folder / name).absent(folder / name)
    check_files(folder, [TENSORS_FILE], required=True)
    file = folder / TENSORS_FILE
    return read_values(path), Saved(read_archive(file, _resumable(file)), file)


def read_values(path: str | Path) -> Saved:
    """The plain values of a checkpoint.

    Raises:
        CheckpointError: The file is missing or broken.
    """
    file = Path(path) / STATE_FILE
    check_files(file.parent, [STATE_FILE], required=True)
    return Saved(exact_numbers(read_json(file, OBJECT, _resumable(file))), file)


def _resumable(file: Path) -> Refusal:
    missing = f"{file.parent} cannot be resumed: {file.name} is missing; start from it instead."
    return Refusal(CheckpointError, "the training state is broken, use an older checkpoint", missing)


def restoring(path: Path) -> AbstractContextManager[None]:
    """While a run takes over what the checkpoint `path` holds: what values of a wrong type lead to becomes one sentence.

    Raises:
        CheckpointError: The checkpoint does not hold what a run writes.
    """
    return guarded(path, "the state of a run", Refusal(CheckpointError, "use an older checkpoint"))


def load_critic(path: str | Path, critic: nn.Module) -> bool:
    """Loads the critic of a checkpoint into `critic`; False where the checkpoint has none, or one of another kind or size.

    Raises:
        CheckpointError: The file is broken.
    """
    file = Path(path) / CRITIC_FILE
    check_files(file.parent, [CRITIC_FILE])
    if not file.exists():
        return False
    found, _ = read_tensors(file, Refusal(CheckpointError, "copy the critic again, or delete it"))
    if {name: value.shape for name, value in found.items()} != {name: value.shape for name, value in critic.state_dict().items()}:
        _logger.warning("The critic in %s is of another kind or size than the one that is asked for, which starts anew.", file)
        return False
    critic.load_state_dict(found)
    return True


def numbered(folder: str | Path, kind: str = STEP) -> list[Path]:
    """Checkpoints `kind-NNNNNN` of a folder, oldest first."""
    found = [path for path in Path(folder).glob(f"{kind}-*") if _NUMBERED.fullmatch(path.name) and (path / STATE_FILE).exists()]
    return sorted(found, key=number_of)


def number_of(path: Path) -> int:
    """The step or iteration in the name of a checkpoint."""
    return int(path.name.rpartition("-")[2])


def newest_position(folder: str | Path) -> dict[str, int] | None:
    """Where the metrics of a job stood at the newest checkpoint of all its parts that it can go on from; None where there is none.

    Args:
        folder: `checkpoints`, with those of the last part, and a folder for each earlier one.
    """
    parts = [Path(folder), *Path(folder).glob("*/")]
    found = [path for part in parts for path in [*numbered(part)[-1:], *([part] if (part / STATE_FILE).exists() else [])]]
    positions = [read_values(path)["log"] for path in found if not path.name.startswith((BEST, "abandoned"))]
    return max(positions, key=lambda each: each["metrics.jsonl"], default=None)


def abandon_later(folder: str | Path, iteration: int) -> None:
    """Renames checkpoints behind `iteration`, from where a run goes on another time, to `abandoned-...`: they are no longer part of it."""
    for path in [path for kind in (STEP, BEST) for path in numbered(folder, kind)]:
        if number_of(path) > iteration:
            names = (f"abandoned-{path.name}" + f"-{number}" * (number > 1) for number in count(1))
            abandoned = next(there for there in map(path.with_name, names) if not there.exists())
            move(path, abandoned)
            _logger.warning("%s is later than what the run goes on from: kept as %s.", path, abandoned.name)


def prune(folder: str | Path, keep: int, kind: str = STEP) -> None:
    """Deletes all but the last `keep` numbered checkpoints."""
    for path in numbered(folder, kind)[:-keep]:
        # Under a name that `sweep` removes: a kill amid the deletion must not leave half a checkpoint under its own.
        doomed = beside(path, NEW)
        move(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
