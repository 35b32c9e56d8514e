"""BLEU against NLTK's."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.errors import ConfigError
from rxrl.rewards import bleu

IDS = st.lists(st.one_of(st.integers(7, 12), st.integers(10_000, 10_003)), max_size=14)


@given(
    st.lists(st.tuples(IDS, IDS.filter(bool)), min_size=1, max_size=6),
    st.sampled_from([(0.2, 0.2, 0.3, 0.3), (0.25,) * 4, (0.5, 0.5), (1.0,)]),
)
def test_equals_nltk(pairs: list[tuple[list[int], list[int]]], weights: tuple[float, ...]) -> None:
    from nltk.translate import bleu_score as nltk

    smooth = nltk.SmoothingFunction().method4
    want = [nltk.sentence_bleu([r], a, weights=weights, smoothing_function=smooth) if a else 0.0 for a, r in pairs]
    got = bleu([a for a, _ in pairs], [r for _, r in pairs], weights=weights)
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_large_ids_and_long_rows() -> None:
    from nltk.translate import bleu_score as nltk

    rng = random.Random(0)
    rows = [[rng.choice((3, 5, 2**20, 2**31, 2**40)) for _ in range(200)] for _ in range(4)]
    want = nltk.sentence_bleu([rows[1]], rows[0], weights=(0.2, 0.2, 0.3, 0.3), smoothing_function=nltk.SmoothingFunction().method4)
    assert bleu(rows[:1], rows[1:2])[0] == pytest.approx(want, abs=1e-12)


def test_known_values() -> None:
    assert bleu([[7, 8, 9, 10]], [[7, 8, 9, 10]])[0] == pytest.approx(1.0)
    assert bleu([[7]], [[7]])[0] == pytest.approx(1.0)
    assert bleu([[7]], [[8]])[0] == 0.0
    assert bleu([[]], [[8]])[0] == 0.0
    assert bleu([[8]], [[]])[0] == 0.0
    assert bleu([], []).shape == (0,)
    assert bleu([[7, 8, 9, 10]], [[7, 8, 9, 11]], smoothing="none")[0] == 0.0
    assert bleu([[7, 8]], [[7, 8, 9, 10]], weights=(1.0,))[0] == pytest.approx(math.exp(-1))
    assert bleu([[7, 8]], [[7, 8, 9, 10]], weights=(1.0,), brevity=False)[0] == pytest.approx(1.0)
    assert bleu([[7, 7, 7, 7]], [[7, 7, 8, 9]], weights=(1.0,))[0] == pytest.approx(0.5)


@given(st.lists(st.tuples(IDS, IDS), min_size=2, max_size=5))
def test_a_row_does_not_depend_on_the_others(pairs: list[tuple[list[int], list[int]]]) -> None:
    together = bleu([a for a, _ in pairs], [r for _, r in pairs])
    np.testing.assert_array_equal(together, [bleu([a], [r])[0] for a, r in pairs])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights"):
        bleu([[7]], [[7]], weights=())
    with pytest.raises(ConfigError, match="one reference for each"):
        bleu([[7]], [])
    with pytest.raises(ConfigError, match="smoothing"):
        bleu([[7]], [[7]], smoothing="method9")  # type: ignore[arg-type]
