"""The one reader of files that others may have written: JSON, JSONL, YAML, Parquet, CSV, safetensors, torch archives and text.

Whatever a file holds, reading it ends in values of the expected form or in one sentence that names file and place. Sizes, nesting depth,
what YAML aliases expand to, and the declared rows and cells of tables are bounded before memory is spent on them. Text is UTF-8,
whatever the locale says; a byte-order mark is tolerated. No other module parses a file (a test holds them to it).

Readers of tensors are imported from `rxrl.reading.tensors`, since torch takes its time.
"""

from rxrl.reading.arrays import let_go, mapped
from rxrl.reading.documents import OBJECT, json_value, parse_json, read_json, read_json_rows, whole_objects
from rxrl.reading.guard import Refusal, guarded
from rxrl.reading.plain import compression_of, hash_of, hash_of_text, open_lines, read_text, text_blocks, text_lines
from rxrl.reading.settings import YamlDocument, parse_yaml, read_yaml
from rxrl.reading.tables import arrow_rows, csv_rows, csv_stream, look_at, parquet_rows

__all__ = [
    "OBJECT",
    "Refusal",
    "YamlDocument",
    "arrow_rows",
    "compression_of",
    "csv_rows",
    "csv_stream",
    "guarded",
    "hash_of",
    "hash_of_text",
    "json_value",
    "let_go",
    "look_at",
    "mapped",
    "open_lines",
    "parquet_rows",
    "parse_json",
    "parse_yaml",
    "read_json",
    "read_json_rows",
    "read_text",
    "read_yaml",
    "text_blocks",
    "text_lines",
    "whole_objects",
]
