"""Importers by name: the built-in ones, and those of installed packages and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rxrl.data.importers.babi import import_babi
from rxrl.data.importers.chat import import_chat
from rxrl.data.importers.common import ImportResult
from rxrl.data.importers.fairytale import import_fairytaleqa
from rxrl.data.importers.passages import import_passages
from rxrl.data.importers.published import import_published
from rxrl.data.importers.sgd import import_sgd
from rxrl.data.importers.text import import_text
from rxrl.data.rows import to_conversation
from rxrl.errors import ConfigError, DataError
from rxrl.registry import Registry, called
from rxrl.types import Conversation

IMPORTERS = Registry(
    "importer",
    "importers",
    {
        "babi": import_babi,
        "chat": import_chat,
        "fairytaleqa": import_fairytaleqa,
        "passages": import_passages,
        "published": import_published,
        "sgd": import_sgd,
        "text": import_text,
    },
)
"""Importers by name: functions from a source (a path or name) and options to an `ImportResult`, conversations or rows."""


def import_with(name: str, source: str | Path, **options: Any) -> ImportResult:
    """Imports with an importer of a package or a file.

    Args:
        name: As in `IMPORTERS`.
        source: What is imported.
        options: Handed to the importer.

    Raises:
        ConfigError: There is no such importer, it fails, or gives something else.
        DataError: A row that it gives does not fit, or it gives none.
    """
    given = called("importer", name, "the source and its options", IMPORTERS.find(name), source, **options)
    if isinstance(given, ImportResult):
        return given.checked(source, keep_valid=True)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ConfigError(f"The importer {name!r} must give conversations or rows, but gave a {type(given).__name__}.")
    conversations = [_conversation(row, name, number) for number, row in enumerate(given, start=1)]
    return ImportResult(conversations, {"conversations": len(conversations)}).checked(source, keep_valid=False)


def _conversation(row: Any, name: str, number: int) -> Conversation:
    if isinstance(row, Conversation):
        return row
    try:
        return to_conversation(row, default_id=f"row-{number}")
    except ValueError as error:
        raise DataError(f"Row {number} of the importer {name!r}: {error}.") from error
