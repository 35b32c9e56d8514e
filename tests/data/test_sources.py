"""Sources over given conversations."""

import pickle
from collections import Counter
from dataclasses import replace

import pytest

from rxrl.data.sources import RowsSource
from rxrl.data.world import GeneratedSource
from rxrl.errors import DataError


def conversations(steps, count, strategy="multi-step"):
    return GeneratedSource(1, 0, "train").take(steps=steps, strategy=strategy, start=0, count=count)


def test_cuts_to_the_wanted_length_and_leaves_short_ones_out():
    source = RowsSource([*conversations(8, 5), *conversations(4, 5)], seed=0)
    assert source.available(6, "multi-step") == 5
    taken = source.take(steps=6, strategy="multi-step", start=0, count=10)
    assert {conversation.steps for conversation in taken} == {6}
    assert len({conversation.id for conversation in taken}) == 5
    assert taken[0].follow_ups == next(each for each in conversations(8, 5) if each.id == taken[0].id).follow_ups[:6]


def test_a_long_range_conversation_that_is_cut_still_returns_to_its_first_interaction():
    given = conversations(12, 20, "long-range")
    for cut in RowsSource(given, seed=0).take(steps=8, strategy="long-range", start=0, count=20):
        whole = next(each for each in given if each.id == cut.id)
        assert cut.follow_ups == (*whole.follow_ups[:7], whole.follow_ups[-1])
        assert set(whole.follow_ups[-1].asks) <= {key for key, _ in whole.first.facts}


def test_a_return_that_what_is_left_out_bears_on_is_left_out_too():
    [whole] = conversations(6, 1, "long-range")
    changed = replace(whole.follow_ups[4], facts=((whole.follow_ups[-1].asks[0], "another"),))
    given = replace(whole, follow_ups=(*whole.follow_ups[:4], changed, whole.follow_ups[-1]))
    [cut] = RowsSource([given], seed=0).take(steps=4, strategy="long-range", start=0, count=1)
    assert cut.follow_ups == given.follow_ups[:4]


def test_every_epoch_serves_each_conversation_once_in_a_new_order():
    source = RowsSource(conversations(4, 7), seed=3)
    epochs = [[each.id for each in source.take(steps=4, strategy="multi-step", start=7 * epoch, count=7)] for epoch in range(4)]
    assert all(Counter(epoch) == Counter(epochs[0]) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_positions_name_conversations_whatever_was_taken_before():
    source = RowsSource(conversations(4, 5), seed=3)
    whole = source.take(steps=4, strategy="multi-step", start=0, count=17)
    assert [source.take(steps=4, strategy="multi-step", start=at, count=1)[0] for at in (16, 3, 9)] == [whole[at] for at in (16, 3, 9)]
    assert pickle.loads(pickle.dumps(source)).take(steps=4, strategy="multi-step", start=0, count=17) == whole
    assert RowsSource(conversations(4, 5), seed=4).take(steps=4, strategy="multi-step", start=0, count=17) != whole


def test_conversations_serve_the_strategy_that_they_name():
    source = RowsSource([*conversations(8, 4), *conversations(8, 4, "long-range")], seed=0)
    for strategy in ("multi-step", "long-range"):
        assert {each.extra["strategy"] for each in source.take(steps=8, strategy=strategy, start=0, count=8)} == {strategy}
    assert source.available(1, "single-step") == 8


def test_too_long_a_wish_is_an_error_that_says_what_there_is():
    with pytest.raises(DataError, match="at least 5 turns are needed, but the longest of 3 has 4"):
        RowsSource(conversations(4, 3), seed=0).take(steps=5, strategy="multi-step", start=0, count=1)
