"""References that are wrong on purpose: which ones, what they name, and that nothing else of a conversation changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rxrl.data.world import GeneratedSource
from rxrl.lexicon import VALUES
from scripts.wrong_references import KINDS, SHARE, SMAT, START, WrongReferences, evaluation_of, wrong_references_table

SOURCE = GeneratedSource(level=1, seed=0, split="train")
TAKEN = {"steps": 16, "strategy": "multi-step", "start": 7, "count": 150}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fifth_of_the_references_names_another_value_and_all_else_stays(kind: str) -> None:
    right = SOURCE.take(**TAKEN)
    wrong = WrongReferences(SOURCE, kind, 0).take(**TAKEN)
    asked = changed = rivals = 0
    for before, after in zip(right, wrong, strict=True):
        told: dict[str, str] = {}
        for one, other in zip(before.interactions, after.interactions, strict=True):
            assert replace(other, answer=one.answer) == one
            told |= dict(one.facts)
            asked += bool(one.asks)
            if one.answer != other.answer:
                assert one.asks
                [key] = one.asks
                values = VALUES[key.split(".")[1]]
                words = set(other.answer.lower().strip(".").split())
                assert told[key] not in words
                [named] = words & set(values)
                rivals += named in told.values()
                changed += 1
    assert changed / asked == pytest.approx(SHARE, abs=0.1)
    assert rivals > 0.6 * changed


def test_a_wrong_fact_is_wrong_wherever_it_is_asked_for() -> None:
    found: dict[str, set[bool]] = {}
    wrong = WrongReferences(SOURCE, "by fact", 0).take(**TAKEN)
    for before, after in zip(SOURCE.take(**TAKEN), wrong, strict=True):
        for one, other in zip(before.interactions, after.interactions, strict=True):
            if one.asks:
                found.setdefault(one.asks[0], set()).add(one.answer != other.answer)
    assert set(map(len, found.values())) == {1}
    assert {True} in found.values()
    assert {False} in found.values()


def test_what_is_wrong_depends_on_the_conversation_not_on_the_batch() -> None:
    source = WrongReferences(SOURCE, "at random", 3)
    taken = source.take(**TAKEN)
    assert source.take(**TAKEN | {"start": 17, "count": 5}) == taken[10:15]


def test_no_row_takes_the_place_of_another_and_the_table_of_nothing_has_no_rows() -> None:
    paths = {evaluation_of(Path(), kind, seed, name) for kind in KINDS for seed in (0, 1) for name in (START, SMAT, "MRL, reward")}
    assert len(paths) == 12
    assert len(wrong_references_table(Path("nowhere"), [0, 1])) == 2
