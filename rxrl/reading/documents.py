"""JSON and rows of JSON: bounded depth, no numbers and characters that JSON does not have, a schema where one is expected."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast

from pydantic import TypeAdapter

from rxrl.reading.guard import Refusal, guarded, reason_of
from rxrl.reading.plain import LINE_BYTES, WHOLE_BYTES, compression_of, open_lines, read_text

DEPTH = 100
"""Most levels of lists and mappings."""
OBJECT = dict[str, Any]
"""Schema of a file that holds any JSON object."""
_HALVES = re.compile(r"\\u[dD][89a-fA-F]")
_ARRAY_BYTES = 1 << 30

T = TypeVar("T")
Numbers = Literal["json", "null", "any"]


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"JSON has no number {name}")


_DECODERS = {
    "json": json.JSONDecoder(parse_constant=_no_number),
    "null": json.JSONDecoder(parse_constant=lambda name: None),
    "any": json.JSONDecoder(),
}


def json_value(text: str | bytes, *, halves: bool = False, numbers: Numbers = "json") -> Any:
    """What a JSON text says.

    Args:
        text: The text; bytes are UTF-8.
        halves: Whether text may hold halves of surrogate pairs, as files of other programs do.
        numbers: What becomes of NaN and infinities: `json` refuses them, `null` reads them as null, `any` as they are.

    Raises:
        ValueError: It is not JSON, nested too deeply, too large, or holds what JSON does not have.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        value = _DECODERS[numbers].decode(text)
        if text.count("[") + text.count("{") > DEPTH and _deeper_than(value, DEPTH):
            raise RecursionError
        if not halves and _HALVES.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg}, {_position(error)})") from None
    except RecursionError:
        raise ValueError(f"not valid JSON (it is nested too deeply, in more than {DEPTH} levels)") from None
    except (UnicodeError, MemoryError, OverflowError) as error:
        raise ValueError(reason_of(error)) from None
    return value


def parse_json(text: str | bytes, source: str | Path, schema: type[T], refusal: Refusal | None = None, *, numbers: Numbers = "json") -> T:
    """The value of a JSON text, of the form that `schema` describes; types are not converted (`"1"` is no number).

    Args:
        text: The text.
        source: Where it comes from, for the message.
        schema: A pydantic model, dataclass or type.
        refusal: How it is refused.
        numbers: As for `json_value`.

    Raises:
        RxrlError: It is not JSON or has another form; the message names the source.
    """
    refusal = refusal or Refusal()
    try:
        value: T = json_value(text, numbers=numbers)
    except ValueError as error:
        raise refusal.unreadable(source, "JSON", str(error)) from None
    if schema is OBJECT:
        if not isinstance(value, dict):
            raise refusal.error(f"{source} should hold a JSON object, got {type(value).__name__}: {refusal.advice}.")
        return value
    plain = text if isinstance(text, str) else text.removeprefix(b"\xef\xbb\xbf")
    with guarded(source, "JSON", refusal, schema):
        # From the text again: as JSON, lists serve as tuples, while in Python they would not.
        value = _adapter(cast("Hashable", schema)).validate_json(plain, strict=True)
    return value


def read_json(path: str | Path, schema: type[T], refusal: Refusal | None = None, *, numbers: Numbers = "json") -> T:
    """The value of a JSON file; see `parse_json`.

    Raises:
        RxrlError: The file is missing or too large, is not JSON or has another form.
    """
    return parse_json(read_text(path, refusal, what="JSON"), path, schema, refusal, numbers=numbers)


def read_json_rows(path: Path, refusal: Refusal | None = None) -> Iterator[tuple[int, str | bytes | Any]]:
    """Yields (row, text) of a file of JSON lines, (row, value) of a `.json` file that is one array; rows are counted from 1, as lines are.

    Args:
        path: The file; one that ends in .gz or .zst is unpacked.
        refusal: How it is refused.

    Raises:
        RxrlError: The file is missing, too large, or an array that is broken.
    """
    rows = open_lines(path, refusal)
    first = next(rows, None)
    if first is None:
        return
    named = path.with_suffix("") if compression_of(path) else path
    if named.suffix.lower() != ".json" or not first[1].lstrip().startswith(b"["):
        yield first
        yield from rows
        return
    rows.close()  # type: ignore[attr-defined]
    yield from _elements(read_text(path, refusal, what="JSON", most=max(WHOLE_BYTES, _ARRAY_BYTES)), path, refusal or Refusal())


def whole_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (bytes up to its end, object) of the lines that a file of our own begins with, up to the first that is not whole."""
    size = 0
    with path.open("rb") as file:
        while (line := file.readline(LINE_BYTES + 1)).endswith(b"\n"):
            size += len(line)
            try:
                found = json_value(line, numbers="any")
            except ValueError:
                return
            if not isinstance(found, dict):
                return
            yield size, found


def _elements(text: str, path: Path, refusal: Refusal) -> Iterator[tuple[int, Any]]:
    """The elements of an array one after the other, so that only one of them is in memory."""
    space, border = re.compile(r"\s*"), re.compile(r"\s*([,\]])\s*")
    at, number = space.match(text, text.index("[") + 1).end(), 0  # type: ignore[union-attr]
    if text[at : at + 1] == "]":
        return
    while True:
        number += 1
        try:
            value, end = _DECODERS["json"].raw_decode(text, at)
            if end - at > LINE_BYTES:
                raise ValueError(f"it is longer than {LINE_BYTES >> 20} MiB")
            if _deeper_than(value, DEPTH):
                raise RecursionError
            found = border.match(text, end)
            if found is None:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
        except (ValueError, RecursionError, MemoryError) as error:
            position = f"{error.msg}, {_position(error)}" if isinstance(error, json.JSONDecodeError) else reason_of(error)
            raise refusal.unreadable(f"{path}, row {number}", "JSON", position) from None
        yield number, value
        at = found.end()
        if found[1] == "]":
            if at != len(text):
                raise refusal.unreadable(path, "JSON", f"something follows the array of {number} rows")
            return


def _deeper_than(value: Any, most: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        inner = (each for parent in level for each in (parent.values() if isinstance(parent, dict) else parent))
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return False
    return True


def _position(error: json.JSONDecodeError) -> str:
    return f"character {error.colno}" if error.lineno == 1 else f"line {error.lineno}, character {error.colno}"


@lru_cache(maxsize=64)
def _adapter(schema: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", schema))
