"""From a source to a token store: read as a stream, tokenized in batches, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from rxrl.data.corpora import ROW_ENDINGS, Split, ending
from rxrl.data.stores.manifest import MANIFEST, VERSION, Kind, Manifest, is_store, read_manifest, token_type
from rxrl.data.stores.options import ArrayFiles, Options
from rxrl.data.stores.sections import Refusals, readable
from rxrl.data.stores.writers import ConversationWriter, TextWriter
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError, DataError
from rxrl.writing import check_writable, replacing_folder, write_json

Progress = Callable[[int, int], None]
"""Is told how many bytes of the source have been read, and how many it has (0 where that is not known)."""
FIRST_ROWS = 1000
"""Rows of each shard that are looked at for one that can be read."""
WRITERS: dict[Kind, type[TextWriter | ConversationWriter]] = {"texts": TextWriter, "conversations": ConversationWriter}


def fingerprint(split: Split, tokenizer: str, options: Options) -> str:
    """What tells a source, a tokenizer (by its hash) and options from others: names, sizes and times of files, never their content."""
    found: list[Any] = [VERSION, tokenizer, options.column, options.keep_whitespace]
    for shard in split.shards:
        stat = None if shard.file is None else shard.file.stat()
        found.append([shard.name, shard.version] if stat is None else [str(shard.file), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def kind_of(split: Split, column: str) -> Kind:
    """Whether a source holds texts or conversations, by its first row that can be read.

    Raises:
        DataError: It holds neither.
    """
    for shard in split.shards:
        if shard.file is not None and ending(shard.file) not in ROW_ENDINGS:
            return "texts"
        with suppress(DataError):
            for row in islice(shard.rows(), FIRST_ROWS):
                try:
                    found = row.value()
                except ValueError:
                    continue
                if isinstance(found, Mapping):
                    return "texts" if isinstance(found.get(column), str) and found.get("interactions") is None else "conversations"
    raise DataError(f"{split.name} has no row that can be read: check the files.")


def build(
    split: Split,
    out: str | Path,
    tokenizer: Tokenizer,
    options: Options,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Tokenizes a source.

    Args:
        split: The source.
        out: Folder of the store; a store of the same source, tokenizer and options is left as it is.
        tokenizer: Makes the token ids.
        options: How.
        say: Is told what was skipped.
        progress: Is told how far it is.

    Raises:
        ConfigError: Something else is in that folder.
        DataError: The source cannot be read, or holds nothing.
        WriteError: The store could not be written.
    """
    mark = fingerprint(split, tokenizer.hash, options)
    if (found := existing(Path(out), mark)) is not None:
        return found
    check_writable(out, folder=True)
    refusals = Refusals(options.skip_bad, say)
    split = replace(split, shards=tuple(shard for shard in split.shards if readable(shard, refusals)))
    kind = kind_of(split, options.column)
    with replacing_folder(out) as folder, ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in WRITERS[kind].arrays}
        arrays = ArrayFiles(files)
        writer = WRITERS[kind](split, tokenizer, options, refusals, arrays)
        writer.write(_ticker(split, progress))
        for file in files.values():
            file.flush()
        described = writer.finish(folder)
        if not described["items"]:
            raise DataError(f"{split.name} holds no {kind} that can be read: check the files.")
        manifest = Manifest(
            version=VERSION,
            kind=kind,
            source=split.name,
            fingerprint=mark,
            content=arrays.content,
            tokenizer=tokenizer.hash,
            vocab_size=tokenizer.vocab_size,
            dtype=token_type(tokenizer),
            skipped=refusals.examples,
            skipped_count=refusals.count,
            **described,
        )
        tokenizer.save(folder)
        write_json(folder / MANIFEST, manifest.model_dump())
    return manifest


def existing(out: Path, mark: str) -> Manifest | None:
    """The store that is there already.

    Raises:
        ConfigError: What is there is something else.
    """
    if is_store(out):
        found = read_manifest(out)
        if found.fingerprint != mark:
            raise ConfigError(
                f"{out} is the store of another source, tokenizer or option ({found.source}): choose another folder, or remove it."
            )
        return found
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} holds something else than a token store: choose an empty folder.")
    return None


def _ticker(split: Split, progress: Progress) -> Callable[[int, int], None]:
    """`(shard, bytes of it)` to progress in the bytes of all files; compressed ones count as they lie there."""
    sizes = [shard.size for shard in split.shards]
    before = [sum(sizes[:index]) for index in range(len(sizes))]
    total = split.size
    return lambda shard, count: progress(before[shard] + min(count, sizes[shard]) if sizes[shard] else count, total)
