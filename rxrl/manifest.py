"""The manifest of a checkpoint: the SHA-256 of each file, written with it and compared when a file is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel

from rxrl.errors import CheckpointError
from rxrl.reading import Refusal, hash_of, read_json
from rxrl.writing import write_json

MANIFEST_FILE = "manifest.json"


class _Manifest(BaseModel):
    sha256: dict[str, str]


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Notes the hashes of the named files of a folder, in place of what was noted before.

    Raises:
        WriteError: The manifest could not be written.
    """
    write_json(folder / MANIFEST_FILE, {"sha256": {name: hash_of(folder / name) for name in sorted(names)}})


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
        if hash_of(folder / name) != expected:
            raise CheckpointError(
                f"{folder / name} is not the file that was written (its SHA-256 is not the one in {MANIFEST_FILE}): copy it again, or use "
                "another checkpoint."
            )


def _noted(folder: Path) -> dict[str, str] | None:
    """Hashes by file name; None where there is no manifest."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        return None
    advice = "copy the whole folder, or use another checkpoint"
    return read_json(path, _Manifest, Refusal(CheckpointError, advice, expected="a table of hashes")).sha256
