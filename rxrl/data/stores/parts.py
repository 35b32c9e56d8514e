"""Two parts of a store that share no document: to train on, and to validate on."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rxrl.data.stores.permutation import mixed
from rxrl.data.stores.sums import CHUNK, HELD
from rxrl.errors import DataError
from rxrl.reading import let_go
from rxrl.seeding import derive_seed

Part = Literal["all", "train", "validation"]
FEW = 200
"""Documents below which sections of them are parted, not documents."""


class Parting:
    """Parts items at random: those with the same key are always on the same side.

    Args:
        keys: Hash of what each item says, uint64.
        seed: Key of the draw.
        share: Share of the items that validate, about; at least one item, and not all.
        name: Of the store, for messages.

    Raises:
        DataError: There are fewer than two different items.
    """

    def __init__(self, keys: NDArray[np.uint64], seed: int, share: float, name: str) -> None:
        self._keys, self._key = keys, np.uint64(derive_seed(seed, "held out"))
        values = (self._drawn(slice(at, at + CHUNK)) for at in range(0, len(keys), CHUNK))
        least, most = 1 << 64, -1
        inside = outside = False
        threshold = int(share * 2.0**64)
        for each in values:
            least, most = min(least, int(each.min())), max(most, int(each.max()))
            low = bool((each < np.uint64(threshold)).any())
            inside, outside = inside or low, outside or bool((each >= np.uint64(threshold)).any())
        if least >= most:
            raise DataError(f"{name} holds one text: give at least two, one to train on and one to validate.")
        self._limit = np.uint64(threshold if inside and outside else least + 1 if not inside else most)

    def kept(self, part: Part, items: slice | NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which of these items belong to a part, bool `[items]`."""
        held_out: NDArray[np.bool_] = self._drawn(items) < self._limit
        return held_out if part == "validation" else ~held_out

    def _drawn(self, items: slice | NDArray[np.integer]) -> NDArray[np.uint64]:
        drawn = mixed(self._keys[items], self._key)
        if isinstance(items, slice) and items.start % HELD == 0:
            let_go(self._keys)
        return drawn


def shared_keys(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> int:
    """How many items of the second have a key that one of the first has."""
    known = np.unique(second)
    seen = np.zeros(len(known), dtype=bool)
    for at in range(0, len(first), CHUNK):
        seen |= np.isin(known, first[at : at + CHUNK])
    return int(np.isin(second, known[seen]).sum())
