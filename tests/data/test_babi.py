"""The bAbI importer on small samples that hold what the real files hold; the real files are in test_real_data.py."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.data.importers import import_babi
from rxrl.data.importers.babi_world import MEN, PLACES, SPECIES, WOMEN, renamed
from rxrl.data.rows import LengthLimit
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


def test_babi_leaves_places_alone_where_it_matters_what_they_are_for(tmp_path):
    """Who is tired goes to the bedroom: with another place for it the answer could not be known."""
    text = "1 Sumit is tired.\n2 Where will sumit go?\tbedroom\t1\n3 Sumit moved to the bedroom.\n"
    result = babi(tmp_path, text, task=20, rename=True, copies=10)
    assert len({each.first.query for each in result.conversations}) > 5
    assert {each.follow_ups[0].answer for each in result.conversations} == {"bedroom"}
    others = babi(tmp_path, text, task=10, rename=True, copies=10)
    assert len({each.follow_ups[0].answer for each in others.conversations}) > 3


def test_kinds_of_animals_are_renamed_in_their_number():
    lines = ["Sheep are afraid of mice.", "Emily is a sheep.", "Winona is a mouse.", "What is emily afraid of?", "mouse", "sheep", "wolf"]
    found = set()
    for seed in range(40):
        fear, sheep, mouse, asked, answer, other, free = renamed(lines, random.Random(seed), only={"emily", "winona"})
        by_one = dict(SPECIES)
        one, two = sheep.split()[-1].strip("."), mouse.split()[-1].strip(".")
        assert fear == f"{by_one[one].capitalize()} are afraid of {by_one[two]}."
        assert (answer, other) == (two, one)
        assert asked.split()[2].lower() == sheep.split()[0].lower()
        assert len({one, two, free}) == 3
        found.add((one, two))
    assert len(found) > 8


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


def test_babi_thinks_of_all_supporting_statements_in_their_order(tmp_path):
    text = """1 Mary got the milk there.
2 John moved to the bedroom.
3 Mary travelled to the hallway.
4 Where is the milk? \thallway\t1 3
"""
    result = babi(tmp_path, text, task=2, thoughts=True, rename=True, copies=3)
    for conversation in result.conversations:
        got, _, travelled = (f"{each.strip()}." for each in conversation.first.query.rstrip(".").split("."))
        [asked] = conversation.follow_ups
        assert conversation.first.extra == {"think": "Nothing is asked."}
        assert asked.extra == {"think": f"{got} {travelled}"}
        assert asked.answer in travelled
    assert right_answers(result.conversations) == 4
    plain = babi(tmp_path, text, task=2)
    first, (asked,) = result.conversations[0].first, result.conversations[0].follow_ups
    assert plain.conversations[0] == replace(
        result.conversations[0], first=replace(first, extra={}), follow_ups=(replace(asked, extra={}),)
    )
