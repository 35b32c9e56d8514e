"""References that are wrong or missing on purpose: which ones, that nothing else of a conversation changes, and where two rows cross."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from references import (
    DEFAULT,
    FEW,
    REWARD,
    SHARE,
    SMAT,
    START,
    WRONG,
    Changed,
    FewReferences,
    WrongReferences,
    changed_sources,
    crossing,
    few_references_table,
    folder_of,
    going_on,
    run_references,
    spent_by_mrl,
    transcripts,
    wrong_references_table,
)
from rxrl.config import load_config
from rxrl.data.splits import DataConfig, open_sources
from rxrl.data.world import GeneratedSource
from rxrl.errors import DataError
from rxrl.evaluation.records import TurnRecord
from rxrl.lexicon import VALUES
from rxrl.pipeline import BUDGETS, PipelineConfig
from tests.evaluation.fakes import record

SOURCE = GeneratedSource(level=1, seed=0, split="train")
TAKEN = {"steps": 16, "strategy": "multi-step", "start": 7, "count": 150}


@pytest.mark.parametrize("kind", WRONG)
def test_a_fifth_of_the_references_names_another_value_and_all_else_stays(kind: str) -> None:
    right = SOURCE.take(**TAKEN)
    wrong = Changed(SOURCE, WrongReferences(kind, 0)).take(**TAKEN)
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
    wrong = Changed(SOURCE, WrongReferences("by fact", 0)).take(**TAKEN)
    for before, after in zip(SOURCE.take(**TAKEN), wrong, strict=True):
        for one, other in zip(before.interactions, after.interactions, strict=True):
            if one.asks:
                found.setdefault(one.asks[0], set()).add(one.answer != other.answer)
    assert set(map(len, found.values())) == {1}
    assert {True} in found.values()
    assert {False} in found.values()


def test_what_is_wrong_depends_on_the_conversation_not_on_the_batch() -> None:
    source = Changed(SOURCE, WrongReferences("at random", 3))
    taken = source.take(**TAKEN)
    assert source.take(**TAKEN | {"start": 17, "count": 5}) == taken[10:15]


def test_a_share_of_the_conversations_keeps_its_answers_and_the_others_their_queries() -> None:
    right, few = SOURCE.take(**TAKEN), Changed(SOURCE, FewReferences(0.2, 0)).take(**TAKEN)
    kept = 0
    for before, after in zip(right, few, strict=True):
        assert after.first == before.first
        assert [each.query for each in after.follow_ups] == [each.query for each in before.follow_ups]
        assert [each.facts for each in after.follow_ups] == [each.facts for each in before.follow_ups]
        kept += after == before
        assert after == before or not any(each.answer for each in after.follow_ups)
    assert kept / len(right) == pytest.approx(0.2, abs=0.1)


def test_supervision_repeats_the_conversations_whose_answers_mrl_has() -> None:
    clean = open_sources(DataConfig(level=1, test_conversations=1), 0)
    bench = SimpleNamespace(clean=clean, config=SimpleNamespace(seed=0), played=40)
    mrl, smat = changed_sources("20 %", bench)
    played = mrl.train.take(steps=16, strategy="multi-step", start=0, count=40)
    written = {each.id: each for each in played if all(one.answer for one in each.follow_ups)}
    repeated = smat.train.take(steps=16, strategy="multi-step", start=0, count=2 * len(written))
    assert 0 < len(written) < 20
    assert [each.id for each in repeated].count(repeated[0].id) == 2
    assert {each.id: each for each in repeated} == written


def test_no_row_takes_the_place_of_another_and_the_table_of_nothing_has_no_rows() -> None:
    names = (SMAT, DEFAULT)
    paths = {transcripts(folder_of(Path(), kind, seed, name), name) for kind in (*WRONG, *FEW) for seed in (0, 1) for name in names}
    paths |= {transcripts(folder_of(Path(), "", seed, name), name) for seed in (0, 1) for name in (START, REWARD)}
    assert len(paths) == 24
    for table in (wrong_references_table, few_references_table):
        assert len(table([Path("nowhere")] * 2, Path("nowhere"))) == 2


def test_supervision_may_spend_what_mrl_has_spent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no MRL"):
        spent_by_mrl(tmp_path)
    lines = ({"phase": "smat", "tokens": 90}, {"phase": "mrl", "tokens": 40}, {"phase": "mrl", "tokens": 80}, {"phase": "smat-continued"})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert spent_by_mrl(tmp_path) == 80


def test_where_two_rows_cross() -> None:
    def records(retention: float) -> list[TurnRecord]:
        return [record(f"c{number}", retention=retention) for number in range(3)]

    base = records(0.5)
    shares = {0.01: (records(0.9), base), 0.1: (records(0.6), base), 1.0: (records(0.4), base)}
    # Halfway, in logarithms, between a tenth and all.
    assert crossing(shares, resamples=10) == pytest.approx((math.sqrt(0.1),) * 3)
    assert crossing(shares | {0.01: (records(0.4), base)}, resamples=10) == (0, 0, 0)
    assert crossing(shares | {1.0: (records(0.51), base)}, resamples=10) == (math.inf,) * 3
    more = [*records(0.4), record("c9", retention=1.0)]
    assert crossing(shares | {1.0: (more, base)}, resamples=10) == pytest.approx((math.sqrt(0.1),) * 3)


def test_runs_in_another_order_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "checkpoints" / "smat")
    (run / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(DataError, match="has seed 1 where that of seed 0 is expected"):
        run_references([run], tmp_path, WRONG, (), say=print)


def test_a_row_that_was_stopped_goes_on(tmp_path: Path) -> None:
    config = load_config(BUDGETS["tiny"], PipelineConfig, ["interactive=null"])
    assert not going_on(config, tmp_path / "new", print).resumes
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    (stopped / "metrics.jsonl").write_text('{"phase": "mrl"}\n')
    assert going_on(config, stopped, print).resumes
    assert (stopped / "metrics.jsonl").read_text() == ""
