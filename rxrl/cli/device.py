"""Where the commands that play with a checkpoint compute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer

Device = Annotated[str | None, typer.Option(help="Device to compute on, such as cpu or cuda:1. Default: a GPU if there is one.")]


def find_device(name: str | None) -> torch.device:
    """The device of a name; without one, that which accelerate chooses for training.

    Raises:
        ConfigError: There is no such device here.
    """
    if name is None:
        if not torch.accelerator.is_available():
            return torch.device("cpu")
        from accelerate import Accelerator  # type: ignore[import-untyped]  # noqa: PLC0415 - takes its time

        return torch.device(Accelerator().device)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"--device {name} cannot be used here ({reason}): leave it out, or give another, such as cpu.") from None


def load_on(device: str | None, checkpoint: str | Path) -> tuple[ReactiveTransformer, Tokenizer]:
    """A checkpoint on the device of a name, as `find_device` finds it.

    Raises:
        RxrlError: There is no such device, or the checkpoint cannot be read.
    """
    place = find_device(device)
    model, tokenizer = load_checkpoint(checkpoint)
    return model.to(place), tokenizer
