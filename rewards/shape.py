"""The shape of an answer, whatever it says: its length, its repetitions, and whether it is an answer at all.

Shapes only distinguish within right answers; what makes an answer right is in `rxrl.rewards.retention`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from rxrl.facts import contains, words
from rxrl.types import SPECIAL_TOKENS, Turn

_MARKUP = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS))
_PLAIN_RATIO, _PLAIN_WORDS = 1.5, 4
_LONGEST_RATIO, _LONGEST_WORDS = 3, 20
_LOOP = 0.4
_CLEAN = 0.9
_SHORT_ANSWER = 6
_COPY_MARGIN, _COPY_WORDS, _COPY_RUN, _COPY_SHARE = 5, 10, 4, 0.6
_QUERY_WORDS = 4
_COPIED_QUERY_FORM = 0.2


def longest(reference: Sequence[str]) -> int:
    """Words from which on an answer to this reference is too long to be one."""
    return _LONGEST_RATIO * len(reference) + _LONGEST_WORDS


def length_shape(answer: Sequence[str], reference: Sequence[str], *, at_least: bool) -> float:
    """How well the length of an answer fits.

    Args:
        answer: Words of the answer.
        reference: Words of the reference.
        at_least: Whether an answer shorter than half of the reference loses too (it does not where facts decide).

    Returns:
        In [0, 1]: 1 up to about one and a half times the reference, falling to 0 at `longest`; 0 for an empty answer.
    """
    size = len(answer)
    if not size:
        return 0.0
    half = len(reference) / 2
    if at_least and size < half:
        return size / half
    plain, most = _PLAIN_RATIO * len(reference) + _PLAIN_WORDS, longest(reference)
    return min(1.0, max(0.0, (most - size) / (most - plain)))


def _variety(parts: Sequence[str]) -> float:
    """Share of word pairs (of words too, where there are few) that are not repetitions."""
    if len(parts) < 2:
        return 1.0
    pairs = len(set(pairwise(parts))) / (len(parts) - 1)
    return min(pairs, len(set(parts)) / len(parts)) if len(parts) <= _SHORT_ANSWER else pairs


def repetition_shape(answer: Sequence[str], reference: Sequence[str]) -> float:
    """How little an answer repeats itself, compared with the reference.

    Args:
        answer: Words of the answer.
        reference: Words of the reference.

    Returns:
        In [0, 1]: 1 where it repeats no more than the reference (or hardly), 0 where it is a loop.
    """
    ratio = _variety(answer) / _variety(reference)
    return min(1.0, max(0.0, (ratio - _LOOP) / (_CLEAN - _LOOP)))


def copies_query(turn: Turn) -> bool:
    """Whether the answer holds the whole query, word by word, where the reference does not."""
    return len(words(turn.query)) >= _QUERY_WORDS and contains(turn.answer, turn.query) and not contains(turn.reference, turn.query)


def has_markup(answer: str) -> bool:
    """Whether an answer holds markup of the prompt, such as `[Q]`."""
    return _MARKUP.search(answer) is not None


def form(turn: Turn) -> float:
    """The form of an answer: length and repetition, without looking at what it says.

    Args:
        turn: Any turn.

    Returns:
        In [0, 1]. A right short answer has 1; an empty one, a loop, a very long one and one with prompt markup 0.
    """
    answer, reference = words(turn.answer), words(turn.reference)
    if has_markup(turn.answer):
        return 0.0
    shape = length_shape(answer, reference, at_least=not turn.asking) * repetition_shape(answer, reference)
    return shape * _COPIED_QUERY_FORM if copies_query(turn) else shape


def copies_saved(answer: Sequence[str], turn: Turn) -> bool:
    """Whether an answer well above the length of the reference consists mostly of runs of what was written before."""
    if len(answer) < max(_COPY_WORDS, len(words(turn.reference)) + _COPY_MARGIN):
        return False
    runs = _runs(answer)
    seen: set[tuple[str, ...]] = set()
    for each in turn.history or turn.saved:
        seen |= _runs(words(each.query)) | _runs(words(each.answer))
    return len(seen & runs) >= _COPY_SHARE * len(runs)


def _runs(parts: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(*(parts[start:] for start in range(_COPY_RUN)), strict=False))


def is_answer(turn: Turn) -> bool:
    """Whether the answer is one at all: neither a loop, nor far too long, nor a copy of what was written before, nor prompt markup."""
    answer, reference = words(turn.answer), words(turn.reference)
    if has_markup(turn.answer) or len(answer) > longest(reference):
        return False
    return repetition_shape(answer, reference) > 0.0 and not copies_saved(answer, turn)
