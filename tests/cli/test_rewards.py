"""`rxrl rewards` and `rxrl rescore` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.evaluation import TurnRecord, read_records, write_records
from rxrl.rewards import BUILT_IN, Retention, held, samples
from rxrl.scoring import score_turns

PLUG_IN = '''
def brief(turns, limit=8):
    """10 up to `limit` words, then less."""
    return [10.0 * min(1.0, limit / max(1, len(turn.answer.split()))) for turn in turns]


def near(turns, embed):
    """10 where the embeddings are there."""
    return [10.0 * (len(embed([turn.answer_ids])) == 1) for turn in turns]


def broken(turns):
    raise ValueError("no")
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("mine.py").write_text(PLUG_IN)
    return tmp_path


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, list(arguments))
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_list_names_every_reward(folder: Path) -> None:
    printed = run("rewards", "list").stdout
    assert all(f" {name} " in printed for name in BUILT_IN)


def test_list_says_in_its_row_what_is_wrong_with_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = """import sys\nsys.exit("no licence")"""
    for package, module, text in (("good-manners", "manners", PLUG_IN), ("gone", "gone_rewards", broken), ("again", "again", PLUG_IN)):
        (folder / f"{module}.py").write_text(text)
        information = folder / f"{module}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{module} = {module}:brief", *(["twice = manners:brief"] if module != "gone_rewards" else [])]
        (information / "entry_points.txt").write_text("\n".join(["[rxrl.rewards]", *lines]))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("COLUMNS", "300")
    rows = {line.split()[0]: line for line in run("rewards", "list").stdout.splitlines() if line.strip()}
    assert "good-manners" in rows["manners"]
    assert "10 up to `limit` words" in rows["manners"]
    assert "cannot be loaded: SystemExit: no licence." in rows["gone_rewards"]
    assert "again, good-manners" in rows["twice"]
    assert "registered by several installed packages, again and good-manners: uninstall" in rows["twice"]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_show_has_options_and_an_example(folder: Path, name: str) -> None:
    printed = run("rewards", "show", name).stdout
    assert "reward:" in printed
    assert f"rxrl rewards check {name}" in printed or f"use: {name}" in printed
    for option in getattr(BUILT_IN[name], "model_fields", {}):
        assert option in printed


def test_show_a_plug_in(folder: Path) -> None:
    printed = run("rewards", "show", "mine.py:brief").stdout
    assert "mine.py:brief(turns, limit=8)" in printed
    assert "10 up to `limit` words, then less." in printed
    assert "mine: {use: 'mine.py:brief', weight: 0.1, limit: 8}" in printed
    assert 'A right answer, "Mia has a cat.", scores 10.00.' in printed


def test_check_passes_notes_and_fails(folder: Path) -> None:
    assert "Passed." in run("rewards", "check", "retention", "--strict").stdout
    noted = run("rewards", "check", "mine.py:brief").stdout
    assert "pays for" in noted
    assert "Passed." in noted
    assert "Failed." in run("rewards", "check", "mine.py:brief", "--strict", code=1).stdout
    assert "ValueError: no" in run("rewards", "check", "mine.py:broken", code=1).stdout
    assert "Passed." in run("rewards", "check", "{retention: 0.9, brief: {use: 'mine.py:brief', weight: 0.1}}").stdout
    assert "Did you mean 'brief'" in run("rewards", "check", "mine.py:breif", code=2).stderr


def test_embeddings_are_handed_in_where_there_is_no_model(transcripts: Path) -> None:
    assert "Passed." in run("rewards", "check", "mine.py:near").stdout
    shown = run("rewards", "show", "mine.py:near").stdout
    assert "handed in" in shown
    assert "scores 10.00." in shown
    assert "10.00" in run("rescore", str(transcripts), "--reward", "mine.py:near").stdout
    assert "10.00" in run("play", "--policy", "oracle", "--steps", "1", "--reward", "mine.py:near").stdout
    assert "Unknown policy 'nowhere'" in run("evaluate", "nowhere", "--reward", "mine.py:near", code=2).stderr


@pytest.fixture
def transcripts(folder: Path) -> Path:
    scored = zip(samples(), score_turns(Retention(), [sample.turn for sample in samples()]), strict=True)
    records = [TurnRecord.of(sample.turn, retention=held(sample.turn), score=score) for sample, score in scored]
    return write_records(folder / "transcripts.jsonl", records)


def test_rescore_writes_other_rewards_and_says_how_they_go_with_retention(transcripts: Path) -> None:
    arguments = ("--reward", "exact", "--reward", "length", "--reward", "mine.py:brief", "--out", "again.jsonl")
    printed = run("rescore", str(transcripts), *arguments).stdout
    before, after = read_records(transcripts), read_records("again.jsonl")
    assert [record.reward for record in after] == [score.value for score in score_turns(BUILT_IN["exact"](), [r.turn for r in before])]
    assert [record.retention for record in after] == [record.retention for record in before]
    assert {"exact", "length", "mine.py:brief"} == set(after[0].terms)
    assert "reward as stored" in printed
    assert "+" in next(line for line in printed.splitlines() if line.strip().startswith("exact"))


def test_rescore_says_which_reward_scored_nothing(transcripts: Path) -> None:
    Path("nothing.py").write_text("def none(turns):\n    return [None] * len(turns)\n")
    count = len(read_records(transcripts))
    for rewards in (("nothing.py:none",), ("exact", "nothing.py:none"), ("nothing.py:none", "exact")):
        printed = run("rescore", str(transcripts), *(part for reward in rewards for part in ("--reward", reward))).stdout
        assert f"The reward nothing.py:none gave no score for any of {count} turns." in printed
        assert "The reward exact gave" not in printed


def test_rescore_refuses_what_it_cannot_do(transcripts: Path) -> None:
    assert "one of the transcripts" in run("rescore", str(transcripts), "--reward", "exact", "--out", str(transcripts), code=2).stderr
    assert "found no such file" in run("rescore", "none.jsonl", "--reward", "exact", code=2).stderr
    Path("empty.jsonl").write_text("")
    assert "hold no turns" in run("rescore", "empty.jsonl", "--reward", "exact", code=2).stderr
    assert "mine.py:broken" in run("rescore", str(transcripts), "--reward", "mine.py:broken", code=2).stderr


def test_old_scores_may_be_missing(transcripts: Path) -> None:
    rows = [json.loads(line) | {"reward": None, "terms": {}} for line in transcripts.read_text().splitlines()]
    transcripts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = run("rescore", str(transcripts), "--reward", "retention").stdout
    assert "as stored" not in printed
    assert "held" in printed
