"""Conversations under stress: what is inserted, what stays, and what a report gets."""

import pytest

from rxrl.data.world import GeneratedSource
from rxrl.errors import ConfigError
from rxrl.evaluation import measure_stress, stress_axes, stress_by_axis, with_small_talk
from rxrl.evaluation.report import render
from rxrl.evaluation.stress_views import stress_view
from rxrl.facts import attribute_values
from rxrl.lexicon import SMALL_TALK_SHORT
from rxrl.types import Conversation
from tests.evaluation.fakes import Forgetful, Reader, WordCodec, chat, conversations, environment

WORLD = GeneratedSource(level=1, seed=0, split="test")
TALKS = WORLD.take(steps=16, strategy="multi-step", start=0, count=6)


def inserted_before(conversation, original):
    """How many turns of small talk stand before each of the original ones."""
    counts, waiting, left = [], 0, list(original.follow_ups)
    for turn in conversation.follow_ups:
        if left and turn is left[0]:
            counts.append(waiting)
            waiting = 0
            left.pop(0)
        else:
            assert (turn.query, turn.answer) in SMALL_TALK_SHORT
            assert turn.asks == ()
            assert not turn.facts
            waiting += 1
    assert not left
    assert not waiting, "nothing comes after the last question"
    return counts


@pytest.mark.parametrize(("place", "expected"), [("spread", [3] * 16), ("first", [48] + [0] * 15)])
def test_small_talk_comes_where_it_should_and_leaves_the_rest_alone(place, expected):
    for conversation, original in zip(with_small_talk(TALKS, 48, place, seed=0), TALKS, strict=True):
        assert inserted_before(conversation, original) == expected
        assert (conversation.id, conversation.first, conversation.steps) == (original.id, original.first, 64)


def test_uneven_numbers_are_spread_as_evenly_as_they_go():
    counts = inserted_before(with_small_talk(TALKS[:1], 20, "spread", seed=0)[0], TALKS[0])
    assert sum(counts) == 20
    assert set(counts) == {1, 2}
    assert inserted_before(with_small_talk(TALKS[:1], 0, "spread", seed=0)[0], TALKS[0]) == [0] * 16


def test_what_is_said_depends_on_seed_and_conversation_alone():
    both, again = with_small_talk(TALKS, 48, "spread", seed=0), with_small_talk(TALKS[3:], 48, "spread", seed=0)
    assert both[3:] == again
    assert both != with_small_talk(TALKS, 48, "spread", seed=1)
    assert [turn.query for turn in both[0].follow_ups] != [turn.query for turn in both[1].follow_ups]
    with pytest.raises(ConfigError, match="at least 0"):
        with_small_talk(TALKS, -1, "first", seed=0)


def test_the_axes_of_the_generated_world_and_of_given_conversations():
    axes = stress_axes(TALKS, WORLD, seed=0, count=4)
    assert {name: {each.steps for each in found} for name, found in axes.items()} == {
        "small_talk_48_spread": {64}, "small_talk_48_first": {64}, "turns_32": {32}, "turns_64": {64},
    }  # fmt: skip
    assert {len(found) for found in axes.values()} == {4}
    assert list(stress_axes(TALKS, None, seed=0, count=4)) == ["small_talk_48_spread", "small_talk_48_first"]
    assert stress_axes([], WORLD, seed=0, count=4) == {}, "scenarios have nothing to insert into"


def test_a_memory_that_keeps_everything_suffers_nothing_and_one_that_is_never_read_has_nothing_to_lose():
    codec, played = WordCodec(), conversations(6)

    def player(kind):
        return lambda chosen: (environment(chosen, codec, 3, values=attribute_values(played)), kind(codec))

    talk = tuple(("what a day", "ok then .") for _ in range(2))
    axes = {"small_talk_5_first": with_small_talk(played, 5, "first", seed=0, talk=talk)}
    kept, lost = (measure_stress(player(kind), axes, seed=0, resamples=50)["small_talk_5_first"] for kind in (Reader, Forgetful))
    assert kept["mean"] == 1.0
    assert lost["low"] <= lost["mean"] <= lost["high"] < 1.0
    assert kept["conversations"] == 6


def test_nothing_asked_is_none():
    codec = WordCodec()
    silent = [Conversation("s", conversations(1)[0].first, (chat(), chat()))]
    axes = {"small_talk_1_first": silent}
    assert measure_stress(lambda chosen: (environment(chosen, codec, 1), Reader(codec)), axes, seed=0) == {"small_talk_1_first": None}


PART = {"mean": 0.5, "low": 0.4, "high": 0.6, "exact": 0.5, "turns": 100, "conversations": 40}


def test_a_report_sorts_by_axis_and_shows_a_panel_for_each():
    measured = {"after_supervised": {"turns_32": PART, "turns_64": None}, "after_mrl": {"turns_32": {**PART, "mean": 0.75}}}
    stress = stress_by_axis(measured)
    assert stress == {
        "turns_32": {"after_supervised": PART, "after_mrl": {**PART, "mean": 0.75}},
        "turns_64": {"after_supervised": None},
    }
    run = {
        "stress": stress,
        "after_mrl": {"retention_at_16": 0.9, "retention_at_16_interval": [0.8, 0.95], "retention_at_16_conversations": 40},
    }
    view = stress_view(run)
    assert [title for title, _ in view["rows"]] == ["as they are", "conversations of 32 turns"]
    assert view["columns"] == ["after MRL", "after supervised"]
    page = render(run, (), ())
    assert "Under stress" in page
    assert "Conversations of 32 turns" in page
    assert "0.75" in page


def test_intervals_over_a_handful_of_conversations_are_not_shown():
    few = {"turns_32": {"after_mrl": {**PART, "conversations": 4}}}
    assert stress_view({"stress": few})["rows"][0][1][0] == {"mean": 0.5, "low": None, "high": None}


def test_a_report_without_stress_has_no_such_section():
    assert stress_view({"stress": {}}) is None
    assert "Under stress" not in render({}, (), ())
