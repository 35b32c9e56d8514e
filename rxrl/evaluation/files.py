"""Files that are either whole or absent: written to a temporary name beside the target, then renamed."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> Path:
    """Writes `text` to `path` atomically (UTF-8, folders are made) and returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_json(path: str | Path, content: Mapping[str, Any]) -> Path:
    """Writes `content` to `path` atomically as indented JSON; numbers that JSON does not have become null."""
    return write_text(path, json_text(content, indent=2) + "\n")


def json_text(content: Mapping[str, Any], indent: int | None = None) -> str:
    """`content` as JSON; numbers that JSON does not have become null, and what it does not know at all (dates, say) becomes text."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
