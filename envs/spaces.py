"""The spaces of queries and answers: texts as people write them, and padded token ids."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import CustomSpaceError
from gymnasium.vector.utils import create_shared_memory, read_from_shared_memory, write_to_shared_memory

_SAMPLE_LENGTH = 32
_SAMPLED = frozenset(string.ascii_letters + string.digits + " .,?!'")


class UnicodeText(spaces.Text):
    """All texts that people write, up to a number of characters; prints short and samples printable ASCII.

    Args:
        max_length: Most characters.
        seed: Seed of the samples.
    """

    def __init__(self, max_length: int = 2**16, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=_SAMPLED, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A random text of at most 32 characters, or of the length that `mask` asks for."""
        if mask is None and probability is None:
            mask = (int(self.np_random.integers(1, min(_SAMPLE_LENGTH, self.max_length) + 1)), None)
        return super().sample(mask, probability)

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long, without halves of characters (lone surrogates)."""
        return isinstance(x, str) and len(x) <= self.max_length and is_unicode(x)

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((type(self), self.max_length))


def _no_shared_memory(space: UnicodeText, *_: Any, **__: Any) -> Any:
    raise CustomSpaceError(f"{space!r} cannot be shared between processes: make the environment with shared_memory=False.")


# Without these, those of `spaces.Text` would serve, which know the characters of its charset only and give others back as garbage.
for _function in (create_shared_memory, read_from_shared_memory, write_to_shared_memory):
    _function.register(UnicodeText, _no_shared_memory)


def is_unicode(text: str) -> bool:
    """Whether `text` can be written down: JSON and terminals sometimes deliver half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def box_of_ids(size: int, top: int) -> spaces.Dict:
    """Up to `size` ids, each at most `top`, with their number: what a batch of rows is made of."""
    return spaces.Dict({"ids": spaces.Box(0, top, (size,), np.int64), "length": spaces.Discrete(size + 1)})


def padded_ids(size: int, top: int) -> spaces.Dict:
    """The same for a single conversation."""
    # Not a Box: Gymnasium would advise to scale it to [-1, 1].
    return spaces.Dict({"ids": spaces.MultiDiscrete([top + 1] * size), "length": spaces.Discrete(size + 1)})
