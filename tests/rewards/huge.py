"""Answers of a megabyte, of the kinds that work on text is slow on."""

from __future__ import annotations

from rxrl.rewards import word_ids
from rxrl.types import Turn
from tests.rewards.turns import make_turn

SIZE = 1 << 20
KINDS = {
    "combining marks": "\u0315\u0300",
    "ligatures of 18 letters": "\ufdfa",
    "negations": "not a cat, ",
    "contractions": "n't'",
    "one word": "x",
}
"""What each answer repeats."""
ALONE = frozenset({"judge", "from_trl", "semantic"})
"""Rewards that need an endpoint, a function or a model."""


def huge_turn(kind: str, size: int = SIZE) -> Turn:
    """A turn whose answer has `size` bytes and, where it has words, half as many tokens."""
    piece = KINDS[kind]
    text = "a" + piece * (size // len(piece.encode()))
    some = word_ids(text[:10_000])
    return make_turn(text, answer_ids=(some * (size // len(some)))[: size // 2], reference_ids=(7, 8, 9))
