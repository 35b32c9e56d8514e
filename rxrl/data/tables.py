"""Rows in Parquet files and in data sets of `datasets`: read as they are, written with fixed types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rxrl.errors import DataError
from rxrl.writing import replacing

INTERACTION_FIELDS = ("query", "answer", "facts", "asks", "aliases", "unknown", "kind")


def dataset_rows(name: str, subset: str | None, split: str | None) -> Iterator[tuple[str, int, Any]]:
    """Yields (data set and split, row number, row) of a folder that `datasets` saved or can load, or of a data set on the Hub."""
    datasets = import_module("datasets")  # takes seconds, so only where it is needed
    try:
        saved = Path(name, "dataset_info.json").is_file() or Path(name, "dataset_dict.json").is_file()
        loaded = datasets.load_from_disk(name) if saved else datasets.load_dataset(name, subset)
    except Exception as error:  # the library raises many kinds, down to its HTTP client's
        raise DataError(f"{name!r} is neither a file nor a data set that can be loaded ({error}).") from error
    parts: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {split or "all": loaded}
    if split is not None and split not in parts:
        raise DataError(f"The data set {name!r} has no split {split!r}; it has {', '.join(parts)}.")
    for part in [split] if split else list(parts):
        for number, row in enumerate(parts[part], start=1):
            yield f"{name}:{part}", number, row


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
