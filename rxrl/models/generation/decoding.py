"""One token a row at a time, after a prefix that is computed once: the inner loop of generation.

A step touches every weight for a handful of rows, so its time is memory traffic and the cost of starting kernels. `KernelDecoding` makes
it one call, where rxrl's kernels for CPUs are built and fit; elsewhere `PlainDecoding` runs the decoder's layers as they are. On a GPU,
where a step is almost nothing but starts, `GraphDecoding` captures the plain step as a CUDA graph and replays it. All give what
`Decoder.hidden` gives.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rxrl.models.cuda_graph import CudaGraph, GraphMemory
from rxrl.models.experts import FEW_ON_GPU
from rxrl.models.kernels.decoding import KernelDecoding, can_decode
from rxrl.models.transformer import Decoder, LayerCache, MemoryKV

_WORTH_CAPTURING = 16
"""Steps from which on a capture, which takes as long as a few steps, is worth it."""
_FREE_ON_GPU = 256
"""Rows up to which capturing a smaller step costs more than computing finished rows in a larger one."""


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


def begin(
    decoder: Decoder, embedded: Tensor, mask: Tensor, stm: Tensor, new_tokens: int, graphs: GraphMemory | None = None
) -> tuple[Tensor, Decoding]:
    """Computes the prefix.

    Args:
        decoder: The decoder.
        embedded: Right-padded prompts, `[batch, time, dim]`.
        mask: bool `[batch, time]`, true for real tokens.
        stm: Memory, `[layers, batch, slots, dim]`.
        new_tokens: Steps that may follow.
        graphs: Memory of CUDA graphs; None: nothing is captured.

    Returns:
        Last hidden states of every row's last token, `[batch, dim]`, and what goes on from there.
    """
    batch, width = mask.shape
    memory = decoder.project_memory(stm)
    caches = decoder.new_cache(batch, width + new_tokens, embedded)
    hidden = decoder.step(embedded, torch.arange(width, device=mask.device), memory, caches, None)
    lengths = mask.sum(1)
    last = hidden[torch.arange(batch, device=mask.device), lengths - 1]
    if can_decode(decoder, embedded, memory):
        return last, KernelDecoding(decoder, memory, caches)
    if graphs is not None and _can_capture(embedded, new_tokens):
        return last, GraphDecoding(decoder, memory, caches, torch.cat([mask, mask.new_zeros(batch, new_tokens)], dim=1), graphs)
    readable = None if bool(mask.all()) else torch.cat([mask, mask.new_ones(batch, new_tokens)], dim=1)
    return last, PlainDecoding(decoder, memory, caches, readable)


def _can_capture(embedded: Tensor, new_tokens: int) -> bool:
    """On GPUs, where nothing has to wait for the device: more tokens are sorted by expert, in numbers that the next product needs."""
    return embedded.device.type == "cuda" and new_tokens >= _WORTH_CAPTURING and len(embedded) <= FEW_ON_GPU


class PlainDecoding:
    """The decoder's own step.

    Args:
        decoder: The decoder.
        memory: Keys and values of every layer's memory.
        caches: Keys and values of every layer's prefix, with room for the steps.
        readable: bool `[batch, columns]`, which columns of the caches may be read; None: all that are written.
    """

    def __init__(self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], readable: Tensor | None) -> None:
        self._decoder, self._memory, self._caches, self._readable = decoder, memory, caches, readable

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        readable = self._columns()
        mask = None if readable is None else readable[:, None, None]
        return self._decoder.step(embedded.unsqueeze(1), positions.unsqueeze(1), self._memory, self._caches, mask)[:, 0]

    def _columns(self) -> Tensor | None:
        """Which of the columns that the present step reads may be read."""
        return None if self._readable is None else self._readable[:, : self._caches[0].used + 1]

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        self._readable = None if self._readable is None else self._readable[rows]
        self._memory = [(keys[rows], values[rows]) for keys, values in self._memory]
        self._caches = [cache.select(rows) for cache in self._caches]

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return False


class GraphDecoding(PlainDecoding):
    """The same on a GPU, captured as a CUDA graph at the second step and replayed at all others.

    So that every step is the same work, all columns of the caches are read, and the present one is a number that the device counts.

    Args:
        decoder: As in `PlainDecoding`.
        memory: As in `PlainDecoding`.
        caches: As in `PlainDecoding`.
        written: bool `[batch, columns]`, true for real tokens of the prefix.
        graphs: Memory of the graphs.
    """

    def __init__(self, decoder: Decoder, memory: list[MemoryKV], caches: list[LayerCache], written: Tensor, graphs: GraphMemory) -> None:
        super().__init__(decoder, memory, caches, written)
        self._graphs, self._begun = graphs, False
        self._graph: CudaGraph | None = None
        self._present = torch.tensor([caches[0].used - 1], device=written.device)
        for cache in caches:
            # What the mask hides must still be a number.
            cache.keys[:, :, cache.used :] = 0
            cache.values[:, :, cache.used :] = 0
            cache.present = self._present

    def step(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """As in `Decoding`."""
        if not self._begun:
            # What libraries set up at their first use cannot be captured.
            self._begun = True
            return self._next(embedded, positions)
        if self._graph is None:
            self._graph = CudaGraph(self._graphs, self._next, embedded, positions)
        return self._graph(embedded, positions)

    def _next(self, embedded: Tensor, positions: Tensor) -> Tensor:
        assert self._readable is not None, "the columns that may be read are always told here"
        self._present.add_(1)
        self._readable.index_fill_(-1, self._present, True)
        return super().step(embedded, positions)

    def _columns(self) -> Tensor | None:
        return self._readable

    def keep(self, rows: Tensor) -> None:
        """As in `Decoding`."""
        super().keep(rows)
        self._begun, self._graph = False, None

    def is_free(self, rows: int) -> bool:
        """As in `Decoding`."""
        return rows <= _FREE_ON_GPU
