"""Importers on the real data sets, where they lie beside the repository."""

from collections import Counter
from pathlib import Path

import pytest

from rxrl.data.importers import import_babi, import_fairytaleqa, import_sgd, import_text
from rxrl.data.rows import read_conversations, write_conversations
from rxrl.data.stats import asked_under_references, data_stats
from rxrl.facts import attribute_values
from rxrl.rewards.retention import held
from rxrl.types import Turn
from tests import skips

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TASKS = sorted(DATA.glob("babi/qa*_train.txt"))

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"{skips.FILES}: data sets")


@needs_data
def test_babi_task_one_gives_five_questions_in_eight_turns(tmp_path):
    result = import_babi(DATA / "babi" / "qa1_single-supporting-fact_train.txt")
    stats = data_stats(result.conversations)
    assert (result.counts["episodes"], result.counts["questions"], result.counts["refused"]) == (200, 1000, 0)
    assert result.counts["asked"] >= 990
    assert max(stats.steps) == 8
    assert stats.chance < 0.19
    assert None not in stats.distances
    write_conversations(tmp_path / "rows.jsonl", result.conversations)
    assert read_conversations(tmp_path / "rows.jsonl") == result.conversations


@needs_data
@pytest.mark.parametrize("file", TASKS, ids=lambda file: file.name.partition("_")[0])
def test_every_babi_task_imports_with_right_answers(file):
    result = import_babi(file, max_turns=None, limit=None)
    assert not result.refused
    assert result.counts["asked"] == result.counts["questions"] >= 1000
    known = {turn.answer for conversation in result.conversations for turn in conversation.follow_ups if turn.asks}
    assert len(known) > 1
    sample = result.conversations[:20]
    stats = data_stats(sample)
    assert stats.asks == sum(bool(turn.asks) for conversation in sample for turn in conversation.follow_ups)
    assert None not in stats.distances


@needs_data
def test_fairytaleqa_imports_whole():
    totals = Counter()
    stories = {}
    for split in ("train", "validation"):
        result = import_fairytaleqa(DATA / "fairytaleqa", split=split, keep_valid=True)
        totals.update(result.counts)
        stories[split] = {conversation.extra["story"] for conversation in result.conversations}
        left_out = result.counts["left out: not explicit"] + result.counts["left out: long answer"]
        merged = result.counts.get("merged: same question", 0)
        assert result.counts["asked"] + merged + left_out + result.counts["refused"] == result.counts["questions"]
        for conversation in result.conversations:
            asked = [turn.query for turn in conversation.follow_ups if turn.asks]
            assert len(asked) == len(set(asked)), conversation.id
        assert len({conversation.id for conversation in result.conversations}) == len(result.conversations)
        assert max(conversation.steps for conversation in result.conversations) <= 16
    assert (totals["stories"], totals["sections"], totals["questions"]) == (255, 3730, 9573)
    assert totals["asked"] > 4500
    assert totals["refused"] < 20
    assert not stories["train"] & stories["validation"]


@needs_data
def test_fairytaleqa_asks_at_many_distances():
    result = import_fairytaleqa(DATA / "fairytaleqa", split="validation")
    distances = data_stats(result.conversations).distances
    assert set(range(1, 13)) <= set(distances)


@needs_data
def test_schema_guided_dialogues_ask_for_what_was_told_and_the_reference_answers_it():
    """The figures are those of the table in docs/guides/data.md."""
    found = {split: import_sgd(DATA / "sgd", split=split) for split in ("train", "validation")}
    train, validation = (found[split].counts for split in found)
    figures = ("dialogues", "turns", "facts", "asks", "asked facts")
    assert [train[name] for name in figures] == [1536, 10624, 5721, 1622, 2176]
    assert [validation[name] for name in figures] == [384, 2269, 1561, 380, 641]
    assert not {each.id for each in found["train"].conversations} & {each.id for each in found["validation"].conversations}
    for result in found.values():
        stats = data_stats(result.conversations)
        assert None not in stats.distances
        assert stats.asks == result.counts["asks"]
        known = attribute_values(result.conversations)
        for conversation in result.conversations:
            for turn, asked in zip(conversation.follow_ups, asked_under_references(conversation, known), strict=True):
                if asked.asking:
                    assert set(asked.expected) == set(turn.asks or ())
                    given = (conversation.id, 1, 1, "multi-step", turn.query, turn.answer, turn.answer, (), (), (), (), True)
                    assert held(Turn(*given, asked.expected, asked.aliases, asked.rivals)) == 1.0, (conversation.id, turn)


@needs_data
def test_plain_text_is_cut_to_the_limit():
    texts = import_text(DATA / "tinystories" / "sample.txt")
    assert len(texts) > 500
    assert max(len(text.split()) for text in texts) <= 60
