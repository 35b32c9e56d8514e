"""What makes two starts the same run: settings and data by what they mean, not by how they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rxrl.config import BaseConfig, dump_config
from rxrl.reading import hash_of
from rxrl.writing import path_text

_FILE = re.compile(r"(?P<path>[^\n]+\.(?:py|ya?ml|jsonl?|parquet|csv|txt))(?P<name>:[\w.]+)?")
WATCHING = frozenset({"tracking", "alarms", "checkpoint_every", "keep_checkpoints", "keep_best"})
"""Settings that may differ when a run resumes: they watch the training and do not change it."""


def absolute_paths(value: Any) -> Any:
    """Plain settings with absolute paths in place of relative ones, so that they mean the same from every working folder.

    Texts count as paths where they name an existing file (`reward.py:fn`, `rows.jsonl`), or an existing folder and hold a separator.
    """
    if isinstance(value, Mapping):
        return {key: absolute_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [absolute_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if (found := _FILE.fullmatch(value)) and _exists(Path(found["path"]).expanduser(), Path.is_file):
        return f"{_full(Path(found['path']).expanduser())}{found['name'] or ''}"
    return _full(Path(value)) if "/" in value and _exists(Path(value), Path.is_dir) else value


def save_settings(config: BaseConfig, path: Path) -> None:
    """Writes a configuration with absolute paths, so that it means the same from every working folder."""
    dump_config(type(config).model_validate(absolute_paths(config.saved())), path)


def code_files(value: Any) -> dict[str, str]:
    """SHA-256 of each Python file that plain settings with absolute paths name."""
    paths = {found["path"] for text in _texts(value) if (found := _FILE.fullmatch(text)) and found["path"].endswith(".py")}
    return {path: hash_of(path) for path in sorted(paths) if _exists(Path(path), Path.is_file)}


def edited_files(saved: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Files that both name and whose content is not what it was."""
    return [path for path, content in given.items() if saved.get(path, content) != content]


def differences(saved: Mapping[str, Any], given: Mapping[str, Any], ignored: Collection[str] = frozenset(), _prefix: str = "") -> list[str]:
    """Dotted names of settings that differ.

    Args:
        saved: Plain settings of the run.
        given: Those of now.
        ignored: Dotted names that may differ, with all below them.
    """
    found: list[str] = []
    for name in sorted({*saved, *given}):
        one, other, dotted = saved.get(name), given.get(name), f"{_prefix}{name}"
        if dotted in ignored:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, ignored, f"{dotted}.")
        elif one != other:
            found.append(dotted)
    return found


def moved_code(settings: Any, saved: Mapping[str, str], given: Mapping[str, str]) -> Any:
    """Saved settings, where files of code have the paths that files with the same content have now."""
    now = {content: path for path, content in given.items()}
    renamed = {path: now[content] for path, content in saved.items() if content in now}

    def rename(text: str) -> str:
        found = _FILE.fullmatch(text)
        return f"{renamed[found['path']]}{found['name'] or ''}" if found and found["path"] in renamed else text

    return _mapped(settings, rename)


def _full(path: Path) -> str:
    return path_text(path.resolve())


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _exists(path: Path, is_kind: Callable[[Path], bool]) -> bool:
    """Whether it is there; a text that cannot be a path is not."""
    try:
        return is_kind(path)
    except (OSError, ValueError):
        return False
