"""Randomness keyed by what it is for, so that batch order, batch size and process count never change a draw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TypeVar

import torch

T = TypeVar("T")


def derive_seed(*key: int | str) -> int:
    """Returns a seed in [0, 2**63) that depends on every part of `key`, for example `(seed, "stm0", iteration, conversation)`."""
    text = "\x1f".join([f"{_KINDS.get(type(part)) or _kind(part)}:{part}" for part in key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


_KINDS = {int: "int", str: "str"}


def _kind(part: object) -> str:
    """`int` for whole numbers of numpy, too, and `str` for its texts: the same value is the same key."""
    if isinstance(part, bool):
        return "bool"
    return "int" if isinstance(part, Integral) else "str" if isinstance(part, str) else type(part).__name__


def generator(*key: int | str) -> torch.Generator:
    """Returns a CPU generator seeded with `derive_seed(*key)`; draw on the CPU, then move the values to the device."""
    return torch.Generator().manual_seed(derive_seed(*key))


class Draws:
    """Draws that depend on a key and on how many came before, and on nothing else.

    Args:
        key: What the draws are for, for example `(seed, scenario, turn)`.
    """

    def __init__(self, *key: int | str) -> None:
        self._key, self._count = key, 0

    def below(self, limit: int) -> int:
        """A whole number from 0 to `limit - 1`."""
        self._count += 1
        return derive_seed(*self._key, self._count) % limit

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.below(2**31) < probability * 2**31

    def choice(self, values: Sequence[T]) -> T:
        """One of the values."""
        return values[self.below(len(values))]

    def shuffled(self, values: Iterable[T]) -> list[T]:
        """The values in a drawn order."""
        found = list(values)
        for last in range(len(found) - 1, 0, -1):
            other = self.below(last + 1)
            found[last], found[other] = found[other], found[last]
        return found
