"""Names of a checkpoint's files, in our layout and in the published one, and how those are refused that cannot be read."""

from __future__ import annotations

from pathlib import Path

from rxrl.errors import CheckpointError
from rxrl.reading import Refusal

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def refusal(file: Path, layout: str) -> Refusal:
    """How a file of a folder that should be a `layout` (such as "model checkpoint") is refused."""
    missing = f"{file.parent} is not a {layout}: {file.name} is missing."
    return Refusal(CheckpointError, "copy the checkpoint again", missing, "a configuration of this version")


def listed(names: list[str], most: int = 8) -> str:
    """Names for a message, the first ones of a long list."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
