"""A seeded order of the numbers below n that is computed where it is asked for and never held."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rxrl.seeding import derive_seed

Numbers: TypeAlias = "NDArray[np.uint64]"
_ROUNDS = 6


class Permutation:
    """A permutation of 0 to `size - 1`: a Feistel network over the next power of four, walked on until it falls below `size`.

    Luby and Rackoff 1988 (SIAM J. Comput. 17) for the network, Black and Rogaway 2002 (CT-RSA) for the walk.

    Args:
        size: How many numbers are put in order, at least 1.
        key: What the order depends on, as for `rxrl.seeding.derive_seed`.
    """

    def __init__(self, size: int, *key: int | str) -> None:
        self.size = size
        self._half = np.uint64(max(1, (max(1, size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = [np.uint64(derive_seed(*key, "feistel", number)) for number in range(_ROUNDS)]

    def __call__(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """The numbers at these positions of the order, int64, each position from 0 to `size - 1`."""
        values = self._once(np.asarray(positions, dtype=np.uint64))
        while (beyond := values >= self.size).any():
            values[beyond] = self._once(values[beyond])
        return values.astype(np.int64)

    def _once(self, values: Numbers) -> Numbers:
        left, right = values >> self._half, values & self._mask
        for key in self._keys:
            left, right = right, left ^ (mixed(right, key) & self._mask)
        return (left << self._half) | right


def mixed(values: Numbers, key: np.uint64) -> Numbers:
    """The finaliser of SplitMix64 (Steele et al. 2014), keyed: numbers that look random, the same for the same number and key."""
    values = (values ^ key) + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
