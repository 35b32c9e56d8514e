"""One token a row at a time, after a prefix that is computed once: the inner loop of generation.

A step touches every weight for a handful of rows, so its time is memory traffic and the cost of starting kernels. `KernelDecoding` makes
it one call, where rxrl's kernels for CPUs are built and fit. `FoldedDecoding` has weights of its own, in which the norms are folded, and
starts half as many kernels of torch; `PlainDecoding` runs the decoder's layers as they are, for types and backends that cannot be folded.
On a GPU, where a step is almost nothing but starts, `RecordedDecoding` records one of those two and replays it. All give what
`Decoder.hidden` gives.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rxrl.models.experts import FEW_ON_GPU
from rxrl.models.generation.columns import Columns, FirstColumns, FixedColumns
from rxrl.models.generation.folded import FoldedDecoding
from rxrl.models.generation.recording import Recording
from rxrl.models.kernels.decoding import KernelDecoding, can_decode
from rxrl.models.transformer import Decoder, LayerCache, MemoryKV

_WORTH_RECORDING = 16
"""Steps from which on a recording, which takes as long as a few steps, is worth it."""
_FREE_ON_GPU = 256
"""Rows up to which recording a smaller step costs more than computing finished rows in a larger one."""


class Decoding(Protocol):
    """The decoder after a prefix, for some rows."""

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Last hidden states `[batch, dim]` of one token more, `embedded` `[batch, dim]` at `positions` `[batch]`."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only, int64 `[rows]`."""
        ...

    def is_free(self, rows: int) -> bool:
        """Whether it costs nothing to compute so many rows, those included that nobody needs any more."""
        ...


def begin(decoder: Decoder, embedded: Tensor, mask: Tensor, stm: Tensor, new_tokens: int) -> tuple[Tensor, Decoding]:
    """Computes the prefix.

    Args:
        decoder: The decoder.
        embedded: Right-padded prompts, `[batch, time, dim]`.
        mask: bool `[batch, time]`, true for real tokens.
        stm: Memory, `[layers, batch, slots, dim]`.
        new_tokens: Steps that may follow.

    Returns:
        Last hidden states of every row's last token, `[batch, dim]`, and what goes on from there.
    """
    batch, width = mask.shape
    memory = decoder.project_memory(stm)
    caches = decoder.new_cache(batch, width + new_tokens, embedded)
    hidden = decoder.step(embedded, torch.arange(width, device=mask.device), memory, caches, None)
    lengths = mask.sum(1)
    last = hidden[torch.arange(batch, device=mask.device), lengths - 1]
    if _can_fold(decoder, embedded) and can_decode(decoder, memory):
        return last, KernelDecoding(decoder, memory, caches)
    kind = FoldedDecoding if _can_fold(decoder, embedded) else PlainDecoding
    if _can_record(embedded, new_tokens):
        written = torch.cat([mask, mask.new_zeros(batch, new_tokens)], dim=1)
        return last, RecordedDecoding(kind(decoder, memory, caches, written, FixedColumns.of(caches)))
    readable = None if bool(mask.all()) else torch.cat([mask, mask.new_ones(batch, new_tokens)], dim=1)
    return last, kind(decoder, memory, caches, readable, FirstColumns(width))


def _can_fold(decoder: Decoder, embedded: Tensor) -> bool:
    """Narrow types normalise in float32, autocast wants narrow types, and a single token gains nothing on them."""
    dtype = decoder.head.weight.dtype
    wide = dtype in (torch.float32, torch.float64) and embedded.dtype == dtype
    return wide and not torch.is_autocast_enabled(embedded.device.type)


def _can_record(embedded: Tensor, new_tokens: int) -> bool:
    """On GPUs, where nothing has to wait for the device: more tokens are sorted by expert, in numbers that the next product needs."""
    return embedded.device.type == "cuda" and new_tokens >= _WORTH_RECORDING and len(embedded) <= FEW_ON_GPU


class RecordedDecoding:
    """A step of another decoding on a GPU, recorded at the second step and replayed at all others."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding, self._begun = decoding, False
        self._replay: Recording | None = None

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        if not self._begun:
            # What libraries set up at their first use cannot be recorded.
            self._begun = True
            return self._decoding.step(embedded, positions)
        if self._replay is None:
            self._replay = Recording(self._decoding.step, embedded, positions)
        return self._replay(embedded, positions)

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._decoding.keep(rows)
        self._begun, self._replay = False, None

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return rows <= _FREE_ON_GPU


class PlainDecoding:
    """The decoder's own step."""

    def __init__(
        self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None, columns: Columns
    ) -> None:
        self._decoder, self._memory, self._caches, self._readable, self._columns = decoder, memory, caches, readable, columns

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        self._columns.advance()
        mask = None
        if self._readable is not None:
            self._columns.open(self._readable, True)
            mask = self._columns.read(self._readable, 1)[:, None, None]
        return self._decoder.step(embedded.unsqueeze(1), positions.unsqueeze(1), self._memory, self._caches, mask)[:, 0]

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._readable = None if self._readable is None else self._readable[rows]
        self._memory = [(keys[rows], values[rows]) for keys, values in self._memory]
        self._caches = [cache.select(rows) for cache in self._caches]

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return False
