"""Answers of a megabyte, of the kinds that text work is slow on: every reward has its score, and does no more work than it needs.

How long it takes is measured in `tests/benchmarks/rewards.py`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rxrl.errors import ConfigError
from rxrl.rewards import BUILT_IN, bleu, load_reward
from rxrl.scoring import score_turns
from tests.rewards.huge import ALONE, KINDS, SIZE, huge_turn
from tests.rewards.turns import make_turn


@pytest.mark.parametrize("kind", KINDS)
def test_every_reward_scores_them(kind: str) -> None:
    turn = huge_turn(kind)
    for name in sorted(BUILT_IN.keys() - ALONE):
        huge, short = score_turns(load_reward(name), [turn, replace(turn, answer="a", answer_ids=(7,))])
        assert (huge.value is None) == (short.value is None)
        assert huge.value is None or 0.0 <= huge.value <= 10.0


def test_one_long_answer_does_not_lengthen_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["rxrl.rewards.bleu"]
    short, long = tuple(range(7, 17)), tuple(range(7, 20)) * 20_000
    answers, references = [short] * 63 + [long], [short[:8], *[short] * 62, long[:200_000]]
    alone = [float(bleu([answer], [reference])[0]) for answer, reference in zip(answers, references, strict=True)]
    padded: list[int] = []
    pad = module.pad_ids

    def counted(rows: Any) -> Any:
        ids, lengths = pad(rows)
        padded.append(ids.size)
        return ids, lengths

    monkeypatch.setattr(module, "pad_ids", counted)
    np.testing.assert_array_equal(bleu(answers, references), alone)
    assert sum(padded) < 1.1 * sum(map(len, [*answers, *references]))


def test_a_pattern_that_backtracks_for_ever_is_matched_in_linear_time() -> None:
    pytest.importorskip("re2", reason="needs the extra `patterns`")
    for pattern in (r"(a+)+b", r"(a|aa)+$b", r"(.*)*(.*)*x"):
        reward = load_reward({"use": "format", "pattern": pattern})
        scores = score_turns(reward, [make_turn("a" * SIZE), make_turn("half \ud83d")])
        assert [score.terms["pattern"] for score in scores] == [0.0, 0.0]


@pytest.mark.parametrize("pattern", ["(?=a)a", r"(a)\1", "(?<!a)b", "(a{1000}){1000}", "\ud83d"])
def test_a_pattern_that_cannot_be_matched_in_linear_time_is_refused(pattern: str) -> None:
    pytest.importorskip("re2", reason="needs the extra `patterns`")
    with pytest.raises(ConfigError, match=r"pattern.*no regular expression of RE2"):
        load_reward({"use": "format", "pattern": pattern})


@pytest.mark.parametrize(
    ("pattern", "answer", "kept"), [("a.*z", "a\nz", 10.0), (r"\p{L}+", "zo\u00eb", 10.0), ("a", "ab", 0.0), ("A|b", "b", 10.0)]
)
def test_a_pattern_matches_the_whole_answer(pattern: str, answer: str, kept: float) -> None:
    pytest.importorskip("re2", reason="needs the extra `patterns`")
    [score] = score_turns(load_reward({"use": "format", "pattern": pattern}), [make_turn(answer)])
    assert score.terms["pattern"] == kept
