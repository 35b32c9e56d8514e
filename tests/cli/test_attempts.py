"""scripts/attempts.py: pass@k, and the table of it."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from rxrl.errors import DataError
from rxrl.evaluation.records import TurnRecord
from scripts.attempts import PLAYERS, attempts_table, pass_at, play_attempts, right_attempts
from tests.rewards.turns import make_turn


@pytest.mark.parametrize(("right", "attempts", "tries"), [(0, 5, 3), (2, 5, 1), (2, 5, 3), (3, 6, 4), (5, 5, 2)])
def test_pass_at_counts_the_draws_that_hold_a_right_one(right: int, attempts: int, tries: int) -> None:
    draws = list(combinations([True] * right + [False] * (attempts - right), tries))
    assert pass_at(right, attempts, tries) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_right_attempts_count_questions_alone() -> None:
    def record(index: int, retention: float | None) -> TurnRecord:
        return TurnRecord(make_turn(index=index), retention)

    played = [[record(1, 1.0), record(2, 0.5), record(3, None)], [record(1, 1.0), record(2, 1.0), record(3, None)]]
    key = played[0][0].turn.conversation_id
    assert right_attempts(played) == {(key, 1): 2, (key, 2): 1}


def test_the_table_pairs_questions(tmp_path: Path) -> None:
    for name, counts in zip(PLAYERS, ((0, 4), (4, 8), (4, 4)), strict=True):
        rows = [["a", 1, counts[0]], ["b", 1, counts[1]]]
        (tmp_path / f"run-{name.replace(' ', '-')}-2x8.json").write_text(json.dumps(rows))
    head, _, *rows = attempts_table([Path("run")], tmp_path, 2, 8)
    assert head == "| | pass@1 | pass@8 |"
    assert rows[0] == "| supervised | 0.250 [0.000, 0.500] | 0.500 [0.000, 1.000] |"
    assert rows[1].startswith("| after MRL | 0.750 [0.500, 1.000] | 1.000")
    assert rows[3] == "| after MRL - supervised | +0.500 [+0.500, +0.500] | +0.500 [+0.000, +1.000] |"
    assert rows[4] == "| after MRL - SMAT continued | +0.250 [+0.000, +0.500] | +0.000 [+0.000, +0.000] |"


def test_a_run_that_is_not_finished_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {level: 1, test_conversations: 2}\n")
    with pytest.raises(DataError, match="has no checkpoints/smat: give the folder of a finished"):
        play_attempts(tmp_path, tmp_path / "out", 2, 2, print)
