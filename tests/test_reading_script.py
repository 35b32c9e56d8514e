"""scripts/reading.py: memory at five places, and what is right there."""

from __future__ import annotations

import pytest
import torch

from rxrl.data.batches import episode_batch
from rxrl.seeding import generator
from rxrl.stages.losses import reading_loss
from rxrl.stages.tasks import answered_right, likeliest_answers
from rxrl.types import Conversation, Interaction
from scripts.learning import CODEC, PEOPLE, PETS
from scripts.reading import DISTANCES, PLACES, Question, measured, questions_of
from tests.training.toy import conversations, tiny_model


def tell(*facts):
    return Interaction(
        " and ".join(f"{who} has {pet}" for who, pet in facts), "ok", facts=tuple((f"{w}.pet", p) for w, p in facts), asks=()
    )


def ask(who, answer):
    return Interaction(f"{who} ?", answer, asks=(f"{who}.pet",))


def conversation(*interactions):
    return Conversation("c", interactions[0], interactions[1:])


def test_a_question_knows_where_it_was_told_and_what_else_was_answered():
    found = conversation(
        tell(("mia", "cat")), ask("mia", "cat"), tell(("bob", "dog"), ("mia", "fox")), ask("bob", "dog"), ask("mia", "fox")
    )
    assert list(questions_of(3, found)) == [Question(3, 1, 0, "dog"), Question(3, 3, 2, "fox"), Question(3, 4, 2, "cat")]


def test_without_another_answer_there_is_no_rival():
    found = conversation(tell(("mia", "cat")), ask("mia", "cat"), ask("mia", "Cat"))
    assert [each.rival for each in questions_of(0, found)] == [None, None]


def test_what_was_never_told_or_has_no_answer_is_left_out():
    found = conversation(tell(("mia", "cat")), ask("bob", "unknown"), ask("mia", ""))
    assert list(questions_of(0, found)) == []


@pytest.fixture(scope="module")
def played():
    model, some = tiny_model(), conversations(7, (4, 2, 5))
    return model, some, *measured(model, CODEC, some)


def test_every_place_has_each_question_once(played):
    _, some, right, told_apart = played
    questions = [each for row, conversation in enumerate(some) for each in questions_of(row, conversation)]
    rows = sorted(each.row for each in questions)
    for place in ("at hand", "one write", "another's", "empty"):
        assert sorted(row for row, _ in right[place]) == rows
    by_distance = [row for name in DISTANCES for row, _ in right[f"conversation, {name} since"]]
    assert sorted(by_distance) == rows
    assert len(told_apart["empty"]) == sum(each.rival is not None for each in questions)
    assert set(right) <= set(PLACES)


def test_one_conversation_alone_has_no_other_memory():
    right, told_apart = measured(tiny_model(), CODEC, conversations(1, 4))
    assert right["empty"]
    assert not right["another's"]
    assert not told_apart["another's"]


def test_at_hand_is_the_stage_reading_and_in_the_conversation_is_memory_aware_training(played):
    model, some, right, _ = played
    questions = [each for row, conversation in enumerate(some) for each in questions_of(row, conversation)]
    pairs = [Conversation("p", some[q.row].interactions[q.told], (some[q.row].interactions[q.turn],)) for q in questions]
    batch = episode_batch(pairs, CODEC, model.config.max_length)
    assert [bool(value) for _, value in right["at hand"]] == answered_right(batch, reading_loss(model, batch)[1])[0].tolist()
    whole = episode_batch(some, CODEC, model.config.max_length)
    stm0 = model.init_memory(len(some), generator(0, "reading"))
    expected = answered_right(whole, likeliest_answers(model, stm0, whole))
    found = sorted((row, value) for name in DISTANCES for row, value in right[f"conversation, {name} since"])
    assert found == sorted((q.row, float(expected[q.turn - 1, q.row])) for q in questions)


def test_a_model_that_prefers_one_word_tells_nothing_apart():
    """Whatever is asked, one answer is the likelier of two: of a pair of rivals one is preferred and the other is not."""
    model = tiny_model()
    with torch.no_grad():
        model.decoder.head.weight.zero_()
    one, two = zip(PEOPLE, PETS[:2], strict=False)
    some = [conversation(tell(one, two), ask(*one), ask(*two))]
    _, told_apart = measured(model, CODEC, some)
    assert sorted(value for _, value in told_apart["at hand"]) == [0.0, 1.0]
