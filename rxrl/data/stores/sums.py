"""Running sums over many items, of which only every 4096th is held: where a position of a long stream lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
CHUNK = 4096
HELD = 64 * CHUNK
"""Items of mapped arrays that are looked at one after the other before their memory is given back."""


class RunningSums:
    """The items of a sequence laid end to end, each as long as its weight.

    Args:
        size: Number of items.
        weights: `(start, stop)` to the weights of those items, int64, not negative; the same at every call.

    Attributes:
        total: Sum of all weights.
    """

    def __init__(self, size: int, weights: Callable[[int, int], Whole]) -> None:
        self._size, self._weights = size, weights
        starts = range(0, size, CHUNK)
        self._coarse = np.zeros(len(starts) + 1, dtype=np.int64)
        np.cumsum([int(weights(at, min(at + CHUNK, size)).sum()) for at in starts], out=self._coarse[1:])
        self.total = int(self._coarse[-1])
        self._chunk = lru_cache(maxsize=16)(self._sums_of)

    def find(self, position: int) -> tuple[int, int]:
        """The item on which a position from 0 to `total - 1` lies, and how far within it."""
        chunk = int(np.searchsorted(self._coarse, position, side="right")) - 1
        sums, rest = self._chunk(chunk), position - int(self._coarse[chunk])
        item = int(np.searchsorted(sums, rest, side="right"))
        return chunk * CHUNK + item, rest - (int(sums[item - 1]) if item else 0)

    def items(self, positions: Whole) -> Whole:
        """The items on which many positions lie."""
        chunks = np.searchsorted(self._coarse, positions, side="right") - 1
        found = np.empty_like(positions)
        for chunk in np.unique(chunks):
            here = chunks == chunk
            found[here] = chunk * CHUNK + np.searchsorted(self._chunk(int(chunk)), positions[here] - self._coarse[chunk], side="right")
        return found

    def _sums_of(self, chunk: int) -> Whole:
        return np.cumsum(self._weights(chunk * CHUNK, min((chunk + 1) * CHUNK, self._size)))
