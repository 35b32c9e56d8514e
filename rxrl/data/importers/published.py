"""Conversations in the published MRL format, from JSONL, Parquet or a `datasets` data set (a Hub name or a local folder)."""

from __future__ import annotations

from pathlib import Path

from rxrl.data.importers.common import ImportResult
from rxrl.data.rows import LengthLimit, RefusedRow, read_conversations


def import_published(
    source: str | Path,
    *,
    subset: str | None = None,
    split: str | None = None,
    limit: LengthLimit | None = None,
    keep_valid: bool = False,
) -> ImportResult:
    """Reads and validates conversations.

    Args:
        source: File, folder or name, as for `rxrl.data.rows.read_conversations`.
        subset: Configuration of a Hub data set, for example `steps-4`.
        split: Split of a data set, where `source` names none; needed where there are several.
        limit: Longest interaction.
        keep_valid: Keep the rest where rows do not fit.

    Raises:
        DataError: The source cannot be read, or a row does not fit and the rest is not wanted.
    """
    refused: list[RefusedRow] = []
    conversations = read_conversations(source, subset=subset, split=split, limit=limit, keep_valid=keep_valid, refused=refused)
    counts = {"rows": len(conversations) + len(refused), "conversations": len(conversations)}
    return ImportResult(conversations, counts, tuple(refused))
