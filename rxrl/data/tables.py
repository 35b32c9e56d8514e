"""Rows in Parquet files and in data sets of `datasets`: read as they are, written with fixed types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rxrl.errors import DataError
from rxrl.writing import replacing

INTERACTION_FIELDS = ("query", "answer", "facts", "asks", "aliases", "unknown", "kind")


def is_saved(folder: Path) -> bool:
    """Whether a folder is what `save_to_disk` of `datasets` writes."""
    return any((folder / file).is_file() for file in ("dataset_dict.json", "state.json"))


def load_splits(name: str, subset: str | None, stream: bool = False) -> dict[str, Any]:
    """The splits of a folder that `datasets` saved or can load, or of a data set on the Hub; raises what the library raises.

    Args:
        name: Folder or name.
        subset: Configuration of the data set.
        stream: Read rows while they are used, instead of downloading all first.
    """
    datasets = import_module("datasets")  # takes seconds, so only where it is needed
    loaded = datasets.load_from_disk(name) if is_saved(Path(name)) else datasets.load_dataset(name, subset, streaming=stream)
    return dict(loaded) if isinstance(loaded, Mapping) else {str(loaded.split or "all"): loaded}


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes with fixed types, so that empty lists and alias tables survive; extra columns get the types that arrow finds."""
    pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    fields = [
        ("query", pa.string()),
        ("answer", pa.string()),
        ("facts", pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))),
        ("asks", pa.list_(pa.string())),
        ("aliases", pa.map_(pa.string(), pa.list_(pa.string()))),
        ("unknown", pa.bool_()),
        ("kind", pa.string()),
    ]
    inner = [interaction for row in rows for interaction in row["interactions"]]
    follow_up = pa.struct([*fields, *_extra_fields(inner, INTERACTION_FIELDS)])
    outer = _extra_fields(rows, (*INTERACTION_FIELDS, "id", "interactions"))
    schema = pa.schema([("id", pa.string()), *fields, ("interactions", pa.list_(follow_up)), *outer])
    table = pa.Table.from_pylist([_with_map_aliases(row) for row in rows], schema=schema)
    with replacing(path) as file:
        parquet.write_table(table, file)


def _extra_fields(rows: Sequence[Mapping[str, Any]], known: Sequence[str]) -> list[tuple[str, Any]]:
    pa = import_module("pyarrow")
    names = dict.fromkeys(key for row in rows for key in row if key not in known)
    try:
        return [(name, pa.array([row.get(name) for row in rows]).type) for name in names]
    except pa.ArrowException as error:
        raise DataError(f"Parquet wants values of one type in a column ({error}): write .jsonl, or make them alike.") from error


def _with_map_aliases(row: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(row)
    if "aliases" in changed:
        changed["aliases"] = list(changed["aliases"].items())
    if "interactions" in changed:
        changed["interactions"] = [_with_map_aliases(interaction) for interaction in changed["interactions"]]
    return changed
