"""Conversations of one turn made of longer ones."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rxrl.cli.main import app
from rxrl.data.pairs import told_and_asked
from rxrl.data.rows import read_conversations, to_conversation
from rxrl.data.world import GeneratedSource

ROW = {
    "id": "anna",
    "query": "Anna likes red. Ben is at home.",
    "answer": "Okay.",
    "facts": [{"key": "anna.colour", "value": "red"}, {"key": "ben.place", "value": "home"}],
    "asks": [],
    "interactions": [
        {"query": "Nice day.", "answer": "Yes.", "asks": []},
        {"query": "Where is Ben?", "answer": "At home.", "asks": ["ben.place"], "aliases": {"ben.place": ["house"]}},
        {"query": "Now Anna likes blue.", "answer": "Okay.", "facts": [{"key": "anna.colour", "value": "blue"}], "asks": []},
        {"query": "And Anna and Ben?", "answer": "Blue, at home.", "asks": ["anna.colour", "ben.place"]},
        {"query": "What does Eve eat?", "answer": "I do not know.", "asks": ["eve.food"], "unknown": True},
        {"query": "Which colour?", "answer": "Blue.", "asks": ["anna.colour"]},
        {"query": "Eve eats rice. And Ben?", "answer": "At home.", "facts": [{"key": "eve.food", "value": "rice"}], "asks": ["ben.place"]},
        {"query": "Now, what does Eve eat?", "answer": "Rice.", "asks": ["eve.food"]},
    ],
}


def test_each_question_comes_with_the_interaction_that_told_its_answer_last():
    found = list(told_and_asked([to_conversation(ROW, "anna")]))
    assert [(each.id, each.first.query, [ask.query for ask in each.follow_ups]) for each in found] == [
        ("anna-2", "Anna likes red. Ben is at home.", ["Where is Ben?"]),
        ("anna-6", "Now Anna likes blue.", ["Which colour?"]),
        ("anna-7", "Anna likes red. Ben is at home.", ["Eve eats rice. And Ben?"]),
        ("anna-8", "Eve eats rice. And Ben?", ["Now, what does Eve eat?"]),
    ]
    # What told and asked at once only tells here.
    assert found[-1].first.asks == ()
    assert found[0].follow_ups[0].aliases == {"ben.place": ("house",)}


def test_pairs_of_the_world_are_rows_whose_answers_hold():
    long = GeneratedSource(level=3, seed=0, split="train").take(steps=16, strategy="multi-step", start=0, count=20)
    found = list(told_and_asked(long))
    assert len(found) > 60
    for each in found:
        known = dict(each.first.facts)
        assert all(key in known for key in each.follow_ups[0].asks or ())
        # A follow-up that asks again for what was told names its current value.
        assert any(known[key].split()[0] in each.follow_ups[0].answer.casefold() for key in each.follow_ups[0].asks or ())


def test_the_command_writes_valid_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW))
    shown = CliRunner().invoke(app, ["data", "pairs", str(tmp_path / "rows.jsonl"), str(tmp_path / "pairs.jsonl")])
    assert "Wrote 4 conversations of one turn" in shown.output
    assert [each.steps for each in read_conversations(tmp_path / "pairs.jsonl")] == [1] * 4


@pytest.mark.parametrize("drop", ["facts", "asks"])
def test_nothing_to_pair_gets_one_sentence(tmp_path, drop):
    row = {**ROW, "interactions": [{"query": "Nice day.", "answer": "Yes.", "asks": []}], drop: []}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    shown = CliRunner().invoke(app, ["data", "pairs", str(tmp_path / "rows.jsonl"), str(tmp_path / "pairs.jsonl")])
    assert shown.exit_code == 2
    assert "holds no question whose answer an earlier interaction tells" in " ".join(shown.stderr.split())
    assert not (tmp_path / "pairs.jsonl").exists()
