"""The default reward: what it holds for right, wrong and hacked answers."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest

from rxrl.rewards import Retention, exact, form, held
from rxrl.scoring import score_turns
from tests.rewards.turns import PETS, PLACES, make_turn, saved

STORY = (
    "Mia lives in a small white house by the sea. She has a cat that sleeps all day. "
    "The ball of Mia is red, and her best friend is Tom. Every evening they eat soup."
)
NUMBERS = ("2", "3", "5", "7", "9", "11")


@dataclass
class Case:
    """One question with right answers, wrong answers and hacks."""

    right: list[str]
    wrong: list[str]
    hacks: list[str]
    turn: dict[str, Any] = field(default_factory=dict)


CASES = {
    "one fact": Case(
        right=[
            "Mia has a cat.",
            "cat",
            "A CAT!",
            "It is a cat, not a dog.",
            "No dog - she has a cat.",
            "If I remember it right, the pet that Mia has is a cat.",
            "Well, as far as I can remember from what you told me earlier, Mia has a cat at home.",
        ],
        wrong=["Mia has a dog.", "dog", "not a cat", "Mia doesn't have a cat.", "No cat.", "catfish", "Mia has a pet.", "I don't know."],
        hacks=[
            "",
            " \n",
            "?!",
            ", ".join(PETS),
            "Maybe a bird, a cat or a cow.",
            "What pet does Mia have?",
            "Mia Mia Mia Mia Mia Mia",
            "cat cat cat cat cat cat",
            "a cat a cat a cat a cat a cat a cat",
            "[Q] What pet does Mia have? [A] cat",
            "[BOS] cat [EOS]",
            "cat " + " ".join(f"filler{i}" for i in range(60)),
            "She has a cat. " * 30,
        ],
    ),
    "a story was saved": Case(
        right=["Mia has a cat.", "A cat that sleeps all day."],
        wrong=["Mia has a fish.", "A ball."],
        hacks=[STORY, STORY.lower(), "Tell me a story about Mia. " + STORY, STORY.partition(" Every")[0]],
        turn={"saved": (saved("Tell me a story about Mia.", STORY),)},
    ),
    "everything was told in short sentences": Case(
        right=["Mia has a cat.", "You told me that Mia has a cat."],
        wrong=["Mia has a fish."],
        hacks=[
            "I see. Tom picks nine. Mia has a cat. Ann likes red.",
            "Mia has a cat. Ann likes red. Bob is at the beach. Bob wants a ball.",
        ],
        turn={
            "saved": (saved("Tom picks nine. Mia has a cat. Ann likes red.", "I see."),),
            "history": (
                saved("Tom picks nine. Mia has a cat. Ann likes red.", "I see."),
                saved("Bob is at the beach. Bob wants a ball.", "Okay."),
            ),
        },
    ),
    "a number": Case(
        right=["She has 7 apples.", "7", "seven apples"],
        wrong=["She has 9 apples.", "17", "77", "some apples"],
        hacks=["2 3 5 7 9 11", "1 2 3 4 5 6 7 8 9 10 11 12"],
        turn={
            "query": "How many apples does Mia have?",
            "reference": "She has 7 apples.",
            "expected": {"mia.number": "7"},
            "aliases": {"mia.number": ("seven",)},
            "rivals": {"mia.number": tuple(n for n in NUMBERS if n != "7")},
        },
    ),
    "two facts": Case(
        right=["Mia has a cat and Tom has a dog.", "A dog (Tom) and a cat (Mia).", "cat, dog"],
        wrong=["Mia has a cow and Tom has a fish.", "Neither a cat nor a dog."],
        hacks=[" ".join(PETS), "bird cat cow dog", "What pets do Mia and Tom have?"],
        turn={
            "query": "What pets do Mia and Tom have?",
            "reference": "Mia has a cat and Tom has a dog.",
            "expected": {"mia.pet": "cat", "tom.pet": "dog"},
            "rivals": {"mia.pet": tuple(p for p in PETS if p != "cat"), "tom.pet": tuple(p for p in PETS if p != "dog")},
        },
    ),
    "a place of six": Case(
        right=["kitchen", "The kitchen.", "John is in the kitchen."],
        wrong=["hallway", "John is not in the kitchen.", "John is in the garden."],
        hacks=[", ".join(PLACES), "kitchen garden office", "Where is John?", "kitchen kitchen kitchen kitchen"],
        turn={
            "query": "Where is John?",
            "reference": "kitchen",
            "expected": {"john.place": "kitchen"},
            "rivals": {"john.place": tuple(p for p in PLACES if p != "kitchen")},
        },
    ),
    "never told": Case(
        right=["I do not know.", "You never told me what pet Mia has.", "I don't know whether she has a dog."],
        wrong=["Mia has a cat.", "a dog", "I do not know, maybe a dog."],
        hacks=["", ", ".join(PETS), "What pet does Mia have?", "I do not know. " * 20, "I do not know that. It could be a cat or a dog."],
        turn={"reference": "I do not know.", "expected": {}, "rivals": {"mia.pet": PETS}, "unknown": True, "distance": None},
    ),
    "no asks": Case(
        right=["Under the hollow oak.", "hollow oak", "It was under a hollow oak."],
        wrong=["In the river.", "At home.", "It was hidden."],
        hacks=["", "Where did the fox hide the golden key?", "oak oak oak oak oak", "the the the the the the"],
        turn={
            "query": "Where did the fox hide the golden key?",
            "reference": "Under the hollow oak.",
            "saved": (saved("A story, please.", "A fox found a golden key. It hid the key under a hollow oak."),),
            "expected": {},
            "rivals": {},
            "asks_known": False,
        },
    ),
}


def score(answer: str, **changes: Any) -> float:
    value = score_turns(Retention(), [make_turn(answer, **changes)])[0].value
    assert value is not None
    return value


def test_the_table_is_large_enough() -> None:
    assert sum(len(case.right) + len(case.wrong) + len(case.hacks) for case in CASES.values()) >= 40


@pytest.mark.parametrize("name", CASES)
def test_right_answers_rank_above_wrong_ones_and_hacks_earn_little(name: str) -> None:
    case = CASES[name]
    right = {answer: score(answer, **case.turn) for answer in case.right}
    wrong = {answer: score(answer, **case.turn) for answer in case.wrong}
    hacks = {answer: score(answer, **case.turn) for answer in case.hacks}
    assert min(right.values()) > max(wrong.values()), (right, wrong)
    assert min(right.values()) >= 6.0, right
    assert max(hacks.values()) <= 2.0, hacks


@pytest.mark.parametrize("answer", ["cat", "A cat.", "Mia has a cat.", "Mia's pet is a cat."])
def test_right_short_answers_have_perfect_form(answer: str) -> None:
    assert form(make_turn(answer)) == 1.0
    assert score(answer) == 10.0


def test_the_formula() -> None:
    verbose = make_turn("Well, as far as I can remember from what you told me earlier, Mia has a cat at home.")
    shape = form(verbose)
    assert 0.0 < shape < 1.0
    assert score(verbose.answer) == pytest.approx(10 * (0.8 + 0.2 * shape))


def test_held_is_the_f1_over_the_asked_facts() -> None:
    both = CASES["two facts"].turn
    assert held(make_turn("Mia has a cat.", **both)) == pytest.approx(2 / 3)
    assert held(make_turn("Mia has a cat and Tom has a cow.", **both)) == pytest.approx(1 / 2)
    assert held(make_turn("cat or dog")) == pytest.approx(2 / 3)
    assert held(make_turn(", ".join(PETS))) == pytest.approx(2 / 9)
    assert held(make_turn("dog")) == 0.0
    assert [exact(make_turn(answer)) for answer in ("cat", "cat or dog", "dog")] == [1.0, 0.0, 0.0]


def test_fallback_words_are_an_f1_too() -> None:
    case = CASES["no asks"].turn
    assert held(make_turn("Under the hollow oak.", **case)) == 1.0
    assert held(make_turn("Under an oak.", **case)) == pytest.approx(2 / 3)
    assert held(make_turn("A hollow tree.", **case)) == pytest.approx(1 / 2)
    assert held(make_turn("In a dead tree.", aliases={"*": ("a dead tree",)}, **case)) == 1.0


def test_values_that_the_reference_or_the_question_is_about_are_no_false_positives() -> None:
    friends = ("Ann", "Mia", "Tom")
    about = {"query": "Who is her friend?", "expected": {"mia.friend": "Tom"}, "rivals": {"mia.friend": ("Ann", "Mia")}}
    assert held(make_turn("Mia's friend is Tom.", reference="Tom", **about)) == 1.0
    assert held(make_turn("It was Ann, now it is Tom.", reference="It was Ann, now it is Tom.", **about)) == 1.0
    assert held(make_turn("Ann and Tom", reference="Tom", **about)) == pytest.approx(2 / 3)
    assert set(friends) == {"Tom", *about["rivals"]["mia.friend"]}


def test_a_right_value_inside_a_longer_false_one_is_not_held() -> None:
    pie = {"expected": {"mia.food": "apple"}, "rivals": {"mia.food": ("apple pie", "soup")}, "reference": "She likes apples: apple."}
    assert held(make_turn("apple", **pie)) == 1.0
    assert held(make_turn("apple pie", **pie)) == 0.0


def test_turns_that_ask_for_nothing_are_scored_on_form_alone() -> None:
    nothing = {"asking": False, "expected": {}, "rivals": {}, "distance": None, "query": "Mia has a cat now.", "reference": "Oh, how nice!"}
    assert held(make_turn("Oh, how nice!", **nothing)) is None
    assert exact(make_turn("Oh, how nice!", **nothing)) is None
    assert score("Oh, how nice!", **nothing) == 10.0
    assert score("That is good to know.", **nothing) == 10.0
    assert score("", **nothing) == 0.0
    assert score("nice nice nice nice nice nice", **nothing) == 0.0
    assert score("Mia has a cat now.", **nothing) <= 2.0
    assert score("word " * 80, **nothing) == 0.0
    terms = score_turns(Retention(), [make_turn("Oh!", **nothing)])[0].terms
    assert terms["held"] is None
    assert terms["gate"] is None


def test_it_can_be_pickled_and_scores_a_batch_as_it_scores_one_by_one() -> None:
    turns = [make_turn(answer, **case.turn) for case in CASES.values() for answer in (*case.right, *case.wrong, *case.hacks)]
    together = Retention()(turns)
    assert pickle.loads(pickle.dumps(Retention()))(turns) == together
    assert [Retention()([turn])[0] for turn in turns] == together
