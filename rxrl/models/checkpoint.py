"""Checkpoints of a model: `config.json`, `model.safetensors` and their hashes in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

from safetensors.torch import save_file
from torch import Tensor

from rxrl.errors import CheckpointError
from rxrl.manifest import check_files, write_manifest
from rxrl.models.config import ModelConfig
from rxrl.models.files import CONFIG_FILE, WEIGHTS_FILE, listed, refusal
from rxrl.models.network import ReactiveNetwork
from rxrl.models.skeleton import skeleton
from rxrl.reading import read_json
from rxrl.reading.tensors import Shapes, read_tensors
from rxrl.writing import replacing, write_text

CARD_FILE = "README.md"
_LAYOUT = "model checkpoint"

M = TypeVar("M", bound=ReactiveNetwork)


class SavedTokenizer(Protocol):
    """A tokenizer that can be stored beside a model."""

    def save(self, directory: str | Path) -> None:
        """Writes its files into `directory`."""
        ...


def save_model(model: ReactiveNetwork, folder: Path, tokenizer: SavedTokenizer | None = None, card: str | None = None) -> None:
    """Writes a model into a folder (made if missing); never a batch size.

    Args:
        model: Its configuration and weights.
        folder: The folder.
        tokenizer: Saved beside the model.
        card: Text of a model card, written as `README.md`; see `rxrl.models.interop.card.model_card`.
    """
    write_text(folder / CONFIG_FILE, model.config.model_dump_json(indent=2) + "\n")
    with replacing(folder / WEIGHTS_FILE) as file:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    if tokenizer is not None:
        tokenizer.save(folder)
    if card is not None:
        write_text(folder / CARD_FILE, card)
    write_manifest(folder, [CONFIG_FILE, WEIGHTS_FILE])


def load_model(kind: type[M], folder: Path) -> M:
    """Reads what `save_model` wrote.

    Args:
        kind: The class of the model.
        folder: The folder.

    Raises:
        CheckpointError: A file is missing, broken or does not fit; nothing is loaded halfway.
    """
    check_files(folder, [CONFIG_FILE, WEIGHTS_FILE])
    config_file, file = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config = read_json(config_file, ModelConfig, refusal(config_file, _LAYOUT))
    model = skeleton(kind, config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    weights, _ = read_tensors(file, refusal(file, _LAYOUT), check=lambda found: _check_shapes(file, found, expected))
    _check_values(file, weights)
    model.load_state_dict(weights, assign=True)
    return model


def _check_shapes(path: Path, found: Shapes, expected: Shapes) -> None:
    """Refuses a file whose tensors are not exactly the model's; nothing is loaded halfway."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown) + shapes
    if problems:
        raise CheckpointError(f"{path} does not fit its config.json ({'; '.join(problems)}): use the file that belongs to it.")


def _check_values(path: Path, found: dict[str, Tensor]) -> None:
    others = [f"{name} ({str(tensor.dtype).removeprefix('torch.')})" for name, tensor in found.items() if not tensor.is_floating_point()]
    if others:
        raise CheckpointError(f"{path} should hold floating-point weights, but not so {listed(others)}: use the file that belongs to it.")
    broken = sorted(name for name, tensor in found.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise CheckpointError(f"{path} holds NaN or infinite weights in {', '.join(broken)}: use an earlier checkpoint.")
