"""Memory backends that need no model: none at all, a transcript of what was said, and one that hands rows each other's memory.

A backend is four functions over an opaque value that goes in and comes out (`rxrl.types.MemoryBackend`); this page is
an example of how little one takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rxrl.errors import ConfigError
from rxrl.types import MemoryBackend, TokenBatch


class NoMemory:
    """A backend that keeps nothing: what a model without memory sees."""

    def init(self, seeds: Sequence[int]) -> None:
        """Fresh memory: nothing."""

    def write(self, memory: None, interactions: TokenBatch, rows: Tensor) -> None:
        """Memory after a write: still nothing."""

    def reset_rows(self, memory: None, rows: Tensor, fresh: None) -> None:
        """Memory after rows were reset: still nothing."""

    def select_rows(self, memory: None, indices: Sequence[int]) -> None:
        """Memory of some rows: still nothing."""


@dataclass(frozen=True, slots=True)
class Transcripts:
    """What `TranscriptMemory` holds.

    Attributes:
        rows: For each row of the batch its interactions, oldest first, each as ids `[BOS] [Q] query [A] answer [EOS]`.
    """

    rows: tuple[tuple[tuple[int, ...], ...], ...]

    def token_counts(self) -> NDArray[np.int64]:
        """Returns int64 `[batch]`: tokens that a stateless model would have to re-read for each row."""
        return np.array([sum(map(len, row)) for row in self.rows], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class TranscriptMemory:
    """A backend that keeps the interactions themselves, for policies that re-read everything.

    Attributes:
        last: Number of latest interactions to keep, at least 1; None keeps all.
    """

    last: int | None = None

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise ConfigError(f"A transcript keeps at least 1 interaction, got last={self.last}; use memory=None to keep nothing.")

    def init(self, seeds: Sequence[int]) -> Transcripts:
        """Fresh memory of `len(seeds)` rows: empty transcripts, whatever the seeds."""
        return Transcripts(((),) * len(seeds))

    def write(self, memory: Transcripts, interactions: TokenBatch, rows: Tensor) -> Transcripts:
        """Memory after appending the interaction of each row where `rows` (bool `[batch]`) is true."""
        start = 0 if self.last is None else -self.last
        kept = zip(memory.rows, interactions.rows(), rows.tolist(), strict=True)
        return Transcripts(tuple((*row, tuple(ids))[start:] if write else row for row, ids, write in kept))

    def reset_rows(self, memory: Transcripts, rows: Tensor, fresh: Transcripts) -> Transcripts:
        """Memory with the rows where `rows` (bool `[batch]`) is true taken from `fresh`."""
        pairs = zip(memory.rows, fresh.rows, rows.tolist(), strict=True)
        return Transcripts(tuple(new if reset else old for old, new, reset in pairs))

    def select_rows(self, memory: Transcripts, indices: Sequence[int]) -> Transcripts:
        """Memory whose row i is row `indices[i]` of `memory`."""
        return Transcripts(tuple(memory.rows[index] for index in indices))


@dataclass(frozen=True, slots=True)
class SwappedMemory:
    """A control: row i of the memory is that of the conversation in row `(i + shift) % batch`, never its own.

    A policy that does as well with it as with its own memory does not use memory. Rows that were never begun lend an empty one.

    Attributes:
        backend: What holds the conversations.
        shift: How many rows away the memory comes from, at least 1; no multiple of the batch.
    """

    backend: MemoryBackend
    shift: int = 1

    def __post_init__(self) -> None:
        if self.shift < 1:
            raise ConfigError(f"Memories are swapped with a row at least 1 away, got shift={self.shift}.")

    def init(self, seeds: Sequence[int]) -> Any:
        """Fresh memory of the rows' partners."""
        return self.backend.init([seeds[partner] for partner in self._partners(len(seeds))])

    def write(self, memory: Any, interactions: TokenBatch, rows: Tensor) -> Any:
        """Memory after each row's partner was written."""
        order = self._partners(len(rows))
        return self.backend.write(memory, TokenBatch(interactions.ids[order], interactions.mask[order]), rows[order])

    def reset_rows(self, memory: Any, rows: Tensor, fresh: Any) -> Any:
        """Memory with the rows taken from `fresh` whose partners are reset."""
        return self.backend.reset_rows(memory, rows[self._partners(len(rows))], fresh)

    def select_rows(self, memory: Any, indices: Sequence[int]) -> Any:
        """Memory of some rows, swapped as they are."""
        return self.backend.select_rows(memory, indices)

    def _partners(self, batch: int) -> list[int]:
        if self.shift % batch == 0:
            raise ConfigError(
                f"Swapped memory needs another row to swap with, but of {batch} rows the one {self.shift} away is the row itself: "
                "use more rows, or another shift."
            )
        return torch.arange(batch).roll(-self.shift).tolist()
