"""A linear probe of facts in memory: ridge regression from the whole memory to the value of each attribute."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Labels = Sequence[Sequence[tuple[str, str]]]
"""For each conversation, attribute and value of the fact of each interaction."""
PENALTIES = (0.003, 0.03, 0.3)
"""Ridge penalties to choose from, as shares of the mean squared length of a memory."""
HELD_OUT = 5
"""One in this many of the fitted conversations chooses the penalty."""

Array = NDArray[np.float64]


def stored_facts(fitted: tuple[Labels, Tensor], asked: tuple[Labels, Tensor]) -> tuple[Array, float]:
    """Which facts can be read off the memory.

    One classifier for each attribute is fitted on the memories after it was told, of all ages together, in the `fitted` conversations.

    Args:
        fitted: Labels and memories `[writes + 1, layers, batch, slots, dim]` of the conversations to learn from.
        asked: The same of the conversations to read.

    Returns:
        `[conversations, told, asked]`: 1 where the value is read rightly after the interaction `asked`, 0 where not, NaN where the fact was
        not told yet; and the share that always guessing the commonest value would get right. An attribute that no fitted conversation tells
        is never read.
    """
    names, facts = sorted({attribute for row in (*fitted[0], *asked[0]) for attribute, _ in row}), len(asked[0][0])
    train, test = (_features(memories) for memories in (fitted[1], asked[1]))
    centre, scale = train.mean((0, 1)), train.std((0, 1)) + 1e-6
    train, test = (train - centre) / scale, (test - centre) / scale
    found = np.full((len(asked[0]), facts, facts), np.nan)
    right, total = 0.0, 0
    for name in names:
        rows, values = _examples(fitted[0], name)
        places, truths = _examples(asked[0], name)
        if not places:
            continue
        guesses, commonest = _guesses(train, rows, values, _taken(test, places)), max(sorted(set(values)), key=values.count, default=None)
        for (row, write), truth, guess in zip(places, truths, guesses, strict=True):
            told = next(number for number, (attribute, _) in enumerate(asked[0][row]) if attribute == name)
            found[row, told, write] = float(guess == truth)
        right, total = right + sum(truth == commonest for truth in truths), total + len(truths)
    return found, right / max(total, 1)


def _guesses(train: Array, rows: Sequence[tuple[int, int]], values: Sequence[str], wanted: Array) -> Sequence[str | None]:
    """The value that the classifier of an attribute reads from each of `wanted`; none where there was nothing to fit it on."""
    if not rows:
        return [None] * len(wanted)
    known = sorted(set(values))
    inner = [number for number, (row, _) in enumerate(rows) if row % HELD_OUT]
    outer = [number for number, (row, _) in enumerate(rows) if not row % HELD_OUT]
    left = _taken(train, rows)
    return _classified(left, values, known, wanted, _chosen(left, values, known, inner, outer))


def _features(memories: Tensor) -> Array:
    """`[writes, batch, features]`: the memory after each write as one vector."""
    return memories[1:].permute(0, 2, 1, 3, 4).flatten(2).double().numpy()


def _examples(labels: Labels, name: str) -> tuple[list[tuple[int, int]], list[str]]:
    """(conversation, write) of all memories that hold the attribute, and its value in each."""
    found = [
        ((row, write), value)
        for row, told in enumerate(labels)
        for number, (attribute, value) in enumerate(told)
        if attribute == name
        for write in range(number, len(told))
    ]
    return [place for place, _ in found], [value for _, value in found]


def _taken(features: Array, places: Sequence[tuple[int, int]]) -> Array:
    rows, writes = zip(*places, strict=True)
    return np.asarray(features[list(writes), list(rows)])


def _chosen(features: Array, values: Sequence[str], known: Sequence[str], inner: Sequence[int], outer: Sequence[int]) -> float:
    """The penalty that does best on conversations that were left out."""
    if not inner or not outer:
        return PENALTIES[1]
    truths, of_inner = [values[each] for each in outer], [values[each] for each in inner]

    def share(penalty: float) -> float:
        guesses = _classified(features[list(inner)], of_inner, known, features[list(outer)], penalty)
        return sum(guess == truth for guess, truth in zip(guesses, truths, strict=True)) / len(truths)

    return max(PENALTIES, key=share)


def _classified(features: Array, values: Sequence[str], known: Sequence[str], wanted: Array, penalty: float) -> list[str]:
    """The likeliest value of each of `wanted`; ridge regression in its dual form, which memories of any size fit into."""
    targets = np.array([[float(value == each) for each in known] for value in values])
    mean = targets.mean(0)
    gram = features @ features.T
    gram[np.diag_indices(len(gram))] += penalty * np.trace(gram) / len(gram) * len(gram) ** 0.5
    weights = np.linalg.solve(gram, targets - mean)
    scores = (wanted @ features.T) @ weights + mean
    return [known[place] for place in scores.argmax(1)]
