"""Where keys and values stand in a cache that grows by one column a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rxrl.models.transformer import LayerCache


class Columns(Protocol):
    """Which columns of a cache the present step writes and reads."""

    def advance(self) -> None:
        """Goes on to the next column."""
        ...

    def open(self, mask: Tensor, value: float) -> None:
        """Lets the present column of a mask `[..., columns]` be read."""
        ...

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """Puts `new`, which lacks the axis `dim`, into the present column."""
        ...

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """What has been written, the present column included, and perhaps more that a mask hides."""
        ...


class FirstColumns:
    """Those that are written, and no more: what is read grows with each step."""

    def __init__(self, used: int) -> None:
        self._used = used

    def advance(self) -> None:
        """As in `Columns`."""
        self._used += 1

    def open(self, mask: Tensor, value: float) -> None:
        """As in `Columns`; a mask hides nothing of what is to come."""

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """As in `Columns`."""
        cache.select(dim, self._used - 1).copy_(new)

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """As in `Columns`."""
        return cache.narrow(dim, 0, self._used)


class FixedColumns:
    """All of them at each step, the present one by a number that the device counts: every step is the same work."""

    def __init__(self, present: Tensor) -> None:
        self._present = present

    @classmethod
    def of(cls, caches: Sequence[LayerCache]) -> FixedColumns:
        """Behind what caches hold; what follows there is cleared, because what a mask hides must still be a number."""
        for cache in caches:
            cache.keys[:, :, cache.used :] = 0
            cache.values[:, :, cache.used :] = 0
        present = torch.tensor([caches[0].used - 1], device=caches[0].keys.device)
        for cache in caches:
            cache.present = present
        return cls(present)

    def advance(self) -> None:
        """As in `Columns`."""
        self._present.add_(1)

    def open(self, mask: Tensor, value: float) -> None:
        """As in `Columns`."""
        mask.index_fill_(-1, self._present, value)

    def write(self, cache: Tensor, dim: int, new: Tensor) -> None:
        """As in `Columns`."""
        cache.index_copy_(dim, self._present, new.unsqueeze(dim))

    def read(self, cache: Tensor, dim: int) -> Tensor:
        """As in `Columns`."""
        return cache
