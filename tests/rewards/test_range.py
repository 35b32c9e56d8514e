"""Whatever is answered, every reward lies in [0, 10] and scores each turn on its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rxrl.rewards import BUILT_IN, load_reward
from rxrl.scoring import score_turns
from rxrl.types import STRATEGIES, SavedInteraction, Turn

NOT_OFFLINE = {"semantic", "judge", "from_trl"}
"""Rewards that need a model, an endpoint or a function; they are tested on their own."""
WORDS = st.sampled_from(
    ["cat", "dog", "not", "no", "a", "Mia", "has", "I", "don't", "know", ".", ",", "?", "[Q]", "7", "zoë", "\u2019", "the old mill"]
)
TEXT = st.one_of(st.lists(WORDS, max_size=25).map(" ".join), st.text(max_size=40))
IDS = st.lists(st.integers(7, 30), max_size=20).map(tuple)
SAVED = st.lists(st.builds(SavedInteraction, TEXT, TEXT, IDS, IDS), min_size=1, max_size=3).map(tuple)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    asking, unknown, known = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    keys = draw(st.lists(st.sampled_from(["mia.pet", "tom.pet", "mia.place"]), unique=True, max_size=3)) if known and asking else []
    values = ("cat", "dog", "7", "the old mill", "")
    return Turn(
        conversation_id="c",
        index=draw(st.integers(1, 4)),
        steps=4,
        strategy=draw(st.sampled_from(STRATEGIES)),
        query=draw(TEXT),
        answer=draw(TEXT),
        reference=draw(TEXT),
        query_ids=draw(IDS),
        answer_ids=draw(IDS),
        reference_ids=draw(IDS),
        saved=draw(SAVED),
        asking=asking,
        expected={} if unknown else {key: draw(st.sampled_from(values)) for key in keys},
        aliases=draw(st.sampled_from([{}, {"*": ("a cat", "")}, {"mia.pet": ("kitty",)}])),
        rivals=dict.fromkeys(keys, values),
        unknown=unknown and bool(keys),
        asks_known=known,
        history=draw(SAVED),
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(BUILT_IN) - NOT_OFFLINE))
@given(batch=st.lists(turns(), min_size=1, max_size=4))
@settings(max_examples=60)
def test_every_score_and_term_lies_in_range(name: str, batch: list[Turn]) -> None:
    scores = score_turns(load_reward(name), batch)
    for turn, score in zip(batch, scores, strict=True):
        [alone] = score_turns(load_reward(name), [turn])
        assert score.value == pytest.approx(alone.value, abs=1e-5)
        for value in (score.value, *score.terms.values()):
            assert value is None or 0.0 <= value <= 10.0
