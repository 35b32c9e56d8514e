"""Importers on small samples that hold what the real files hold; the real files are in test_real_data.py."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.cli.data import is_plain_text
from rxrl.data.importers import import_babi, import_fairytaleqa, import_published, import_text
from rxrl.data.importers.babi_world import MEN, PLACES, WOMEN, renamed
from rxrl.data.importers.common import cut
from rxrl.data.importers.text import write_texts
from rxrl.data.rows import LengthLimit, read_conversations
from rxrl.data.stats import asked_under_references, data_stats
from rxrl.errors import ConfigError, DataError
from rxrl.facts import attribute_values

ONE_FACT = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel went back to the hallway.
5 Sandra moved to the garden.
6 Where is Daniel? \thallway\t4
7 John moved to the office.
8 Sandra journeyed to the bathroom.
9 Where is Daniel? \thallway\t4
10 Mary moved to the hallway.
11 Daniel travelled to the office.
12 Where is Daniel? \toffice\t11
13 John went back to the garden.
14 John moved to the bedroom.
15 Where is Sandra? \tbathroom\t8
1 Sandra travelled to the office.
2 Where is Sandra? \toffice\t1
3 Sandra went to the bathroom.
4 Mary went to the kitchen.
5 Where is Sandra? \tbathroom\t3
"""


def babi(tmp_path, text, task=1, **options):
    file = tmp_path / f"qa{task}_sample_train.txt"
    file.write_text(text)
    return import_babi(file, **options)


def right_answers(conversations):
    """Asserts that every asked key has the value of the answer; returns the number of asks."""
    asks = 0
    for conversation in conversations:
        known = attribute_values([conversation])
        for turn, asked in zip(conversation.follow_ups, asked_under_references(conversation, known), strict=True):
            assert not turn.asks or (asked.expected == {turn.asks[0]: turn.answer} and asked.distance >= 1)
            asks += bool(turn.asks)
    return asks


def test_babi_keeps_five_questions_within_eight_turns(tmp_path):
    result = babi(tmp_path, ONE_FACT)
    first, second = result.conversations
    assert (first.steps, sum(bool(turn.asks) for turn in first.follow_ups)) == (8, 5)
    assert [turn.query for turn in second.interactions] == [
        "Sandra travelled to the office.",
        "Where is Sandra?",
        "Sandra went to the bathroom. Mary went to the kitchen.",
        "Where is Sandra?",
    ]
    assert second.interactions[2].facts == (("sandra.location", "bathroom"), ("mary.location", "kitchen"))
    assert (result.counts["episodes"], result.counts["questions"], result.counts["asked"], result.counts["refused"]) == (2, 7, 7, 0)
    assert right_answers(result.conversations) == 7


def test_babi_parts_of_a_task_have_ids_of_their_own(tmp_path):
    files = [tmp_path / f"qa1_single-supporting-fact_{part}.txt" for part in ("train", "test")]
    for file in files:
        file.write_text(ONE_FACT)
    ids = [conversation.id for file in files for conversation in import_babi(file).conversations]
    assert ids == ["babi-1-train-1", "babi-1-train-2", "babi-1-test-1", "babi-1-test-2"]
    with pytest.raises(DataError, match=r"several parts of the data \(qa1_single-supporting-fact_test\.txt, qa1_single-.*_train\.txt\)"):
        import_babi(tmp_path)


def test_babi_keeps_the_order_of_statements_and_of_questions(tmp_path):
    shortened, whole = (babi(tmp_path, ONE_FACT, max_turns=turns).conversations[0] for turns in (8, None))
    assert whole.steps == 9
    for kind in ("tell", "ask"):
        said = [" ".join(turn.query for turn in each.interactions if turn.kind == kind) for each in (shortened, whole)]
        assert said[0] == said[1]


def test_babi_cuts_what_does_not_fit_and_ends_with_a_question(tmp_path):
    conversation = babi(tmp_path, ONE_FACT, max_turns=2).conversations[0]
    assert conversation.steps <= 2
    assert conversation.follow_ups[-1].asks


def test_babi_objects_follow_their_carriers(tmp_path):
    text = """1 Mary moved to the bathroom.
2 Mary got the football there.
3 Mary went back to the kitchen.
4 Where is the football? \tkitchen\t2 3
5 Mary dropped the football.
6 Mary went to the garden.
7 Where is the football? \tkitchen\t5 3
"""
    (conversation,) = babi(tmp_path, text, task=2).conversations
    assert dict(conversation.first.facts) == {"football.location": "kitchen"}
    assert conversation.follow_ups[-1].answer == "kitchen"
    assert right_answers([conversation]) == 2


def test_babi_lists_may_be_given_in_any_order(tmp_path):
    text = """1 Mary took the milk there.
2 Mary took the apple there.
3 What is Mary carrying? \tmilk,apple\t1 2
4 Mary dropped the milk there.
5 Mary left the apple.
6 What is Mary carrying? \tnothing\t1 2 4 5
"""
    (conversation,) = babi(tmp_path, text, task=8).conversations
    both, none = (turn for turn in conversation.follow_ups if turn.asks)
    assert (both.answer, both.aliases) == ("apple, milk", {"mary.carrying": ("milk, apple",)})
    assert none.answer == "nothing"
    assert right_answers([conversation]) == 2


def test_babi_pronouns_and_pairs(tmp_path):
    text = """1 Mary and Daniel went to the bathroom.
2 Then they journeyed to the hallway.
3 Where is Daniel? \thallway\t1 2
4 Sandra moved to the kitchen.
5 Afterwards she went back to the office.
6 Where is Sandra? \toffice\t4 5
"""
    conversations = babi(tmp_path, text, task=13).conversations
    assert right_answers(conversations) == 2


def test_babi_answers_become_facts_of_their_last_supporting_line(tmp_path):
    text = """1 Mice are afraid of wolves.
2 Gertrude is a mouse.
3 Is Gertrude afraid of cats?\tno\t1
4 Winona is a wolf.
5 What is gertrude afraid of?\twolf\t2 1
6 What is winona afraid of?\tsheep\t4 1
"""
    (conversation,) = babi(tmp_path, text, task=15).conversations
    assert dict(conversation.first.facts) == {"is-gertrude-afraid-of-cats.answer": "no", "what-is-gertrude-afraid-of.fear": "wolf"}
    assert data_stats([conversation]).distances == {1: 1, 2: 1, 3: 1}
    assert right_answers([conversation]) == 3


@pytest.mark.parametrize(
    ("old", "new", "row", "message"),
    [
        ("\tbathroom\t1\n", "\tkitchen\t1\n", 3, "answer 'kitchen' does not follow"),
        ("2 John went to the hallway.", "2 John sang a song.", 2, "'John sang a song.' is not one of task 1"),
        ("2 John went", "7 John went", 2, "line number 7 came where 2 was expected"),
        ("John went to the hallway.", "Where is Mary?\tbathroom\t2", 2, "expected a question"),
        ("2 John", "John", 2, "expected a line number and text"),
        ("1 Mary moved to the bathroom.\n2 John", "1 Where is Mary?\tbathroom\t0\n2 John", 1, "numbers of earlier supporting lines"),
    ],
)
def test_babi_rows_that_do_not_fit_are_named_and_the_rest_kept_on_request(tmp_path, old, new, row, message):
    broken = ONE_FACT.replace(old, new, 1)
    assert broken != ONE_FACT
    with pytest.raises(DataError, match=rf"qa1_sample_train\.txt, row {row}: .*{message}"):
        babi(tmp_path, broken)
    result = babi(tmp_path, broken, keep_valid=True)
    assert [refused.row for refused in result.refused] == [row]
    assert [conversation.id for conversation in result.conversations] == ["babi-1-train-2"]


def test_babi_without_a_row_that_fits_says_why(tmp_path):
    with pytest.raises(DataError, match=r"no conversation \(the first of 2 .*_train\.txt, row 1: .*at most 2 are allowed\): check"):
        babi(tmp_path, ONE_FACT, limit=LengthLimit(2), keep_valid=True)


def test_babi_limits_lengths(tmp_path):
    result = babi(tmp_path, ONE_FACT, limit=LengthLimit(11), keep_valid=True)
    assert [refused.row for refused in result.refused] == [1]
    assert "words, but at most 11 are allowed" in result.refused[0].reason


def test_babi_renames_consistently_and_keeps_the_original(tmp_path):
    result = babi(tmp_path, ONE_FACT, rename=True, copies=5)
    assert len(result.conversations) == 12
    originals = babi(tmp_path, ONE_FACT).conversations
    assert [each for each in result.conversations if "renamed" not in each.id] == originals
    assert len({each.first.query for each in result.conversations}) > 8
    assert right_answers(result.conversations) == 6 * 7
    assert {each.extra["episode"] for each in result.conversations} == {"babi-1-train-1", "babi-1-train-2"}
    assert result.counts["questions"] == 7


def test_babi_copies_repeat_neither_an_episode_nor_each_other(tmp_path):
    few = "1 Mary moved to the garden.\n2 Where is Mary?\tgarden\t1\n"
    text = few + few.replace("Mary", "John") + few.replace("garden", "office")
    result = babi(tmp_path, text, rename=True, copies=20, own_names=True)
    told = [each.first.query for each in result.conversations]
    assert sorted(told) == sorted(f"{name} moved to the {place}." for name in ("Mary", "John") for place in ("garden", "office"))
    originals = [each.id for each in result.conversations if "renamed" not in each.id]
    assert originals == ["babi-1-train-1", "babi-1-train-2", "babi-1-train-3"]
    assert result.counts["left out: repeated copies"] == 59
    twice = babi(tmp_path, few * 2)
    assert len(twice.conversations) == 2, "episodes that are the same in the file are as they are"


@given(st.integers(0, 1000))
def test_renaming_is_one_to_one_and_keeps_kind_and_case(seed):
    old = ["Mary", "John", "bathroom", "Sandra", "garden", "office", "mary", "football", "sandra"]
    new = renamed([" ".join(old)], random.Random(seed))[0].split()
    assert len({name.lower() for name in new}) == len({name.lower() for name in old})
    assert (new[6], new[8], new[7]) == (new[0].lower(), new[3].lower(), "football")
    assert {new[0], new[1]} < {*WOMEN, *MEN}
    assert new[2] in PLACES


def test_renaming_keeps_women_and_men_where_pronouns_tell_them_apart():
    text = "Mary met John. She left. John slept."
    free = {renamed(["Mary met John."], random.Random(seed))[0].split()[0] for seed in range(30)}
    assert free & set(MEN), "a name without a pronoun may become anybody's"
    for seed in range(30):
        woman, _, man, *_ = renamed([text], random.Random(seed))[0].replace(".", "").split()
        assert woman in WOMEN
        assert man in MEN


@pytest.mark.parametrize("option", ["own_names", "reword"])
def test_babi_options_for_copies_want_copies(tmp_path, option):
    with pytest.raises(ConfigError, match="ask for some with --rename N"):
        babi(tmp_path, ONE_FACT, **{option: True})


def test_babi_rewords_movements_in_copies_and_changes_no_fact(tmp_path):
    plain = babi(tmp_path, ONE_FACT, rename=True, copies=20).conversations
    result = babi(tmp_path, ONE_FACT, rename=True, copies=20, reword=True)
    assert [each for each in result.conversations if "renamed" not in each.id] == babi(tmp_path, ONE_FACT).conversations
    assert right_answers(result.conversations) == right_answers(plain)
    said = " ".join(each.first.query for each in result.conversations if "renamed" in each.id)
    assert all(f" {verb} to the " in said for verb in ("went", "went back", "moved", "travelled", "journeyed"))


def test_babi_reads_folders_and_refuses_other_files(tmp_path):
    babi(tmp_path, ONE_FACT, task=1)
    babi(tmp_path, ONE_FACT, task=12)
    assert len(import_babi(tmp_path).conversations) == 4
    (tmp_path / "stories.txt").write_text(ONE_FACT)
    with pytest.raises(DataError, match="does not name its task"):
        import_babi(tmp_path / "stories.txt")
    with pytest.raises(DataError, match="There is no bAbI file"):
        import_babi(tmp_path / "none")


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
    assert is_plain_text(path)
    path.write_text('\ufeff\n{"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": "d"}]}\n', encoding="utf-8")
    assert not is_plain_text(path)
    assert len(read_conversations(path)) == 1


def test_texts_hold_any_character(tmp_path):
    write_texts(tmp_path / "a.jsonl", ["One \ud83d two.", "\u6c34"])
    assert import_text(tmp_path / "a.jsonl") == ["One \ud83d two.", "\u6c34"]
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.jsonl, row 1: .* nested too deeply"):
        import_text(tmp_path / "deep.jsonl")
    assert not is_plain_text(tmp_path / "deep.jsonl")


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
