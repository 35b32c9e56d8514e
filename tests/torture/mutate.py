"""Changes files at random, as bytes and by their structure: what a flipped bit, an editor, another program or an attacker leaves."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
import random
import struct
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence, Sequence
from typing import Any

import yaml

TOKENS = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\n",
        b"\r",
        b"\x1b[31m",
        b"\t",
        b'"',
        b"'",
        b"\\u0000",
        b"\\ud800",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"- ",
        b"[[",
        b"[]",
        b"{}",
        b'""',
        b"null",
        b"true",
        b"~",
        b"&a [*a]",
        b"<<: *a",
        b"!!python/name:os",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"1.5", b"9" * 400, b"0x10", b"1_000", b"\\", b"#", b"%", b"|", b">", b"\xe2\x80\xa8"),
]
VALUES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        1.5,
        -0.0,
        1e308,
        2**31,
        2**63,
        2**64,
        10**30,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x",
        "\0",
        "\n",
        "1",
    ),
    *(
        "NaN",
        "null",
        "a" * 5000,
        "\u202e",
        "\ud800",
        "é",
        "\x1b]0;x\x07",
        "../../etc/passwd",
        "/dev/zero",
        "file:///x",
        "https://x.invalid/y",
    ),
    *([], {}, [None], [1, "a"], {"": 0}, {"a": {"b": []}}, [[]], [[1], [2]], ["a"] * 300, {str(number): number for number in range(300)}),
]
DEEP = "@@DEEP@@"
"""Stands for lists in lists, thousands deep."""
Path = list[Any]


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    """A few changes that know nothing of the format."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(found) + 1)
        end = min(len(found), at + rng.choice((1, 2, 4, 16, 200, len(found))))
        match rng.randrange(10):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(found):
                found[at] = rng.randrange(256)
            case 2:
                del found[at:end]
            case 3:
                found[at:at] = found[at:end]
            case 4 | 5:
                found[at:at] = rng.choice(TOKENS)
            case 6:
                del found[at:]
            case 7:
                found[at:end] = bytes(end - at)
            case 8:
                found[at:at] = rng.choice(TOKENS) * rng.choice((10, 1000, 20_000))
            case _:
                found[at:end] = rng.randbytes(end - at)
    return bytes(found)


def whole_replacements(rng: random.Random, content: bytes) -> bytes:
    """Another file in place of this one, or this one in another form."""
    text = content.decode(errors="replace")
    choices: list[Callable[[], bytes]] = [
        lambda: b"",
        lambda: b"\n",
        lambda: rng.randbytes(rng.randrange(1, 4000)),
        lambda: text.encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.replace(b"\n", b"\r\n"),
        lambda: content + content,
        lambda: b"PK\x03\x04" + content,
        lambda: b"\x1f\x8b" + content,
        lambda: rng.choice(TOKENS) * rng.choice((1, 100, 50_000)),
        lambda: content.replace(b":", b"=", rng.randrange(1, 5)),
        lambda: b"[" * 100_000,
        lambda: b'{"a":' * 50_000,
        lambda: b"a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: [*c,*c,*c,*c,*c,*c,*c,*c]\n",
    ]
    return rng.choice(choices)()


def places(value: Any, path: Path | None = None) -> Iterator[Path]:
    """The way to every part of a document."""
    path = path or []
    if path:
        yield path
    items = value.items() if isinstance(value, MutableMapping) else enumerate(value) if isinstance(value, MutableSequence) else ()
    for key, item in items:
        yield from places(item, [*path, key])


def at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def changed_value(rng: random.Random, document: Any) -> Any:
    """A document in which a few parts are other values, are missing, have other names, or stand elsewhere."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        ways = list(places(document))
        if not ways:
            return rng.choice(VALUES)
        *way, key = rng.choice(ways)
        holder = at(document, way)
        match rng.randrange(9):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(rng.choice(VALUES))
            case 3:
                del holder[key]
            case 4 if isinstance(holder, MutableMapping):
                holder[rng.choice(("", "x", f"{key}s", str(key).upper(), "\0", "__class__", "a" * 3000))] = holder.pop(key)
            case 5:
                holder[key] = copy.deepcopy(at(document, rng.choice(ways)))
            case 6 if isinstance(holder[key], (int, float)):
                holder[key] = rng.choice((-holder[key], holder[key] * 10**6, str(holder[key]), holder[key] + 0.5, [holder[key]]))
            case 7:
                holder[key] = DEEP if rng.random() < 0.3 else [holder[key]]
            case _ if isinstance(holder, MutableSequence):
                holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 3, 100))))
            case _:
                holder["extra" * rng.randrange(1, 3)] = copy.deepcopy(rng.choice(VALUES))
    return document


def json_bytes(rng: random.Random, document: Any) -> bytes:
    depth = rng.choice((50, 500, 5000, 100_000))
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5, default=str)
    return text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).encode("utf-8", "surrogatepass")


def json_file(rng: random.Random, content: bytes) -> bytes:
    """One JSON value."""
    return json_bytes(rng, changed_value(rng, json.loads(content)))


def json_lines(rng: random.Random, content: bytes) -> bytes:
    """JSON Lines of which one is changed, left out, or there twice."""
    lines = content.splitlines()
    number = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[number]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[number])
        case _:
            lines[number] = json_file(rng, lines[number])
    return b"\n".join(lines) + b"\n" * rng.randrange(2)


def yaml_file(rng: random.Random, content: bytes) -> bytes:
    """One YAML document."""
    document = changed_value(rng, yaml.safe_load(content))
    if rng.random() < 0.3:
        return json_bytes(rng, document)
    text: str = yaml.safe_dump(document, allow_unicode=rng.random() < 0.5, default_flow_style=rng.choice((True, False, None)))
    return text.replace(DEEP, "[" * 3000 + "]" * 3000).encode("utf-8", "surrogatepass")


def safetensors_file(rng: random.Random, content: bytes) -> bytes:
    """A header that says something else of the tensors."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json_file(rng, content[8 : 8 + length])
    told = len(header) if rng.random() < 0.9 else rng.choice((0, 2**63, len(content), len(header) - 1))
    return struct.pack("<Q", told) + header + content[8 + length :]


def parquet_file(rng: random.Random, content: bytes) -> bytes:
    """A table of changed rows, where Arrow finds types for them."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = parquet.read_table(io.BytesIO(content)).to_pylist()
    try:
        table = pa.Table.from_pylist(changed_value(rng, rows))
        out = io.BytesIO()
        parquet.write_table(table, out)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return changed_bytes(rng, content)
    return out.getvalue()


def csv_file(rng: random.Random, content: bytes) -> bytes:
    """A table with other cells."""
    rows: Any = changed_value(rng, list(csv.reader(io.StringIO(content.decode()))))
    out = io.StringIO()
    writer = csv.writer(out, quoting=rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow(row if isinstance(row, list) else [row])
    return out.getvalue().encode("utf-8", "surrogatepass")


def archive_file(rng: random.Random, content: bytes) -> bytes:
    """An archive of torch that holds something else."""
    import torch

    document = changed_value(rng, torch.load(io.BytesIO(content), weights_only=True))
    out = io.BytesIO()
    torch.save(document, out)
    return out.getvalue()


STRUCTURES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "json": json_file,
    "jsonl": json_lines,
    "jsonl.gz": lambda rng, content: gzip.compress(json_lines(rng, gzip.decompress(content))),
    "yaml": yaml_file,
    "safetensors": safetensors_file,
    "parquet": parquet_file,
    "csv": csv_file,
    "torch": archive_file,
}


def mutated(rng: random.Random, content: bytes, structure: str | None) -> bytes:
    """A changed file.

    Args:
        rng: Decides what is changed.
        content: A file that is right.
        structure: A key of `STRUCTURES`; None: only bytes are changed.
    """
    how = rng.random()
    if how < 0.05:
        return whole_replacements(rng, content)
    if structure is None or how < 0.4:
        return changed_bytes(rng, content)
    return STRUCTURES[structure](rng, content)
