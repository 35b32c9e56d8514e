"""Memory backends that need no model: none at all, and a transcript of what was said.

A backend is three functions over an opaque value that goes in and comes out (`rxrl.types.MemoryBackend`); this page is
an example of how little one takes. Evaluation with controls wants a fourth, `select_rows`, which picks rows in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rxrl.errors import ConfigError
from rxrl.types import TokenBatch

T = TypeVar("T")


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


class Live(Generic[T]):
    """A handle that carries a live object (a model, a backend) through deep copies as itself.

    Gymnasium deep-copies the keyword arguments of an environment into its spec and again when it makes it; a model
    must stay the one that is being trained.

    Attributes:
        value: The object.
    """

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __copy__(self) -> Live[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Live[T]:
        return self

    def __repr__(self) -> str:
        return f"Live({type(self.value).__name__})"


def unwrap(value: Any) -> Any:
    """Returns what a `Live` handle carries; any other value as it is."""
    return value.value if isinstance(value, Live) else value
