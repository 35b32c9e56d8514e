"""The default reward: what it holds for right, wrong and hacked answers."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from rxrl.rewards import Retention, exact, form, held, samples
from rxrl.rewards.samples import KINDS, PETS, QUESTIONS
from rxrl.scoring import score_turns
from tests.rewards.turns import make_turn

BY_NAME = {question.name: question for question in QUESTIONS}
SAMPLES = samples()


def score(answer: str, **changes: Any) -> float:
    value = score_turns(Retention(), [make_turn(answer, **changes)])[0].value
    assert value is not None
    return value


def test_the_table_is_large_enough_and_holds_every_kind() -> None:
    assert len(SAMPLES) >= 40
    assert {sample.kind for sample in SAMPLES} == set(KINDS)
    assert len({(sample.question, sample.turn.answer) for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("name", BY_NAME)
def test_right_answers_rank_above_wrong_ones_and_hacks_earn_little(name: str) -> None:
    earned: dict[str, dict[str, float]] = {"right": {}, "wrong": {}, "hack": {}}
    for sample in SAMPLES:
        if sample.question == name:
            earned[sample.verdict][sample.turn.answer] = score_turns(Retention(), [sample.turn])[0].value or 0.0
    right, wrong, hacks = (earned[verdict] for verdict in ("right", "wrong", "hack"))
    assert min(right.values()) > max(wrong.values()), (right, wrong)
    assert min(right.values()) >= 6.0, right
    assert max(hacks.values()) <= 2.0, hacks


def test_every_right_answer_of_all_questions_is_above_every_wrong_one() -> None:
    values = [score.value for score in score_turns(Retention(), [sample.turn for sample in SAMPLES])]
    right = [value for sample, value in zip(SAMPLES, values, strict=True) if sample.verdict == "right"]
    others = [value for sample, value in zip(SAMPLES, values, strict=True) if sample.verdict != "right"]
    assert min(right) > max(others)
    assert max(others) <= 2.0


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
    both = BY_NAME["two facts"].fields
    assert held(make_turn("Mia has a cat.", **both)) == pytest.approx(2 / 3)
    assert held(make_turn("Mia has a cat and Tom has a cow.", **both)) == pytest.approx(1 / 2)
    assert held(make_turn("cat or dog")) == pytest.approx(2 / 3)
    assert held(make_turn(", ".join(PETS))) == pytest.approx(2 / 9)
    assert held(make_turn("dog")) == 0.0
    assert [exact(make_turn(answer)) for answer in ("cat", "cat or dog", "dog")] == [1.0, 0.0, 0.0]


def test_fallback_words_are_an_f1_too() -> None:
    case = BY_NAME["no asks"].fields
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


def test_spellings_of_one_false_value_count_once() -> None:
    for rivals in (("dog",), ("dog", "Dog"), ("Dog", "a dog", "dog", "the dog")):
        assert held(make_turn("a cat and a dog", rivals={"mia.pet": rivals})) == pytest.approx(2 / 3)


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
    turns = [sample.turn for sample in SAMPLES]
    together = Retention()(turns)
    assert pickle.loads(pickle.dumps(Retention()))(turns) == together
    assert [Retention()([turn])[0] for turn in turns] == together
