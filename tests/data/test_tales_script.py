"""scripts/tales.py: which stories and texts end up in which file."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from rxrl.data.rows import read_conversations
from scripts import tales
from tests.data.test_importers import fairytales
from tests.data.test_passages import SENTENCES


@pytest.fixture
def files(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    fairytales(data)
    for kind, name in (("section-stories", "story"), ("questions", "questions")):
        first = data / kind / "train" / f"the-fox-{name}.csv"
        for other in ("the-owl", "the-hare"):
            shutil.copy(first, first.with_name(f"{other}-{name}.csv"))
        (data / kind / "val").mkdir()
        shutil.copy(first, data / kind / "val" / f"the-bear-{name}.csv")
    for name, sentences in (("texts", SENTENCES[:20]), ("held", SENTENCES[20:])):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": ". ".join(sentences) + "."}))
    monkeypatch.setattr(tales, "DEV_PASSAGES", 1)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["tales.py", *map(str, (tmp_path / "texts.jsonl", tmp_path / "held.jsonl", data, out))])
    tales.main()
    assert capsys.readouterr().out.count("Wrote") == 6
    return {path.stem: read_conversations(path) for path in out.iterdir()}


def stories(conversations):
    return {name for name in ("fox", "owl", "hare", "bear") for each in conversations if f"the-{name}" in each.id}


def texts(conversations):
    return {sentence for sentence in SENTENCES for each in conversations if sentence in each.interactions[0].query}


def test_no_story_and_no_text_is_in_two_parts(files):
    dev = stories(files["dev"])
    assert len(dev) == 1
    assert stories(files["dev-reading"]) == dev
    assert stories(files["conversations"]) == stories(files["reading"]) == {"fox", "owl", "hare"} - dev
    assert stories(files["test-fairytaleqa"]) == {"bear"}
    for name, conversations in files.items():
        assert texts(conversations) <= set(SENTENCES[:20] if name in ("reading", "conversations") else SENTENCES[20:])


def test_reading_asks_at_once_for_what_was_just_told(files):
    for name in ("reading", "dev-reading"):
        for each in files[name]:
            (ask,) = each.follow_ups
            assert set(ask.asks) <= {key for key, _ in each.first.facts}


def test_questions_are_repeated_and_ids_are_not(files):
    for conversations in files.values():
        ids = [each.id for each in conversations]
        assert len(set(ids)) == len(ids)
    asked = [each.follow_ups[0].query for each in files["reading"] if "the-" in each.id]
    assert {asked.count(query) for query in set(asked)} == {tales.COPIES * 2}
