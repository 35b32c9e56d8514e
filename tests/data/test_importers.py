"""Importers on small samples that hold what the real files hold; the real files are in test_real_data.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.data.importers import import_fairytaleqa, import_published, import_text
from rxrl.data.importers.common import cut
from rxrl.data.importers.text import write_texts
from rxrl.data.rows import LengthLimit, read_conversations
from rxrl.data.splits import of_texts
from rxrl.errors import DataError
from tests.data.test_babi import right_answers

SECTIONS = [
    "A fox lived in a dark forest. The fox ate blue berries every day. One day the fox met a hungry bear by the river.",
    "The bear wanted some honey. The fox showed the bear an old tree. They were good friends from that day on.",
    "Winter came. The bear slept in a cave.",
]
QUESTIONS = [
    ["1", "1", "Where did the fox live?", "explicit", "in a dark forest", "a forest"],
    ["2", "1", "What did the fox eat?", "explicit", "blue berries", ""],
    ["3", "2", "What did the bear want?", "explicit", "some honey", "honey"],
    ["4", "1,2", "Who became friends?", "explicit", "the fox and the bear", ""],
    ["5", "3", "Why did the bear sleep?", "implicit", "it was tired", ""],
    ["6", "3", "Where did the bear sleep?", "explicit", "in a cave that was very far away from the old forest", ""],
    ["7", "3", "Who slept?", "explicit", "the bear", ""],
]


def fairytales(tmp_path, sections=SECTIONS, questions=QUESTIONS, **options):
    import csv

    for folder in ("section-stories", "questions"):
        (tmp_path / folder / "train").mkdir(parents=True, exist_ok=True)
    with (tmp_path / "section-stories/train/the-fox-story.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["section", "text"], *([str(n), text] for n, text in enumerate(sections, start=1))])
    header = ["question_id", "cor_section", "attribute1", "question", "ex-or-im1", "answer1", "answer2"]
    rows = [[number, section, "causal relationship", text, kind, *answers] for number, section, text, kind, *answers in questions]
    with (tmp_path / "questions/train/the-fox-questions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return import_fairytaleqa(tmp_path, **options)


def test_fairytales_are_told_in_pieces_and_asked_about_later(tmp_path):
    result = fairytales(tmp_path, limit=LengthLimit(20))
    assert result.counts == {
        **{"stories": 1, "sections": 3, "questions": 7, "asked": 5},
        **{"left out: not explicit": 1, "left out: long answer": 1, "conversations": 1, "refused": 0},
    }
    (conversation,) = result.conversations
    tellings = [turn for turn in conversation.interactions if not turn.asks]
    assert all(turn.query.startswith("Remember this part of a story: ") for turn in tellings)
    assert all(len(f"{turn.query} {turn.answer}".split()) <= 20 for turn in conversation.interactions)
    said = " ".join(turn.query.removeprefix("Remember this part of a story: ") for turn in tellings)
    assert " ".join(SECTIONS).startswith(said)
    assert right_answers(result.conversations) == 5
    told = {value: turn.query for turn in tellings for _, value in turn.facts}
    assert "forest" in told["in a dark forest"]
    assert "berries" in told["blue berries"]
    asks = {turn.query: turn for turn in conversation.follow_ups if turn.asks}
    assert asks["Where did the fox live?"].aliases == {"the-fox-2.causal-relationship": ("a forest",)}
    assert conversation.follow_ups[-1].asks


def test_fairytale_options_let_all_questions_in(tmp_path):
    assert fairytales(tmp_path, explicit_only=False, max_answer_words=0).counts["asked"] == 7


def test_fairytale_sections_that_are_too_long_are_told_again_for_more_questions(tmp_path):
    result = fairytales(tmp_path, max_turns=3)
    assert all(conversation.steps <= 3 for conversation in result.conversations)
    assert result.counts["asked"] == 5
    assert right_answers(result.conversations) == 5
    asked = [turn.query for conversation in result.conversations for turn in conversation.follow_ups if turn.asks]
    assert sorted(asked) == sorted(text for _, _, text, kind, answer, _ in QUESTIONS if kind == "explicit" and len(answer.split()) <= 8)


def test_a_fairytale_question_that_is_asked_again_gives_aliases(tmp_path):
    again = ["8", "1", "What did  the fox eat?", "explicit", "berries", "blue berries"]
    elsewhere = ["9", "2", "What did the fox eat?", "explicit", "nothing", ""]
    result = fairytales(tmp_path, questions=[*QUESTIONS, again, elsewhere])
    asks = [turn for each in result.conversations for turn in each.follow_ups if turn.asks and turn.query == "What did the fox eat?"]
    found = {turn.asks[0]: (turn.answer, *turn.aliases.get(turn.asks[0], ())) for turn in asks}
    assert found == {"the-fox-3.causal-relationship": ("blue berries", "berries"), "the-fox-10.causal-relationship": ("nothing",)}
    assert (result.counts["merged: same question"], result.counts["asked"]) == (1, 6)


def test_fairytale_pieces_fit_as_they_are_told(tmp_path):
    """A measure that does not add up: joining two parts costs two more."""
    limit = LengthLimit(30, lambda text: len(text.split()) + 2 * (": " in text and not text.endswith(": ")))
    with pytest.raises(DataError, match=r"the-fox-questions\.csv, row 2: interaction \d has 3\d words, but at most 30 are allowed"):
        fairytales(tmp_path, [" ".join(["fox"] * 200)], QUESTIONS[:1], limit=limit)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["8", "9", "Who?", "explicit", "fox", ""], "section 9, which the story does not have"),
        (["8", "", "Who?", "explicit", "fox", ""], "section none"),
        (["8", "1", "", "explicit", "fox", ""], "is empty"),
        (["8", "1", "Who?", "explicit", " ", ""], "is empty"),
        (["8", "1", "Who?", "explicit", "...", ""], "holds no word"),
        (["8", "1", "Who?" * 1 + " is it" * 40, "explicit", "fox", ""], "at most 60 are allowed"),
        (["8", "1", "Who?", "explicit", "fox", "", "too", "many"], "more fields"),
    ],
)
def test_fairytale_rows_that_do_not_fit_are_named(tmp_path, question, message):
    with pytest.raises(DataError, match=rf"the-fox-questions\.csv, row 9: .*{message}"):
        fairytales(tmp_path, questions=[*QUESTIONS, question])
    result = fairytales(tmp_path, questions=[*QUESTIONS, question], keep_valid=True)
    assert (len(result.refused), result.counts["asked"]) == (1, 5)


def test_fairytale_folders_are_checked(tmp_path):
    with pytest.raises(DataError, match="no FairytaleQA folder"):
        import_fairytaleqa(tmp_path / "none")
    fairytales(tmp_path)
    with pytest.raises(DataError, match="split 'validation'"):
        import_fairytaleqa(tmp_path, split="validation")
    with pytest.raises(DataError, match="has the splits train, validation, test"):
        import_fairytaleqa(tmp_path, split="val")
    (tmp_path / "section-stories/train/the-fox-story.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'section'"):
        import_fairytaleqa(tmp_path)


@given(st.lists(st.text("abc.,;!? ", max_size=30), max_size=6), st.integers(3, 12))
def test_cutting_keeps_every_word_and_the_limit(parts, longest):
    text = " ".join(parts)
    pieces = cut(text, longest, lambda piece: len(piece.split()))
    assert " ".join(pieces).split() == text.split()
    assert all(len(piece.split()) <= longest for piece in pieces)


def test_cutting_prefers_sentences_then_clauses():
    words = lambda piece: len(piece.split())  # noqa: E731
    assert cut("One two. Three four. Five six.", 4, words) == ["One two. Three four.", "Five six."]
    assert cut('"One two." Three four five, six seven eight.', 4, words) == ['"One two."', "Three four five,", "six seven eight."]
    assert cut("one two three four five", 2, words) == ["one two", "three four", "five"]


@given(st.lists(st.text("abc.,;!? \u3002\uff0c\u300d\u6c34", max_size=30), max_size=6), st.integers(3, 12))
def test_cutting_keeps_every_letter_and_the_limit_where_there_are_no_spaces(parts, longest):
    text = " ".join(parts)
    pieces = cut(text, longest, len)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(len(piece) <= longest for piece in pieces)


def test_cutting_knows_punctuation_without_spaces():
    assert cut("\u6c34\u6c34\u3002\u706b\u706b\uff01\u300d\u6728\u6728\uff1f", 4, len) == [
        "\u6c34\u6c34\u3002",
        "\u706b\u706b\uff01\u300d",
        "\u6728\u6728\uff1f",
    ]
    assert cut("\u6c34\u3002\u706b\u3002", 4, len) == ["\u6c34\u3002\u706b\u3002"]
    assert cut("\u6c34\u6c34\uff0c\u706b\u706b", 3, len) == ["\u6c34\u6c34\uff0c", "\u706b\u706b"]
    assert cut("abcdefgh ij", 3, len) == ["abc", "def", "gh", "ij"]


def test_published_rows_are_counted_and_checked(tmp_path):
    good = {"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d", "think": "e"}]}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(each) for each in (good, {"query": "a"}, good)))
    with pytest.raises(DataError, match="row 2"):
        import_published(path)
    result = import_published(path, keep_valid=True)
    assert result.counts == {"rows": 3, "conversations": 2}
    assert result.conversations[0].follow_ups[0].asks is None
    assert result.conversations[0].follow_ups[0].extra == {"think": "e"}


def test_text_is_packed_within_documents_and_comes_back(tmp_path):
    (tmp_path / "a.txt").write_text("One two.\n\nThree four.\n\nFive six seven. Eight nine ten.<|endoftext|>Eleven.")
    texts = import_text(tmp_path / "a.txt", limit=LengthLimit(4))
    assert texts == ["One two. Three four.", "Five six seven.", "Eight nine ten.", "Eleven."]
    write_texts(tmp_path / "out" / "b.jsonl", texts)
    assert import_text(tmp_path / "out" / "b.jsonl", limit=LengthLimit(4)) == texts
    assert import_text(tmp_path, limit=LengthLimit(4)) == texts * 2


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
def test_rows_of_text_are_read_whatever_their_ending(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text('\ufeff\n{"text": "One."}\n\n{"text": "Two."}\n', encoding="utf-8")
    assert import_text(path) == ["One.", "Two."]
    assert of_texts(path)
    path.write_text('\ufeff\n{"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}]}\n', encoding="utf-8")
    assert not of_texts(path)
    assert len(read_conversations(path)) == 1


def test_texts_hold_any_character(tmp_path):
    write_texts(tmp_path / "a.jsonl", ["One \ud83d two.", "\u6c34"])
    assert import_text(tmp_path / "a.jsonl") == ["One \ud83d two.", "\u6c34"]
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.jsonl, row 1: .* nested too deeply"):
        import_text(tmp_path / "deep.jsonl")
    assert not of_texts(tmp_path / "deep.jsonl")


def test_texts_are_written_as_what_they_are_read_as(tmp_path):
    with pytest.raises(DataError, match=r"written to \.jsonl files, but 'a\.txt' was given"):
        write_texts(tmp_path / "a.txt", ["One."])


def test_text_errors_name_the_row(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One."}\n{"txt": "Two."}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, row 2: expected"):
        import_text(tmp_path / "a.jsonl")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no text"):
        import_text(tmp_path / "empty.txt")
