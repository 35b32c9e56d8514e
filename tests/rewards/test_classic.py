"""The published reward against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rxrl.rewards import Classic, HashedEmbedding, load_reward
from rxrl.types import Turn
from tests.rewards.turns import make_turn, saved

ANSWER = (10, 11, 12, 13)
EARLIER = (saved(query_ids=(10,), answer_ids=(11,)), saved(query_ids=(30,), answer_ids=(31,)))
SAVED = (saved(query_ids=(10, 11), answer_ids=(20, 21)),)

# Two of four words, one of three pairs, then Chen and Cherry's counts 1 / (2^i * 5 / ln 4) over 2 and 1.
BLEU_SAVED = 0.5**0.2 * (1 / 3) ** 0.2 * (math.log(4) / 10 / 2) ** 0.3 * (math.log(4) / 20) ** 0.3
COSINE_SAVED = 0.5
# Running mean 0.2 * first + 0.8 * second: 0.1 on tokens 10 and 11, 0.4 on 30 and 31.
COSINE_MEAN = (0.25 * 0.1 * 2) / (0.5 * math.sqrt(2 * 0.1**2 + 2 * 0.4**2))


def one_hot(rows: Sequence[Sequence[int]]) -> Tensor:
    vectors = torch.zeros(len(rows), 40)
    for row, ids in enumerate(rows):
        for token in ids:
            vectors[row, token] += 1 / len(ids)
    return vectors


def turn(**changes: Any) -> Turn:
    fields = {"answer_ids": ANSWER, "reference_ids": ANSWER, "saved": SAVED, "index": 1, "history": EARLIER[:1]}
    return make_turn("x", **{**fields, **changes})


def score(**changes: Any) -> tuple[float | None, dict[str, float | None]]:
    [result] = Classic(embed=one_hot)([turn(**changes)])
    return result.value, dict(result.terms)


def test_multi_step_first_turn() -> None:
    bleu, cosine = 0.4 + 0.6 * BLEU_SAVED, 0.35 + 0.65 * COSINE_SAVED
    value, terms = score()
    assert value == pytest.approx(10 * (0.4 * bleu + 0.5 * cosine + 0.1), abs=1e-6)
    assert terms == pytest.approx({"bleu": 10 * bleu, "cosine": 10 * cosine, "length": 10.0}, abs=1e-6)


def test_multi_step_later_turn() -> None:
    bleu, cosine = 0.4 + 0.6 * BLEU_SAVED, 0.3 + 0.5 * COSINE_SAVED + 0.2 * COSINE_MEAN
    value, _ = score(index=2, history=EARLIER)
    assert value == pytest.approx(10 * (0.4 * bleu + 0.5 * cosine + 0.1), abs=1e-6)


def test_long_range_later_turn() -> None:
    bleu, cosine = 0.4 + 0.6 * BLEU_SAVED, 0.3 + 0.5 * COSINE_SAVED + 0.2 * (1 - COSINE_MEAN)
    value, _ = score(index=2, history=EARLIER, strategy="long-range")
    assert value == pytest.approx(10 * (0.4 * bleu + 0.5 * cosine + 0.1), abs=1e-6)


def test_topic_change() -> None:
    bleu, cosine = 0.3 + 0.7 * (1 - BLEU_SAVED), 0.3 + 0.7 * (1 - COSINE_SAVED)
    value, _ = score(strategy="long-range")
    assert value == pytest.approx(10 * (0.45 * bleu + 0.45 * cosine + 0.1), abs=1e-6)


def test_length_below_and_above_the_reference() -> None:
    assert score(answer_ids=(10, 11))[1]["length"] == pytest.approx(5.0)
    assert score(answer_ids=ANSWER * 4)[1]["length"] == pytest.approx(2.5)
    assert score(answer_ids=())[1] == {"bleu": 0.0, "cosine": 0.0, "length": 0.0}


def test_negative_cosines_count_as_nothing() -> None:
    def opposite(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([[1.0] if tuple(row) == ANSWER else [-1.0] for row in rows])

    [result] = Classic(embed=opposite)([turn(reference_ids=(10,))])
    assert result.terms["cosine"] == 0.0


def test_every_coefficient_is_an_option_and_weights_are_normalised() -> None:
    reward = load_reward({"use": "classic", "parts": {"bleu": 0, "cosine": 0, "length": 4}}, embed=one_hot)
    assert reward([turn(answer_ids=(10, 11))])[0].value == pytest.approx(5.0)
    reward = load_reward({"use": "classic", "bleu_against": {"reference": 1, "saved": 0}}, embed=one_hot)
    assert reward([turn()])[0].terms["bleu"] == pytest.approx(10.0)


def test_batch_order_changes_nothing() -> None:
    turns = [turn(), turn(index=2, history=EARLIER), turn(strategy="long-range"), turn(answer_ids=()), turn(index=2, history=EARLIER[::-1])]
    reward = Classic()
    together = [score.value for score in reward(turns)]
    assert together == pytest.approx([reward([each])[0].value for each in turns], abs=1e-6)
    assert together[::-1] == pytest.approx([score.value for score in reward(turns[::-1])], abs=1e-6)


def test_hashed_embeddings_depend_on_the_token_alone() -> None:
    first, second = HashedEmbedding()([(7,), (8, 9), ()]), HashedEmbedding()([(8, 9), (7,)])
    torch.testing.assert_close(first[:2], second.flip(0))
    assert not first[2].any()
    assert abs(torch.cosine_similarity(first[0], first[1], dim=0)) < 0.5
