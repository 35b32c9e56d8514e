"""Values in text, and facts through an episode."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl import facts
from rxrl.facts import LONGEST, Asked, FactTracker, attribute_of, attribute_values, holds, named, normalise, rivals_of, says_unknown, words
from rxrl.types import Conversation, Interaction

HELD = [
    "cat",
    "a CAT!",
    "Mia's Cat",
    "It is not a dog but a cat.",
    "Not a dog, a cat.",
    "No, it is a cat.",
    "No it is a cat",
    "She doesn't have a dog and has a cat",
    "It is not a dog it is a cat",
    "The cat, not the dog.",
    "not only a dog but a cat",
    "Instead of a dog, a cat.",
    "It was a dog? No, a cat.",
    "It is not a cat. I was wrong: it is a cat.",
    "cat-lover",
]
NOT_HELD = [
    "",
    "not a cat",
    "does not have a cat",
    "no cat",
    "no red cat",
    "Mia doesn\u2019t have a cat.",
    "She dont have a cat",
    "I do not think it is a cat",
    "A cat is not her pet",
    "cat isn't right",
    "a cat? No.",
    "anything but a cat",
    "a dog instead of a cat",
    "a dog rather than a cat",
    "without a cat",
    "neither a dog nor a cat",
    "She has never had a cat",
    "no longer a cat",
    "catfish",
    "cats",
    "concat",
]


@pytest.mark.parametrize("answer", HELD)
def test_a_value_that_is_said_is_held(answer: str) -> None:
    assert holds(answer, "cat")
    assert named(answer, ("bird", "cat")) == {"cat"}


@pytest.mark.parametrize("answer", NOT_HELD)
def test_a_value_that_is_negated_or_absent_is_not_held(answer: str) -> None:
    assert not holds(answer, "cat")
    assert not named(answer, ("bird", "cat"))


def test_values_of_several_words_are_held_as_a_whole() -> None:
    assert holds("He lives by the Old   Mill, I think.", "the old mill")
    assert holds("the red ball", "a red ball")
    assert not holds("the mill is old", "old mill")
    assert not holds("not by the old mill", "old mill")


def test_numbers_are_words() -> None:
    assert holds("There are 1,000 of them.", "1000")
    assert holds("It costs 3.5 coins.", "3.5")
    assert not holds("There are 17 apples.", "7")


def test_of_values_inside_values_the_longest_is_named() -> None:
    assert named("an apple pie and a red hat", ("apple", "apple pie", "red", "dark red")) == {"apple pie", "red"}


@pytest.mark.parametrize("word", ["माला", "मील", "สวัสดี", "مُحَمَّد", "தமிழ்"])
def test_marks_belong_to_their_words(word: str) -> None:
    assert words(word) == words(f"({word})") == (normalise(word),)
    assert holds(f"x {word}, y", word)
    assert not holds("यह माला है", "मील")
    assert holds(f"not x. {word}", word)


@pytest.mark.parametrize("emoji", ["❤️", "👨‍👩‍👧", "1️⃣".replace("1", ""), "\u0301"])
def test_marks_alone_are_no_words(emoji: str) -> None:
    assert words(f"A cat {emoji}") == ("a", "cat")
    assert holds(f"It is {emoji} a cat {emoji}.", "cat")
    assert not holds(f"It is not {emoji} a cat.", "cat")


def test_an_underscore_parts_words() -> None:
    assert words("old_tom's _cat_") == ("old", "tom", "cat")
    assert says_unknown("I_do_not_know.")


def test_an_empty_value_is_never_held() -> None:
    assert not holds("anything", "")
    assert not holds("anything", "?!")


@given(
    value=st.sampled_from(["cat", "old mill", "7", "zoë"]), before=st.sampled_from(["", "it is a ", "Mia has the "]), shout=st.booleans()
)
def test_case_and_surroundings_do_not_matter_but_negation_does(value: str, before: str, shout: bool) -> None:
    answer = before + (value.upper() if shout else value) + "."
    assert holds(answer, value)
    assert not holds(f"It is not true that {answer}", value)


@given(st.text(max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    assert words(text) == words(text.upper().lower()) or not text.isascii()
    assert isinstance(holds(text, text), bool)
    assert isinstance(says_unknown(text), bool)


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know.",
        "I do not know that.",
        "You have not told me that.",
        "You haven\u2019t told me yet.",
        "You never told me.",
        "I was not told.",
        "I can't remember",
        "No idea.",
        "That is unknown.",
        "you didn't mention it",
        "I'm not sure.",
        "I have no information about it",
        "I cannot say",
    ],
)
def test_saying_that_one_does_not_know(answer: str) -> None:
    assert says_unknown(answer)


@pytest.mark.parametrize("answer", ["", "She has a cat", "I know it: a cat", "You told me: a cat", "It is known as Rex", "It is not red"])
def test_not_saying_so(answer: str) -> None:
    assert not says_unknown(answer)


def test_attributes_and_rivals() -> None:
    conversations = [
        Conversation("a", tells("mia.pet", "cat"), (tells("tom.pet", "dog"),)),
        Conversation("b", tells("mia.ball.colour", "red"), (tells("mia.pet", "The Cat"),)),
    ]
    values = attribute_values(conversations)
    assert attribute_of("mia.ball.colour") == "colour"
    assert attribute_of("pet") == "pet"
    assert values == {"colour": ("red",), "pet": ("The Cat", "cat", "dog")}
    assert rivals_of("cat", values["pet"]) == ("dog",)
    assert rivals_of("cat", values["pet"], ("dog",)) == ()


def tells(key: str, value: str, answer: str = "I see.") -> Interaction:
    entity = key.partition(".")[0].capitalize()
    return Interaction(f"{entity} has a {value}.", answer, facts=((key, value),), asks=())


def asks(*keys: str, answer: str = "It is this.") -> Interaction:
    return Interaction("What is it?", answer, asks=keys)


IDLE = Interaction("Nice weather.", "Indeed.", asks=())
VALUES = {"pet": ("bird", "cat", "dog"), "colour": ("blue", "red")}


class Followed:
    """A conversation whose interactions are written one after the other."""

    def __init__(self, interactions: Sequence[Interaction]) -> None:
        self.tracker, self.interactions, self.written = FactTracker(VALUES), interactions, 0

    def write(self, answer: str) -> None:
        self.tracker.write(self.interactions[self.written], answer)
        self.written += 1

    def ask(self) -> Asked:
        return self.tracker.ask(self.interactions[self.written])


def tracker(*follow_ups: Interaction, first: Interaction | None = None) -> Followed:
    return Followed((first or tells("mia.pet", "cat"), *follow_ups))


def test_distance_counts_turns_since_the_fact_was_told() -> None:
    episode = tracker(IDLE, IDLE, asks("mia.pet"))
    distances = []
    for answer in ("I see.", "Indeed.", "Indeed."):
        episode.write(answer)
        distances.append(episode.ask().distance)
    assert distances == [None, None, 3]
    asked = episode.ask()
    assert asked.asking
    assert asked.expected == {"mia.pet": "cat"}
    assert asked.rivals == {"mia.pet": ("bird", "dog")}
    assert asked.saved == (0,)


def test_a_written_answer_that_holds_the_fact_exposes_it_again() -> None:
    episode = tracker(asks("mia.pet"), IDLE, asks("mia.pet"))
    for answer in ("I see.", "Mia has a cat.", "Indeed."):
        episode.write(answer)
    asked = episode.ask()
    assert asked.distance == 2
    assert asked.saved == (0,)


def test_a_wrong_answer_exposes_nothing() -> None:
    episode = tracker(asks("mia.pet"), IDLE, asks("mia.pet"))
    for answer in ("I see.", "Mia has a dog, not a cat.", "Indeed."):
        episode.write(answer)
    assert episode.ask().distance == 3


def test_the_same_value_of_someone_else_exposes_nothing() -> None:
    episode = tracker(tells("tom.pet", "cat", "So Tom has a cat."), asks("mia.pet"))
    episode.write("I see.")
    episode.write("So Tom has a cat.")
    assert episode.ask().distance == 2


def test_an_overwritten_fact_counts_from_its_new_value() -> None:
    episode = tracker(tells("mia.pet", "dog"), IDLE, asks("mia.pet"))
    for answer in ("I see.", "I see.", "Indeed."):
        episode.write(answer)
    asked = episode.ask()
    assert asked.expected == {"mia.pet": "dog"}
    assert asked.rivals == {"mia.pet": ("bird", "cat")}
    assert (asked.distance, asked.saved) == (2, (1,))


def test_told_rivals_are_what_others_were_told_to_have() -> None:
    log = tracker(
        tells("tom.pet", "dog"),
        tells("mia.colour", "red"),
        asks("mia.pet"),
        tells("tom.pet", "bird"),
        tells("ann.pet", "cat"),
        asks("mia.pet"),
        asks("mia.colour"),
        asks("mia.pet", "tom.pet"),
    )
    log.write("I see.")
    found = {}
    for turn in range(1, 9):
        found[turn] = log.ask().told_rivals
        log.write("I see.")
    assert found[3] == {"mia.pet": ("dog",)}
    assert found[6] == {"mia.pet": ("dog", "bird")}, "earlier values of others can be confused too, and an equal one cannot"
    assert found[7] == {}
    assert found[8] == {"mia.pet": ("dog", "bird"), "tom.pet": ("cat",)}


def test_of_several_facts_the_farthest_counts() -> None:
    episode = tracker(tells("tom.colour", "red"), asks("mia.pet", "tom.colour"))
    episode.write("I see.")
    episode.write("I see.")
    asked = episode.ask()
    assert asked.expected == {"mia.pet": "cat", "tom.colour": "red"}
    assert (asked.distance, asked.saved) == (2, (0, 1))


def test_a_fact_that_only_the_reference_answer_told_is_not_exposed_by_another_answer() -> None:
    story = Interaction("Tell me about Mia.", "Mia has a cat.", facts=(("mia.pet", "cat"),), asks=())
    told, lost = tracker(story, asks("mia.pet"), first=IDLE), tracker(story, asks("mia.pet"), first=IDLE)
    for episode, answer in ((told, "Mia has a cat."), (lost, "Once upon a time.")):
        episode.write("Indeed.")
        episode.write(answer)
    assert told.ask().distance == 1
    assert lost.ask().distance is None


def test_what_was_never_told() -> None:
    episode = tracker(Interaction("What is Tom's pet?", "I do not know.", asks=("tom.pet",), unknown=True))
    episode.write("I see.")
    asked = episode.ask()
    assert (asked.asking, asked.unknown, asked.distance) == (True, True, None)
    assert asked.rivals == {"tom.pet": ("bird", "cat", "dog")}


def test_aliases_are_right_and_no_rivals() -> None:
    first = Interaction("Mia has a cat.", "I see.", facts=(("mia.pet", "cat"),), aliases={"mia.pet": ("kitty",)})
    asking = Interaction("What?", "A cat.", asks=("mia.pet",), aliases={"mia.pet": ("dog",), "*": ("Mia's pet",)})
    episode = tracker(asking, first=first)
    episode.write("I see.")
    asked = episode.ask()
    assert asked.aliases == {"mia.pet": ("kitty", "dog"), "*": ("Mia's pet",)}
    assert asked.rivals == {"mia.pet": ("bird",)}


def test_rows_without_asks_fall_back_on_content_words() -> None:
    follow_ups = (
        Interaction("Where did the fox hide the golden key?", "Under the hollow oak."),
        Interaction("How are you?", "Splendid."),
        Interaction("Where was the key?", "It lay under the hollow oak in the forest."),
    )
    episode = tracker(*follow_ups, first=Interaction("A story, please.", "A fox found a golden key. It hid the key under a hollow oak."))
    episode.write("A fox found a golden key. It hid the key under a hollow oak.")
    first = episode.ask()
    assert (first.asking, first.asks_known, first.distance, first.saved) == (True, False, 1, (0,))
    episode.write("I forgot.")
    second = episode.ask()
    assert (second.asking, second.asks_known, second.distance, second.saved) == (False, False, None, (1,))
    episode.write("Under the hollow oak.")
    third = episode.ask()
    assert (third.asking, third.distance, third.saved) == (True, 1, (2,))


def _mark(character: str) -> bool:
    return unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) != 0


def _longest_run(text: str) -> int:
    return max((len(list(group)) for marks, group in groupby(text, key=_mark) if marks), default=0)


def test_all_marks_of_unicode_are_known() -> None:
    marks = [each for each in map(chr, range(0x300, sys.maxunicode + 1)) if _mark(each)]
    assert all(facts._long_runs().search(each * 31) for each in marks)
    assert not any(facts._long_runs().search(each * 31) for each in "a \u00e9\u1100\u4e2d\U0001f469")
    assert not any(_mark(each) for each in map(chr, range(0x300)))


@given(st.text(st.one_of(st.characters(), st.sampled_from("\u0315\u0300\u0f73\uff9e\u0344a")), max_size=60))
def test_texts_without_long_runs_of_marks_are_normalised_as_unicode_says(text: str) -> None:
    if _longest_run(text) <= 30:
        plain = unicodedata.normalize("NFKC", text).replace("\u2019", "'").replace("\u2018", "'")
        assert normalise(text) == plain.casefold()


@pytest.mark.parametrize("marks", ["\u0315\u0300", "\u0344", "\u0f73", "\uff9e", "\u0301" * 29 + "a"])
def test_no_more_than_thirty_marks_in_a_row_are_ever_sorted(marks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting takes time that grows with the square of a run, and cannot be interrupted."""
    handed: list[str] = []
    monkeypatch.setattr(
        facts, "unicodedata", SimpleNamespace(normalize=lambda form, text: handed.append(text) or unicodedata.normalize(form, text))
    )
    normalise("a" + marks * 500)
    assert handed
    assert max(map(_longest_run, handed)) <= 30


@pytest.mark.parametrize("text", ["x", "a b ", "\ufdfa", "\u0390", "a\u0301"])
def test_of_texts_without_end_the_beginning_is_looked_at(text: str) -> None:
    long = text * (2 * LONGEST // len(text))
    assert len(normalise(long)) <= LONGEST
    assert sum(map(len, words(long))) <= LONGEST
    assert normalise(long)[: LONGEST // 20] == normalise(text * (LONGEST // 10))[: LONGEST // 20]


def test_the_work_on_an_answer_does_not_grow_with_the_values_that_begin_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """One look for each length of a value, however many there are."""
    values = tuple(f"john {number}" for number in range(3000))
    looked = 0

    class Counted(dict):  # type: ignore[type-arg]
        def get(self, *key: object) -> object:
            nonlocal looked
            looked += 1
            return super().get(*key)

    table = facts._by_first_word(values)
    counted = {first: tuple((size, Counted(spelt)) for size, spelt in sizes) for first, sizes in table.items()}
    monkeypatch.setattr(facts, "_by_first_word", lambda values: counted)
    assert named("john " * 500 + "john 7", values) == {"john 7"}
    assert looked == 501


def test_the_work_on_a_value_does_not_grow_without_end_with_its_mentions(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    judged = facts._negated_at

    def counted(*arguments: Any) -> bool:
        nonlocal looked
        looked += 1
        return judged(*arguments)

    monkeypatch.setattr(facts, "_negated_at", counted)
    assert not holds("not a cat. " * 5000, "cat")
    assert looked == 1000
    assert holds("not a cat. " * 900 + "a cat", "cat")


@given(
    st.lists(st.sampled_from(["a", "cat", "cat's", "not", "old", "1,000", "."]), max_size=12).map(" ".join),
    st.sampled_from(["cat", "old cat", "cat cat", "1000"]),
)
def test_mentions_are_found_word_by_word(text: str, value: str) -> None:
    parts, needle = words(text), facts.value_words(value)
    places = [i for i in range(len(parts)) if parts[i : i + len(needle)] == needle]
    assert list(facts._mentions(facts._parse(text), needle)) == places
