"""What the two kinds of token stores are filled with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from rxrl.data.corpora import Row, Shard, Split
from rxrl.data.importers.common import one_line
from rxrl.data.rows import json_line, to_conversation, to_row
from rxrl.data.sources import said
from rxrl.data.stores.manifest import ASKS, FRAMED, token_type
from rxrl.data.stores.options import ArrayFiles, Options
from rxrl.data.stores.sections import Refusals, Section, rows_of, sections_of
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import DataError
from rxrl.reading import mapped
from rxrl.template import interaction_tokens, segments
from rxrl.types import INTERACTION_MARKERS, STRATEGIES, Conversation

T = TypeVar("T")
Tick = Callable[[int, int], None]
_BATCH = 1 << 20
"""Characters that are tokenized together."""
_PASS = 1 << 20
"""Numbers that are compared in one pass over all of them."""
_NAMES = ("", *sorted(STRATEGIES))
"""Strategies by the number that stands for them; conversations are ordered by it."""


class TextWriter:
    """Fills a store of texts: ids, where each section ends, hashes of documents, and sizes in bytes."""

    arrays: ClassVar = ("tokens", "ends", "keys", "sizes")

    def __init__(self, split: Split, tokenizer: Tokenizer, options: Options, refusals: Refusals, arrays: ArrayFiles) -> None:
        self._split, self._tokenizer, self._options, self._refusals, self._arrays = split, tokenizer, options, refusals, arrays
        self._dtype = np.dtype(token_type(tokenizer))
        self._tokens = self._items = self._documents = self._longest = self._key = 0

    def write(self, tick: Tick) -> None:
        """Writes all arrays; `tick` is told the shard and how much of it has been read."""
        groups = batches(self._sections(tick), lambda each: len(each.text), _BATCH)
        for sections, ids in in_background(self._tokenizer.encode_batch, groups, lambda group: [each.text for each in group]):
            self._append(sections, ids)

    def finish(self, folder: Path) -> dict[str, Any]:
        """What the manifest says."""
        return {"tokens": self._tokens, "items": self._items, "documents": self._documents, "longest": self._longest}

    def _sections(self, tick: Tick) -> Iterator[Section]:
        for number, shard in enumerate(self._split.shards):
            read = 0
            for section in sections_of(shard, self._options.column, self._refusals):
                read += len(section.text)
                tick(number, read)
                yield Section(section.text.strip() if self._options.keep_whitespace else one_line(section.text), section.first)

    def _append(self, sections: Sequence[Section], ids: Sequence[Sequence[int]]) -> None:
        lengths = np.array([len(each) for each in ids], dtype=np.uint64)
        keys = np.zeros(len(sections), dtype=np.uint64)
        for index, section in enumerate(sections):
            self._key = hash_of(section.text) if section.first else self._key
            keys[index] = self._key
        self._arrays.append("tokens", np.fromiter(chain.from_iterable(ids), self._dtype, int(lengths.sum())))
        self._arrays.append("ends", np.uint64(self._tokens) + np.cumsum(lengths, dtype=np.uint64))
        self._arrays.append("keys", keys)
        self._arrays.append("sizes", np.array([len(each.text.encode()) for each in sections], dtype=np.uint32))
        self._tokens += int(lengths.sum())
        self._items += len(sections)
        self._documents += sum(each.first for each in sections)
        self._longest = max(self._longest, int(lengths.max()))


class ConversationWriter:
    """Fills a store of conversations: ids of queries and answers, what asks, and the rows for who needs their texts."""

    arrays: ClassVar = ("tokens", "ends", "asking", "interactions", "rows", "row_ends", "keys", "names", "numbers", "strategies")
    scratch: ClassVar = ("names", "numbers", "strategies")

    def __init__(self, split: Split, tokenizer: Tokenizer, options: Options, refusals: Refusals, arrays: ArrayFiles) -> None:
        self._split, self._tokenizer, self._refusals, self._arrays = split, tokenizer, refusals, arrays
        self._dtype = np.dtype(token_type(tokenizer))
        self._tokens = self._items = self._interactions = self._longest = self._bytes = self._read = 0
        self._begins: list[tuple[int, Shard]] = []

    def write(self, tick: Tick) -> None:
        """Writes all arrays but the order; `tick` is told the shard and how much of it has been read."""
        groups = batches(self._conversations(tick), lambda each: sum(map(len, _texts([each]))), _BATCH)
        for group, ids in in_background(self._tokenizer.encode_batch, groups, _texts):
            self._append(group, ids)

    def finish(self, folder: Path) -> dict[str, Any]:
        """Writes the order in which conversations are looked up (by strategy, the longest first), and what the manifest says."""
        types = {"interactions": "uint64", "names": "uint64", "numbers": "uint32", "strategies": "uint8"}
        steps, names, numbers, strategies = (mapped(folder / f"{name}.bin", dtype, (self._items,)) for name, dtype in types.items())
        twice = repeated(names)
        for index in twice.tolist():
            shard = next(shard for start, shard in reversed(self._begins) if start <= index)
            self._refusals.refuse(shard.name, int(numbers[index]), "its id is already taken by an earlier row")
        lengths = write_order(folder / "order.bin", steps, strategies, twice)
        for name in self.scratch:
            (folder / f"{name}.bin").unlink()
        return {
            "tokens": self._tokens,
            "items": self._items,
            "documents": self._items,
            "interactions": self._interactions,
            "row_bytes": self._bytes,
            "longest": self._longest,
            "lengths": lengths,
        }

    def _conversations(self, tick: Tick) -> Iterator[tuple[Row, Conversation]]:
        for number, shard in enumerate(self._split.shards):
            read = 0
            self._begins.append((self._read, shard))
            for row in rows_of(shard, self._refusals):
                try:
                    conversation = to_conversation(row.value(), row.default_id)
                    for text in _texts([(row, conversation)]):
                        text.encode()
                    for interaction in filter(segments, conversation.interactions):
                        interaction_tokens(interaction, self._tokenizer)
                except DataError as error:
                    self._refusals.refuse(row.source, row.number, str(error).rstrip("."))
                    continue
                except UnicodeEncodeError:
                    self._refusals.refuse(row.source, row.number, "it holds half of a surrogate pair, which is no character")
                    continue
                except ValueError as error:
                    self._refusals.refuse(row.source, row.number, str(error))
                    continue
                read += len(row.content) if isinstance(row.content, bytes) else sum(map(len, _texts([(row, conversation)])))
                tick(number, read)
                self._read += 1
                yield row, conversation

    def _append(self, group: Sequence[tuple[Row, Conversation]], ids: Sequence[Sequence[int]]) -> None:
        ids, framed = self._in_the_template(group, ids)
        lengths = np.array([len(each) for each in ids], dtype=np.uint64)
        counts = [len(each.interactions) for _, each in group]
        rows = [json_line(to_row(each), each.id) for _, each in group]
        keys = [(hash_of(*chain.from_iterable(said(each))), hash_of(each.id, *said(each)[0])) for _, each in group]
        marks = [ASKS * (interaction.asks != ()) for _, each in group for interaction in each.interactions]
        named = [_NAMES.index(str(each.extra["strategy"])) if each.extra.get("strategy") in STRATEGIES else 0 for _, each in group]
        ends = np.uint64(self._tokens) + np.cumsum(lengths, dtype=np.uint64)
        self._arrays.append("tokens", np.fromiter(chain.from_iterable(ids), self._dtype, int(lengths.sum())))
        self._arrays.append("ends", ends)
        self._arrays.append("asking", np.array(marks, dtype=np.uint8) + np.array(framed, dtype=np.uint8))
        self._arrays.append("interactions", np.uint64(self._interactions) + np.cumsum(counts, dtype=np.uint64))
        self._arrays.append("rows", np.frombuffer(b"".join(rows), dtype=np.uint8))
        self._arrays.append("row_ends", np.uint64(self._bytes) + np.cumsum([len(row) for row in rows], dtype=np.uint64))
        self._arrays.append("keys", np.array(keys, dtype=np.uint64))
        self._arrays.append("names", np.array([hash_of(each.id) for _, each in group], dtype=np.uint64))
        self._arrays.append("numbers", np.array([row.number for row, _ in group], dtype=np.uint32))
        self._arrays.append("strategies", np.array(named, dtype=np.uint8))
        self._longest = max(self._longest, int((lengths[::2] + lengths[1::2]).max()) + INTERACTION_MARKERS)
        self._tokens, self._items = int(ends[-1]), self._items + len(group)
        self._interactions += sum(counts)
        self._bytes += sum(map(len, rows))

    def _in_the_template(
        self, group: Sequence[tuple[Row, Conversation]], ids: Sequence[Sequence[int]]
    ) -> tuple[list[Sequence[int]], list[int]]:
        """What is heard and what is said of every interaction, and `FRAMED` for those whose markers are among these ids."""
        found, framed = list(ids), [0] * (len(ids) // 2)
        for place, interaction in enumerate(each for _, conversation in group for each in conversation.interactions):
            if segments(interaction):
                tokens = interaction_tokens(interaction, self._tokenizer)
                found[2 * place : 2 * place + 2] = (tokens.heard[2:], tokens.said[1:]) if tokens.plain else (tokens.heard[1:], tokens.said)
                framed[place] = 0 if tokens.plain else FRAMED
        return found, framed


def hash_of(*texts: str) -> int:
    """64 bits that stand for some texts."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(texts).encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def batches(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Items in lists that come to about `most` together."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= most:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def in_background(
    encode: Callable[[Sequence[str]], list[list[int]]], groups: Iterator[list[T]], texts: Callable[[list[T]], Sequence[str]]
) -> Iterator[tuple[list[T], list[list[int]]]]:
    """Yields each group with the ids of its texts, in order; the next one is read while one is tokenized."""
    with ThreadPoolExecutor(1) as pool:
        before = None
        for group in groups:
            running = pool.submit(encode, texts(group))
            if before is not None:
                yield before[0], before[1].result()
            before = (group, running)
        if before is not None:
            yield before[0], before[1].result()


def repeated(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where, in order, a value stands that an earlier place holds, too; in passes over parts of the values, of bounded memory."""
    parts = max(1, -(-len(values) // _PASS))
    found: list[NDArray[np.int64]] = []
    for part in range(parts):
        places = [start + np.flatnonzero(values[start : start + _PASS] % parts == part) for start in range(0, len(values), _PASS)]
        own = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
        _, first = np.unique(values[own], return_index=True)
        found.append(np.delete(own, first))
    return np.sort(np.concatenate(found))


def write_order(
    path: Path, interactions: NDArray[np.uint64], strategies: NDArray[np.uint8], left_out: NDArray[np.int64]
) -> dict[str, dict[str, int]]:
    """Writes the numbers of the conversations by strategy, the longest first, in passes of bounded memory.

    Args:
        path: The file.
        interactions: Ends of the conversations among all interactions.
        strategies: Number of the strategy that each names.
        left_out: Conversations that do not count.

    Returns:
        Conversations by number of turns, the most first, by strategy.
    """
    size = len(strategies)

    def chunk(start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of some conversations that count, and the groups they belong to: those of the first come first."""
        stop = min(start + _PASS, size)
        ends = interactions[max(0, start - 1) : stop].astype(np.int64)
        steps = (ends[1:] - ends[:-1] if start else ends - np.concatenate([[0], ends[:-1]])) - 1
        numbers = np.arange(start, stop)
        kept = ~np.isin(numbers, left_out)
        return numbers[kept], (strategies[start:stop].astype(np.int64) * _MOST_TURNS + _MOST_TURNS - 1 - steps)[kept]

    counts: dict[int, int] = {}
    for start in range(0, size, _PASS):
        for group, count in zip(*np.unique(chunk(start)[1], return_counts=True), strict=True):
            counts[int(group)] = counts.get(int(group), 0) + int(count)
    total = sum(counts.values())
    order = np.memmap(path, np.uint64, "w+", shape=(total,)) if total else np.zeros(0, np.uint64)
    nexts, at = {}, 0
    for group in sorted(counts):
        nexts[group], at = at, at + counts[group]
    for start in range(0, size, _PASS):
        numbers, groups = chunk(start)
        for group in np.unique(groups).tolist():
            own = numbers[groups == group]
            order[nexts[group] : nexts[group] + len(own)] = own
            nexts[group] += len(own)
    lengths: dict[str, dict[str, int]] = {}
    for group in sorted(counts):
        strategy, rest = divmod(group, _MOST_TURNS)
        lengths.setdefault(_NAMES[strategy], {})[str(_MOST_TURNS - 1 - rest)] = counts[group]
    return lengths


_MOST_TURNS = 1 << 20


def _texts(group: Sequence[tuple[Row, Conversation]]) -> list[str]:
    return [text for _, each in group for interaction in each.interactions for text in (interaction.query, interaction.answer)]
