"""Statistics of conversations, on one that can be counted by hand."""

import pytest

from rxrl.data.stats import data_stats
from rxrl.types import Conversation, Interaction


def conversation(name="a", pet="cat"):
    first = Interaction(f"Anna has a {pet}. Ben likes red.", "Okay.", (("anna.pet", pet), ("ben.colour", "red")), (), kind="tell")
    ask_pet = Interaction("What pet does Anna have?", f"Anna has a {pet}.", (), ("anna.pet",), kind="ask")
    ask_both = Interaction("Pet and colour?", f"Anna has a {pet}. Ben likes red.", (), ("anna.pet", "ben.colour"), kind="ask")
    unknown = Interaction("Where is Ben?", "I do not know.", (), ("ben.place",), unknown=True, kind="ask")
    small_talk = Interaction("Hello.", "Hello.", (), (), kind="distract")
    return Conversation(name, first, (small_talk, ask_pet, ask_both, unknown, ask_pet))


def test_counts_by_hand():
    stats = data_stats([conversation("a"), conversation("b", "dog"), conversation("c")])
    assert (stats.conversations, stats.turns, stats.steps) == (3, 15, {5: 3})
    assert (stats.asks, stats.unknown, stats.facts) == (12, 3, 6)
    assert stats.distances == {2: 6, 3: 3, None: 3}
    assert stats.share_beyond(3) == pytest.approx(1 / 3)
    assert stats.kinds == {"tell": 3, "ask": 12, "distract": 3}
    assert stats.chance_by_kind == {"colour": 1.0, "pet": pytest.approx(2 / 3)}
    assert stats.chance == pytest.approx((3 + 6) / (3 + 9))
    assert (stats.lengths[0], stats.lengths[-1]) == (2, 10)


def test_without_known_facts_there_is_no_chance():
    published = Conversation("a", Interaction("Hello there.", "Hello."), (Interaction("What?", "Nothing."),))
    stats = data_stats([published])
    assert (stats.chance, stats.share_beyond(9)) == (None, None)
