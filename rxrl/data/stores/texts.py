"""Texts from a token store, packed: rows of equal length without padding, in a seeded order that is never held.

The texts of a part are laid end to end, each as `[BOS] text [EOS]`, and cut into blocks. Each epoch is a permutation of the blocks, so
every token is seen once an epoch. A batch depends on seed and position alone; several processes take neighbouring rows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rxrl.data.mixing import Shares
from rxrl.data.stores.manifest import REFUSAL, StoreFiles
from rxrl.data.stores.parts import FEW, Part, Parting
from rxrl.data.stores.permutation import Permutation
from rxrl.data.stores.sums import HELD, RunningSums
from rxrl.errors import DataError
from rxrl.reading import let_go
from rxrl.types import BOS, EOS, PAD, TokenBatch

_MARKERS = 2


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Rows of texts that stand one behind the other.

    Attributes:
        tokens: Ids and mask `[batch, time]`.
        documents: int64 `[batch, time]`, which text of its row a token belongs to, from 0; -1 where padded. Tokens of different texts
            must not see each other, not by attention and not through memory.
        positions: int64 `[batch, time]`, place of a token within its text as far as it stands in the row, from 0; 0 where padded.
    """

    tokens: TokenBatch
    documents: Tensor
    positions: Tensor

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on `device`."""
        return PackedBatch(self.tokens.to(device), self.documents.to(device), self.positions.to(device))

    @property
    def same_document(self) -> Tensor:
        """Where, bool `[batch, time, time]`, two tokens belong to the same text."""
        return (self.documents.unsqueeze(2) == self.documents.unsqueeze(1)) & self.tokens.mask.unsqueeze(2)

    @property
    def padding_share(self) -> float:
        """Share of the batch that is padding."""
        return 1.0 - float(self.tokens.mask.float().mean())


class TextStore:
    """The texts that `rxrl data tokenize` wrote.

    Args:
        folder: The store.

    Raises:
        DataError: It is no store of texts, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.files = StoreFiles(folder, "texts")
        self.manifest, items = self.files.manifest, self.files.manifest.items
        self.ids = self.files.tokens()
        self.ends: NDArray[Any] = self.files.array("ends", "uint64", items)
        self.keys: NDArray[Any] = self.files.array("keys", "uint64", items)
        self.sizes: NDArray[Any] = self.files.array("sizes", "uint32", items)
        if int(self.ends[-1]) != self.manifest.tokens:
            raise DataError(f"{folder} is damaged (its texts end at token {int(self.ends[-1])}): {REFUSAL.advice}.")

    def packed(self, length: int, seed: int, part: Part = "all", share: float = 0.05) -> PackedTexts:
        """Packed rows of the texts of a part.

        Args:
            length: Tokens of a row: the model's limit.
            seed: Key of the order, and of which texts validate.
            part: `train` and `validation` share no document.
            share: Share of the documents that validate, about.

        Raises:
            DataError: There are too few texts to part.
        """
        return PackedTexts(self, length, seed, part, share)


class PackedRows(Protocol):
    """Rows of packed texts, endlessly."""

    @property
    def blocks(self) -> int:
        """Rows before one comes again."""

    def batch(self, position: int, rows: int, rank: int = 0, world_size: int = 1) -> PackedBatch:
        """Rows from a position of the endless sequence on; see `PackedTexts.batch`."""


class PackedTexts:
    """One part of a store of texts as packed rows, endlessly; see `TextStore.packed`.

    Attributes:
        length: Tokens of a row.
        blocks: Rows of an epoch.
        tokens: Tokens of an epoch, `[BOS]` and `[EOS]` of every text included.
        texts: Texts of an epoch.
        bytes: Bytes of these texts in UTF-8: what bits a byte are counted by.
    """

    def __init__(self, store: TextStore, length: int, seed: int, part: Part, share: float) -> None:
        self.store, self.length, self._seed, self._part = store, length, seed, part
        keys = store.keys if store.manifest.documents >= FEW else np.arange(store.manifest.items, dtype=np.uint64)
        self._parting = None if part == "all" else Parting(keys, seed, share, str(store.files.folder))
        self._sums = RunningSums(store.manifest.items, self._lengths)
        self.tokens = self._sums.total
        self.blocks = -(-self.tokens // length)
        self.texts = self.bytes = 0
        for start in range(0, store.manifest.items, 1 << 16):
            stop = min(start + (1 << 16), store.manifest.items)
            kept = self._kept(start, stop)
            self.texts += int(kept.sum())
            self.bytes += int(store.sizes[start:stop][kept].sum(dtype=np.int64))
        let_go(store.sizes, store.keys)
        self._order: tuple[int, Permutation] = (-1, Permutation(1))

    @property
    def fingerprint(self) -> str:
        """What tells these rows and their order from others."""
        return f"{self.store.manifest.content}/{self._part}/{self.length}/{self._seed}"

    def batch(self, position: int, rows: int, rank: int = 0, world_size: int = 1) -> PackedBatch:
        """Rows `position` to `position + rows - 1` of the endless sequence, or the part of them that one process takes.

        Args:
            position: Rows that all processes together have had before: all that is needed to go on where a run was cut.
            rows: Rows of all processes together.
            rank: Number of this process, from 0.
            world_size: Number of processes; they take neighbouring rows.
        """
        first, last = (position + rows * each // world_size for each in (rank, rank + 1))
        found = self._collated([self._row(each) for each in range(first, last)])
        let_go(self.store.ids, self.store.ends, self.store.keys)
        return found

    def _row(self, position: int) -> tuple[NDArray[np.int64], list[int]]:
        """Ids of a row, and where its texts begin."""
        epoch, offset = divmod(position, self.blocks)
        if self._order[0] != epoch:
            self._order = (epoch, Permutation(self.blocks, self._seed, "blocks", epoch))
        start = int(self._order[1](np.array([offset]))[0]) * self.length
        item, within = self._sums.find(start)
        parts: list[NDArray[np.int64]] = []
        begins: list[int] = []
        filled, wanted = 0, min(self.length, self.tokens - start)
        while filled < wanted:
            text = self._text(item, within, wanted - filled)
            if len(text):
                begins.append(filled)
                parts.append(text)
                filled += len(text)
            item, within = item + 1, 0
        return np.concatenate(parts), begins

    def _text(self, item: int, start: int, count: int) -> NDArray[np.int64]:
        """At most `count` tokens of `[BOS] text [EOS]` from `start` on; nothing where the text is of the other part."""
        if not self._kept(item, item + 1)[0]:
            return np.zeros(0, dtype=np.int64)
        begin = int(self.store.ends[item - 1]) if item else 0
        ids = self.store.ids[begin : int(self.store.ends[item])]
        inner = self.store.files.checked(ids[max(0, start - 1) : max(0, start + count - 1)])
        pieces = [np.array([BOS])] * (start == 0) + [inner] + [np.array([EOS])] * (start + count >= len(ids) + _MARKERS)
        return np.concatenate(pieces)

    def _lengths(self, start: int, stop: int) -> NDArray[np.int64]:
        ends = self.store.ends[max(0, start - 1) : stop].astype(np.int64)
        if start % HELD == 0:
            let_go(self.store.ends)
        lengths = np.diff(ends) if start else np.diff(ends, prepend=0)
        return np.where(self._kept(start, stop), lengths + _MARKERS, 0)

    def _kept(self, start: int, stop: int) -> NDArray[np.bool_]:
        return np.ones(stop - start, dtype=bool) if self._parting is None else self._parting.kept(self._part, slice(start, stop))

    def _collated(self, rows: list[tuple[NDArray[np.int64], list[int]]]) -> PackedBatch:
        shape = (len(rows), self.length)
        ids, documents, positions = np.full(shape, PAD), np.full(shape, -1), np.zeros(shape, dtype=np.int64)
        for row, (tokens, begins) in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            for number, (begin, end) in enumerate(zip(begins, [*begins[1:], len(tokens)], strict=True)):
                documents[row, begin:end] = number
                positions[row, begin:end] = np.arange(end - begin)
        marks = torch.from_numpy(documents)
        return PackedBatch(TokenBatch(torch.from_numpy(ids), marks >= 0), marks, torch.from_numpy(positions))


class MixedTexts:
    """Packed rows of several stores in fixed shares; the same position always holds the same row.

    Args:
        parts: Rows of one length, with their weights: shares of the rows, and so about of the tokens.

    Attributes:
        blocks: Rows before one of a part comes again.
    """

    def __init__(self, parts: Sequence[tuple[PackedRows, float]]) -> None:
        self._parts = [rows for rows, _ in parts]
        self._shares = Shares([weight for _, weight in parts])
        whole = sum(weight for _, weight in parts)
        self.blocks = max(1, min(int(rows.blocks * whole / weight) for rows, weight in parts))

    def batch(self, position: int, rows: int, rank: int = 0, world_size: int = 1) -> PackedBatch:
        """Rows from a position of the endless sequence on, or the part of them that one process takes; see `PackedTexts.batch`."""
        first, last = (position + rows * each // world_size for each in (rank, rank + 1))

        def taker(part: PackedRows) -> Callable[[int, int], list[PackedBatch]]:
            return lambda start, count: _single_rows(part.batch(start, count)) if count else []

        found = self._shares.gather(first, last - first, [taker(part) for part in self._parts])
        tokens = TokenBatch(torch.cat([each.tokens.ids for each in found]), torch.cat([each.tokens.mask for each in found]))
        return PackedBatch(tokens, torch.cat([each.documents for each in found]), torch.cat([each.positions for each in found]))


def _single_rows(batch: PackedBatch) -> list[PackedBatch]:
    tokens = batch.tokens
    return [
        PackedBatch(TokenBatch(tokens.ids[at], tokens.mask[at]), batch.documents[at], batch.positions[at])
        for at in (slice(row, row + 1) for row in range(len(tokens.ids)))
    ]
