"""Passages: plain text that is told piece by piece and asked for later."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from typer.testing import CliRunner

from rxrl.cli.data import app
from rxrl.data.importers import import_passages
from rxrl.data.rows import LengthLimit, read_conversations
from rxrl.errors import ConfigError, DataError
from rxrl.facts import holds

WORDS = [f"{first}{second}{third}" for first in "bdfgklmn" for second in "aeiou" for third in ("ra", "le", "mo", "ti")]
SENTENCES = [" ".join(WORDS[(7 * start + step * (1 + start % 5)) % len(WORDS)] for step in range(12)) for start in range(60)]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.jsonl"
    path.write_text("".join(json.dumps({"text": ". ".join(part) + "."}) + "\n" for part in (SENTENCES[:40], SENTENCES[40:])))
    return path


def quoted(interaction):
    return interaction.query.split('"')[1]


def test_every_answer_follows_its_quote_in_the_piece_that_told_it(book):
    result = import_passages(book, max_turns=8, limit=LengthLimit(20))
    assert result.counts["asked"] == sum(bool(each.asks) for found in result.conversations for each in found.interactions) > 0
    for conversation in result.conversations:
        told = {key: each.query for each in conversation.interactions for key, _ in each.facts}
        everything = " ".join(each.query for each in conversation.interactions if each.kind == "tell").casefold()
        for each in conversation.interactions:
            if each.asks:
                assert f"{quoted(each)} {each.answer}" in told[each.asks[0]]
                assert everything.count(quoted(each).casefold()) == 1
                assert holds(each.answer, each.answer)
                assert (len(quoted(each).split()), len(each.answer.split())) == (4, 3)


def test_everything_is_told_before_it_is_asked_and_every_fact_is_asked_once(book):
    for conversation in import_passages(book, max_turns=9, limit=LengthLimit(20)).conversations:
        asked = Counter()
        known = set()
        for each in conversation.interactions:
            assert set(each.asks) <= known
            asked.update(each.asks)
            known |= {key for key, _ in each.facts}
        assert asked == Counter(known)


@pytest.mark.parametrize("turns", [1, 4, 7, 16])
def test_conversations_in_the_middle_of_a_text_have_all_turns(book, turns):
    result = import_passages(book, max_turns=turns, limit=LengthLimit(30))
    assert max(each.steps for each in result.conversations) == turns


def test_pieces_of_two_documents_never_meet(book):
    for conversation in import_passages(book, limit=LengthLimit(20)).conversations:
        first = [any(sentence in each.query for sentence in SENTENCES[:40]) for each in conversation.interactions if each.kind == "tell"]
        assert len(set(first)) == 1


def test_delays_reach_from_none_to_the_whole_conversation(book):
    distances = Counter()
    for seed in range(8):
        for conversation in import_passages(book, limit=LengthLimit(20), seed=seed).conversations:
            told = {}
            for turn, each in enumerate(conversation.interactions):
                told |= {key: turn for key, _ in each.facts}
                distances.update(turn - told[key] for key in each.asks)
    assert distances[1] > distances[4] > 0
    assert max(distances) > 10


def test_a_quote_that_occurs_twice_is_not_used(tmp_path):
    path = tmp_path / "twice.txt"
    path.write_text("alba bera cura dola eska fila gora. alba bera cura dola hima iska juna.")
    with pytest.raises(DataError, match="gave no conversation"):
        import_passages(path)


def test_clauses_are_not_joined(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("alba bera cura, dola eska fila, gora hima iska juna.")
    with pytest.raises(DataError, match="gave no conversation"):
        import_passages(path)


def test_seeds_decide(book):
    one, same, other = (import_passages(book, limit=LengthLimit(20), seed=seed).conversations for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("name", ["max_turns", "cue_words", "answer_words"])
def test_numbers_below_one_are_refused(book, name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, but is 0"):
        import_passages(book, **{name: 0})


def test_a_limit_without_room_is_refused(book):
    with pytest.raises(ConfigError, match="Interactions of 9 words leave no room for a passage"):
        import_passages(book, limit=LengthLimit(9))


def test_the_command_writes_rows_that_can_be_read_again(book, tmp_path):
    out = tmp_path / "passages.jsonl"
    options = ["--max-length", "20", "--max-turns", "4"]
    written = CliRunner().invoke(app, ["import", "passages", str(book), str(out), *options], catch_exceptions=False)
    assert "conversations to" in written.output
    assert read_conversations(out) == import_passages(book, limit=LengthLimit(20), max_turns=4).conversations
