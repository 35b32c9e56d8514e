"""BLEU of token ids, for a whole batch at once.

Sentence BLEU (Papineni et al. 2002) with smoothing 4 of Chen and Cherry (2014) and the standard brevity penalty: the
same numbers as NLTK's `sentence_bleu` with `method4`. Clipped n-gram matches are counted by sorting: all n-grams of all
rows become integers, one sort puts equal ones side by side, and each has `min(in answer, in reference)` matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rxrl.errors import ConfigError

Smoothing = Literal["method4", "none"]

WEIGHTS = (0.2, 0.2, 0.3, 0.3)
_SMOOTHING_K = 5.0
_NOTHING = np.iinfo(np.int64).max
_MOST_ORDERS = 4
_PADDED = 1 << 20
"""Ids of a batch, padding included, up to which its rows are scored together."""


def pad_ids(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of ids as one array `[batch, time]`, padded with 0, and their lengths `[batch]`."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    ids = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    return ids, lengths


def bleu(
    answers: Sequence[Sequence[int]],
    references: Sequence[Sequence[int]],
    *,
    weights: Sequence[float] = WEIGHTS,
    smoothing: Smoothing = "method4",
    brevity: bool = True,
) -> NDArray[np.float64]:
    """Sentence BLEU of each answer against its one reference.

    Args:
        answers: Token ids, non-negative, `batch` rows of any length.
        references: Token ids, as many rows.
        weights: Weight of each n-gram order, 1 to 4 of them, not negative; usually they sum to 1.
        smoothing: "method4" gives orders without a match a small count that shrinks with the length; "none" makes the
            score 0 where an order has no match.
        brevity: Whether answers shorter than the reference are penalised.

    Returns:
        float64 `[batch]` in [0, 1]; 0 where no token matches.

    Raises:
        ConfigError: Wrong weights or smoothing, or the numbers of rows differ.
    """
    if not 1 <= len(weights) <= _MOST_ORDERS or min(weights) < 0:
        raise ConfigError(f"BLEU takes 1 to {_MOST_ORDERS} weights, none negative, got {tuple(weights)}.")
    if smoothing not in ("method4", "none"):
        raise ConfigError(f"BLEU smoothing is 'method4' or 'none', got {smoothing!r}.")
    if len(answers) != len(references):
        raise ConfigError(f"BLEU needs one reference for each answer, got {len(references)} for {len(answers)}.")
    if not len(answers):
        return np.zeros(0)
    scores = np.zeros(len(answers))
    for rows in _of_like_length(answers, references):
        scores[rows] = _batch([answers[row] for row in rows], [references[row] for row in rows], weights, smoothing, brevity)
    return scores


def _of_like_length(answers: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> list[list[int]]:
    """Rows that are scored together: all, or where one would make the padding of the others too long, those of like length."""
    longest = [max(len(answer), len(reference)) for answer, reference in zip(answers, references, strict=True)]
    if len(longest) * max(longest) <= _PADDED:
        return [list(range(len(longest)))]
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(longest):
        groups.setdefault(length.bit_length(), []).append(row)
    return list(groups.values())


def _batch(
    answers: Sequence[Sequence[int]], references: Sequence[Sequence[int]], weights: Sequence[float], smoothing: Smoothing, brevity: bool
) -> NDArray[np.float64]:
    answer_ids, answer_lengths = pad_ids(answers)
    reference_ids, reference_lengths = pad_ids(references)
    matches = _matches(answer_ids, answer_lengths, reference_ids, reference_lengths, len(weights))
    scores = _geometric_mean(matches, answer_lengths, np.asarray(weights, dtype=np.float64), smoothing)
    if brevity:
        short = answer_lengths < reference_lengths
        scores = scores * np.where(short, np.exp(1.0 - reference_lengths / np.maximum(answer_lengths, 1)), 1.0)
    return np.where(matches[0] > 0, scores, 0.0)


def _matches(
    answers: NDArray[np.int64],
    answer_lengths: NDArray[np.int64],
    references: NDArray[np.int64],
    reference_lengths: NDArray[np.int64],
    orders: int,
) -> NDArray[np.int64]:
    """Clipped n-gram matches, int64 `[orders, batch]`."""
    base = int(max(answers.max(), references.max())) + 1
    if base**orders * 2 >= _NOTHING:
        answers, references, base = _renumbered(answers, references)
    keys = np.concatenate(
        [_ngrams(answers, answer_lengths, base, orders, 0), _ngrams(references, reference_lengths, base, orders, 1)], axis=-1
    ).reshape(orders * len(answers), -1)
    keys.sort(axis=-1)
    last = np.ones(keys.shape, dtype=np.bool_)
    np.not_equal(keys[:, 1:], keys[:, :-1], out=last[:, :-1])
    ends = np.flatnonzero(last)
    sizes, values, rows = np.diff(ends, prepend=-1), keys.reshape(-1)[ends], ends // keys.shape[1]
    # The run of an n-gram in the reference follows that in the answer: their keys differ in the lowest bit alone.
    met = np.flatnonzero(((values[1:] ^ values[:-1]) == 1) & (rows[1:] == rows[:-1]))
    shared = np.minimum(sizes[met], sizes[met + 1])
    return np.bincount(rows[met], weights=shared, minlength=len(keys)).astype(np.int64).reshape(orders, len(answers))


def _renumbered(answers: NDArray[np.int64], references: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The same ids numbered densely, so that an n-gram of large ids still fits 63 bits."""
    known, dense = np.unique(np.concatenate([answers.reshape(-1), references.reshape(-1)]), return_inverse=True)
    return dense[: answers.size].reshape(answers.shape), dense[answers.size :].reshape(references.shape), len(known)


def _ngrams(ids: NDArray[np.int64], lengths: NDArray[np.int64], base: int, orders: int, tag: int) -> NDArray[np.int64]:
    """Every n-gram of every order as one integer whose lowest bit is `tag`, `[orders, batch, time]`."""
    batch, time = ids.shape
    keys = np.full((orders, batch, time), _NOTHING, dtype=np.int64)
    gram = np.zeros_like(ids)
    for order in range(min(orders, time)):
        size = time - order
        gram = gram[:, :size] * base + ids[:, order:]
        inside = np.arange(size) < (lengths - order)[:, None]
        keys[order, :, :size] = np.where(inside, gram * 2 + tag, _NOTHING)
    return keys


def _geometric_mean(
    matches: NDArray[np.int64], lengths: NDArray[np.int64], weights: NDArray[np.float64], smoothing: Smoothing
) -> NDArray[np.float64]:
    orders = np.arange(len(weights))[:, None]
    totals = np.maximum(lengths - orders, 1)
    missing = matches == 0
    if smoothing == "none":
        logs = np.where(missing, -np.inf, np.log(np.maximum(matches, 1) / totals))
        means: NDArray[np.float64] = np.exp(np.where(weights[:, None] > 0, weights[:, None] * logs, 0.0).sum(axis=0))
        return means
    # An answer of one token has no longer n-grams to smooth: those orders drop out, as in NLTK.
    smoothed = missing & (lengths > 1)
    steps = np.cumsum(smoothed, axis=0)
    counts = np.where(smoothed, np.log(np.maximum(lengths, 2)) / (_SMOOTHING_K * 2.0**steps), matches)
    logs = np.log(np.where(counts > 0, counts / totals, 1.0))
    scores: NDArray[np.float64] = np.exp((weights[:, None] * logs).sum(axis=0))
    return scores
