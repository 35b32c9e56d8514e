"""The manifest of a checkpoint: the SHA-256 of each file, written with it and compared when a file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from rxrl.errors import CheckpointError
from rxrl.writing import write_json

MANIFEST_FILE = "manifest.json"


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Notes the hashes of the named files of a folder, in place of what was noted before.

    Raises:
        WriteError: The manifest could not be written.
    """
    write_json(folder / MANIFEST_FILE, {"sha256": {name: _hash(folder / name) for name in sorted(names)}})


def check_files(folder: Path, names: Iterable[str], required: bool = False) -> None:
    """Compares files of a checkpoint with its manifest, before they are read.

    Args:
        folder: The checkpoint.
        names: Files in it; those that the manifest does not name are not compared.
        required: There must be a manifest that names them.

    Raises:
        CheckpointError: A file is not the one that was written, is missing, or the manifest is missing or broken.
    """
    noted = _noted(folder)
    if noted is None and required:
        raise CheckpointError(f"{folder} cannot be checked: {MANIFEST_FILE} is missing; copy the whole folder, or use another checkpoint.")
    for name in names:
        expected = (noted or {}).get(name)
        if expected is None and not (required and noted is not None):
            continue
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not whole: {name} is missing; copy the whole folder, or use another checkpoint.")
        if _hash(folder / name) != expected:
            raise CheckpointError(
                f"{folder / name} is not the file that was written (its SHA-256 is not the one in {MANIFEST_FILE}): copy it again, or use "
                "another checkpoint."
            )


def _noted(folder: Path) -> dict[str, str] | None:
    """Hashes by file name; None where there is no manifest."""
    path = folder / MANIFEST_FILE
    try:
        noted = json.loads(path.read_bytes())["sha256"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is broken ({type(error).__name__}): copy the whole folder, or use another checkpoint.") from None
    if not isinstance(noted, dict):
        raise CheckpointError(f"{path} is broken (no table of hashes): copy the whole folder, or use another checkpoint.")
    return noted


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
