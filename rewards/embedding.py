"""Mean token embeddings for cosine terms, a default table that needs no model, and token ids where there is no tokenizer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rxrl.facts import words
from rxrl.seeding import derive_seed
from rxrl.types import SPECIAL_TOKENS

Embed = Callable[[Sequence[Sequence[int]]], Tensor]
"""Rows of token ids -> their mean embeddings `[batch, dim]`."""

_BUCKETS = 1 << 14
_WORD_IDS = 1 << 20


def mean_embeddings(table: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """Mean of the embeddings of each row's tokens.

    Args:
        table: Embeddings `[vocab, dim]`.
        rows: Token ids below `vocab`.

    Returns:
        `[batch, dim]`; zeros for an empty row.
    """
    return _means(table.detach(), *_flat(rows))


def cosines(first: Tensor, second: Tensor) -> list[float]:
    """Cosine of each row of `first` with that of `second` (`[batch, dim]`), negative ones cut to 0, in [0, 1]."""
    return [float(value) for value in F.cosine_similarity(first, second, dim=-1).clamp(0.0, 1.0).tolist()]


def word_ids(text: str) -> tuple[int, ...]:
    """Ids of the words of `text`, the same everywhere: stand-ins where token rewards run without a tokenizer."""
    return tuple(len(SPECIAL_TOKENS) + zlib.crc32(word.encode()) % _WORD_IDS for word in words(text))


def _flat(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ids in one array, and where each row begins."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    ids = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return ids, lengths.cumsum() - lengths


def _means(table: Tensor, ids: NDArray[np.int64], offsets: NDArray[np.int64]) -> Tensor:
    bags = (torch.from_numpy(array).to(table.device) for array in (ids, offsets))
    return F.embedding_bag(next(bags), table, next(bags), mode="mean")


class HashedEmbedding:
    """Fixed random vectors for token ids: equal tokens have equal vectors, different ones are almost orthogonal.

    Args:
        dim: Length of a vector.
        seed: Seed of the vectors.
    """

    def __init__(self, dim: int = 64, seed: int = 0) -> None:
        self.dim, self.seed = dim, seed
        self._table: Tensor | None = None

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean vectors of the rows, `[batch, dim]`."""
        if self._table is None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "hashed embedding", self.dim))
            self._table = torch.randn(_BUCKETS, self.dim, generator=generator)
        ids, offsets = _flat(rows)
        return _means(self._table, ids % _BUCKETS, offsets)

    def __getstate__(self) -> dict[str, object]:
        return {"dim": self.dim, "seed": self.seed, "_table": None}
