"""Tables: Parquet in batches, after a look at what the file declares, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rxrl.reading.guard import Refusal, guarded
from rxrl.reading.plain import LINE_BYTES, read_text, text_lines

ROWS = 5_000_000
"""Most rows of a table."""
CELLS = 200_000_000
"""Most values of a table, those of nested lists counted one by one."""
UNPACKED = 16 << 30
"""Most bytes of a table once it is unpacked."""
_BATCH = 256


def parquet_rows(path: Path, refusal: Refusal | None = None) -> Iterator[tuple[int, Any]]:
    """Yields (row from 1, row) of a Parquet file, a few of them in memory at a time.

    Raises:
        RxrlError: It is missing or not Parquet, or declares or comes to more than can be meant.
    """
    refusal = refusal or Refusal()
    parquet = import_module("pyarrow.parquet")
    with guarded(path, "Parquet", refusal), parquet.ParquetFile(path) as file:
        _check_declared(file.metadata)
        number = unpacked = 0
        cells = max(1, _cells(file.metadata) // max(1, file.metadata.num_rows))
        for batch in file.iter_batches(batch_size=max(1, _BATCH // (1 + cells // 1000)), use_threads=False):
            unpacked += batch.nbytes
            if unpacked > UNPACKED:
                raise ValueError(f"it comes to more than {UNPACKED >> 30} GiB at row {number + 1}")
            for row in batch.to_pylist():
                number += 1
                yield number, row


def look_at(path: Path, refusal: Refusal | None = None) -> None:
    """Looks whether a file is there, is not empty and, if it is Parquet, has a whole description of what it holds.

    Raises:
        RxrlError: It is not so.
    """
    refusal = refusal or Refusal()
    with guarded(path, "data", refusal):
        if not path.stat().st_size:
            raise ValueError("it is empty")
    if path.suffix.lower() == ".parquet":
        with guarded(path, "Parquet", refusal), import_module("pyarrow.parquet").ParquetFile(path) as file:
            _check_declared(file.metadata)


def arrow_rows(path: Path, refusal: Refusal | None = None) -> Iterator[tuple[int, Any]]:
    """Yields (row from 1, row) of an Arrow file or stream, as `datasets` keeps them; a batch of the file in memory at a time.

    Raises:
        RxrlError: It is missing, not Arrow, or comes to more than can be meant.
    """
    refusal, number = refusal or Refusal(), 0
    arrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    with guarded(path, "Arrow", refusal), arrow.memory_map(str(path)) as file:
        try:
            found = ipc.open_file(file)
            batches = (found.get_batch(index) for index in range(found.num_record_batches))
        except arrow.ArrowInvalid:
            file.seek(0)
            batches = iter(ipc.open_stream(file))
        for batch in batches:
            if number + batch.num_rows > ROWS or batch.nbytes > UNPACKED:
                raise ValueError(f"it has more than {ROWS} rows or {UNPACKED >> 30} GiB: write several files")
            for start in range(0, batch.num_rows, _BATCH):
                for row in batch.slice(start, _BATCH).to_pylist():
                    number += 1
                    yield number, row


def csv_stream(path: Path, refusal: Refusal | None = None) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yields (row, fields by column) of a CSV file of any size, as `csv_rows`; one that ends in .gz or .zst is unpacked.

    Raises:
        RxrlError: It is missing, not UTF-8 or no CSV.
    """
    refusal = refusal or Refusal()
    csv.field_size_limit(LINE_BYTES)
    yield from _csv_records(path, csv.DictReader(text_lines(path, refusal), restkey="?", restval=""), (), refusal)


def _check_declared(metadata: Any) -> None:
    if metadata.num_rows > ROWS:
        raise ValueError(f"it declares {metadata.num_rows} rows, but at most {ROWS} are read: write several files")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    if (size := sum(group.total_byte_size for group in groups)) > UNPACKED:
        raise ValueError(f"it declares {size >> 30} GiB of values, but at most {UNPACKED >> 30} are read: write several files")
    if (cells := _cells(metadata)) > CELLS:
        raise ValueError(f"it declares {cells} values, but at most {CELLS} are read: write several files")


def _cells(metadata: Any) -> int:
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    return sum(group.column(column).num_values for group in groups for column in range(group.num_columns))


def csv_rows(path: Path, columns: Sequence[str], refusal: Refusal | None = None) -> Iterator[tuple[int, dict[str, str] | None]]:
    """Yields (row, fields by column) of a CSV file; row 1 is the header, and a row of too many fields is None.

    Args:
        path: The file.
        columns: Those that it must have.
        refusal: How it is refused.

    Raises:
        RxrlError: It is missing, not UTF-8, no CSV, or lacks a column.
    """
    refusal = refusal or Refusal()
    content = read_text(path, refusal, what="CSV")
    reader = csv.DictReader(io.StringIO(content, newline=""), restkey="?", restval="")
    yield from _csv_records(path, reader, columns, refusal)


def _csv_records(
    path: Path, reader: csv.DictReader[str], columns: Sequence[str], refusal: Refusal
) -> Iterator[tuple[int, dict[str, str] | None]]:
    number = 1
    try:
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise refusal.error(f"{path} has no column {missing[0]!r}: {refusal.advice}.")
        for number, row in enumerate(reader, start=2):
            yield number, None if "?" in row else row
    except csv.Error as error:
        raise refusal.error(f"{path} cannot be read as CSV after row {number} ({error}): look for a quote that is not closed.") from None
