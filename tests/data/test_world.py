"""The generated world: what its conversations promise to trainers and reports."""

import re
from collections import Counter, defaultdict

import pytest

from rxrl import lexicon
from rxrl.data.stats import data_stats
from rxrl.data.world import LEVELS, GeneratedSource, generate_conversation, reserved_value
from rxrl.errors import ConfigError
from rxrl.facts import attribute_of, holds, says_unknown

LEVEL_NUMBERS = tuple(LEVELS)
SHAPES = ("multi-step", "long-range")


def take(level, steps, strategy="multi-step", split="train", count=60, seed=0):
    return GeneratedSource(level, seed, split).take(steps=steps, strategy=strategy, start=0, count=count)


def texts(conversation):
    return tuple((interaction.query, interaction.answer) for interaction in conversation.interactions)


def told(conversation):
    return [fact for interaction in conversation.interactions for fact in interaction.facts]


def entity_of(key):
    name = key.partition(".")[0]
    return next((kind, entity) for kind, all_of in lexicon.ENTITIES.items() for entity in all_of if entity.lower() in (name, f"the {name}"))


def is_reserved(key, value):
    return value == reserved_value(*entity_of(key), attribute_of(key))


@pytest.mark.parametrize("strategy", SHAPES)
@pytest.mark.parametrize("level", LEVEL_NUMBERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 24, 32, 47, 64])
def test_any_number_of_steps(level, strategy, steps):
    for conversation in take(level, steps, strategy, count=8):
        asks = [interaction.asks for interaction in conversation.follow_ups]
        assert conversation.steps == steps
        assert None not in asks
        assert conversation.first.asks == ()
        assert 2 * sum(map(bool, asks)) >= steps
        assert asks[-1]


def test_every_number_of_steps_up_to_64_exists():
    assert [take(level, steps, count=1)[0].steps for level in (0, 1) for steps in range(1, 65)] == 2 * list(range(1, 65))


def test_single_step_has_one_asking_turn():
    (conversation,) = take(1, 1, "single-step", count=1)
    assert conversation.steps == 1
    assert conversation.follow_ups[0].asks


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
@pytest.mark.parametrize("strategy", SHAPES)
def test_the_same_arguments_give_the_same_conversation(level, strategy):
    source, again = GeneratedSource(level, 5, "train"), GeneratedSource(level, 5, "train")
    taken = source.take(steps=8, strategy=strategy, start=0, count=12)
    assert taken == again.take(steps=8, strategy=strategy, start=0, count=12)
    assert taken[7:10] == again.take(steps=8, strategy=strategy, start=7, count=3)
    assert texts(taken[0]) != texts(GeneratedSource(level, 6, "train").take(steps=8, strategy=strategy, start=0, count=1)[0])
    assert len({conversation.id for conversation in taken}) == len(taken)


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
@pytest.mark.parametrize("strategy", SHAPES)
def test_answers_hold_what_is_right_at_that_time(level, strategy):
    overwritten_and_asked = 0
    for conversation in take(level, 16, strategy):
        now, before = {}, {}
        for interaction in conversation.interactions:
            if interaction.unknown:
                assert not set(interaction.asks) & set(now)
                assert says_unknown(interaction.answer)
                continue
            for key in interaction.asks:
                assert holds(interaction.answer, now[key])
                assert key not in before or not holds(interaction.answer, before[key]) or len(interaction.asks) > 1
                overwritten_and_asked += key in before
            for key, value in interaction.facts:
                assert holds(f"{interaction.query} {interaction.answer}", value)
                if key in now:
                    assert (interaction.kind, now[key] != value) == ("overwrite", True)
                    before[key] = now[key]
                now[key] = value
        assert any(key in before for turn in conversation.follow_ups for key in turn.asks) or not before
    assert overwritten_and_asked > 20


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
def test_queries_of_asking_turns_do_not_hold_the_answer(level):
    values = {value for words in lexicon.VALUES.values() for value in words}
    values |= {alias for aliases in lexicon.ALIASES.values() for alias in aliases}
    for conversation in take(level, 16):
        for interaction in conversation.follow_ups:
            words = set(re.findall(r"\w+", interaction.query.lower()))
            if interaction.asks or interaction.kind == "distract":
                assert not words & values
            if interaction.kind == "distract" or interaction.unknown:
                assert not set(re.findall(r"\w+", interaction.answer.lower())) & values


@pytest.mark.parametrize("strategy", SHAPES)
@pytest.mark.parametrize("level", LEVEL_NUMBERS)
def test_sixteen_turns_reach_far(level, strategy):
    conversations = take(level, 16, strategy, "test", count=250)
    stats = data_stats(conversations)
    assert all(len({key for key, _ in told(conversation)}) >= 6 for conversation in conversations)
    assert all(data_stats([conversation]).share_beyond(9) >= 1 / 3 for conversation in conversations[:40])
    assert 0.38 <= stats.share_beyond(9) <= 0.52
    assert 10 <= stats.asks / len(conversations) <= 12
    assert set(range(1, 9)) <= set(stats.distances)
    assert {13, 14, 15, 16} <= set(stats.distances)


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
def test_no_constant_answer_is_right_above_an_eighth(level):
    stats = data_stats(take(level, 16, split="test", count=2000))
    large = {kind: value for kind, value in stats.chance_by_kind.items() if stats.values[kind].total() >= 500}
    assert len(large) >= 5
    assert all(value < 1 / 8 for value in large.values()), large


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("level", [0, 1])
def test_chance_as_reports_measure_it_stays_below_an_eighth(level, seed):
    assert data_stats(take(level, 16, split="test", count=800, seed=seed)).chance < 1 / 8


@pytest.mark.parametrize("level", [0, 1])
def test_sixteen_turns_of_one_topic_have_every_distance(level):
    distances = data_stats(take(level, 16, count=400)).distances
    asks = sum(distances.values())
    assert all(distances[distance] / asks > 0.005 for distance in range(1, 17)), distances


@pytest.mark.parametrize("level", [0, 1])
def test_values_are_drawn_evenly(level):
    counts = defaultdict(Counter)
    for conversation in take(level, 8, count=1200):
        for key, value in told(conversation):
            counts[attribute_of(key)][value] += 1
    for attribute, found in counts.items():
        assert set(found) == set(lexicon.VALUES[attribute])
        assert max(found.values()) < 1.4 * found.total() / len(found)


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
def test_splits_share_no_conversation_and_test_holds_the_reserved(level):
    by_split = {split: take(level, 4, split=split, count=200) for split in ("train", "validation", "test")}
    seen = {split: {texts(conversation) for conversation in conversations} for split, conversations in by_split.items()}
    facts = {split: {frozenset(told(conversation)) for conversation in conversations} for split, conversations in by_split.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not seen[one] & seen[other]
        assert not facts[one] & facts[other]
    for split, conversations in by_split.items():
        held = [any(is_reserved(key, value) for key, value in told(conversation)) for conversation in conversations]
        assert all(held) if split == "test" else not any(held)


def rivals_told(conversation):
    """For each asking turn the number of other people of whom another value of the asked attribute was told before, and in which turns."""
    now, turns = {}, {}
    for turn, interaction in enumerate(conversation.interactions):
        for key in interaction.asks:
            rivals = [other for other in now if attribute_of(other) == attribute_of(key) and now[other] != now[key]]
            yield len(rivals), any(turns[other] == turns[key] for other in rivals)
        for key, value in interaction.facts:
            turns.setdefault(key, turn)
            now[key] = value


@pytest.mark.parametrize("strategy", SHAPES)
@pytest.mark.parametrize("steps", [1, 4, 8, 16, 32, 64])
def test_most_questions_of_level_one_have_a_rival(steps, strategy):
    conversations = take(1, steps, strategy if steps > 1 else "multi-step", "test", count=60 if steps > 4 else 300)
    found = [each for conversation in conversations for each in rivals_told(conversation)]
    counts = Counter(count for count, _ in found)
    assert 1 - counts[0] / len(found) > 0.7
    assert max(counts) <= (3 if strategy == "multi-step" else 7), "a long-range conversation has two casts"
    assert {1, 2} <= set(counts), "some attributes are shared by two, others by more"
    together = sum(within for _, within in found) / len(found)
    assert together > 0.25, "some rivals are told in the same interaction"
    if steps > 1:
        apart = sum(count > within for count, within in found) / len(found)
        assert apart > 0.2, "others are told turns apart"


def test_a_conversation_of_level_one_is_about_two_to_four_people():
    for steps in (1, 16):
        casts = Counter(len({key.partition(".")[0] for key, _ in told(conversation)}) for conversation in take(1, steps, count=300))
        assert set(casts) == {2, 3, 4} if steps > 1 else set(casts) <= {2, 3}
        assert min(casts.values()) > 30


@pytest.mark.parametrize("level", LEVEL_NUMBERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_no_place_among_what_is_told_first_is_asked_for_more_than_others(level, steps):
    """Where it is, a model learns to answer with what stands there, and the question never matters."""
    places = Counter()
    for conversation in take(level, steps, count=300):
        told_first = [key for key, _ in conversation.first.facts]
        places.update(told_first.index(key) for turn in conversation.follow_ups for key in turn.asks if key in told_first)
    assert max(places.values()) < 1.35 * min(places[place] for place in range(3)), places


def test_no_question_of_level_zero_has_a_rival_up_to_sixteen_turns():
    assert not any(count for conversation in take(0, 16, count=100) for count, _ in rivals_told(conversation))


@pytest.mark.parametrize("level", [0, 1])
def test_statistics_count_questions_that_have_a_rival(level):
    conversations = take(level, 16, split="test", count=50)
    stats = data_stats(conversations)
    counted = [count for conversation in conversations for count, _ in rivals_told(conversation)]
    # Earlier values of others count as rivals too.
    assert sum(map(bool, counted)) <= stats.rivalled <= 1.1 * sum(map(bool, counted))


def test_splits_part_even_where_draws_coincide():
    """Membership of train and validation follows from the facts alone, so no seed can bring a conversation into both."""
    facts = {
        split: {frozenset(told(conversation)) for seed in range(5) for conversation in take(1, 1, split=split, count=200, seed=seed)}
        for split in ("train", "validation")
    }
    assert not facts["train"] & facts["validation"]


@pytest.mark.parametrize(("kind", "attribute"), [("person", "pet"), ("person", "number"), ("thing", "colour"), ("animal", "food")])
def test_reserved_values_are_spread_evenly(kind, attribute):
    reserved = Counter(reserved_value(kind, entity, attribute) for entity in lexicon.ENTITIES[kind])
    assert set(reserved.values()) == {1}
    assert 1 / 15 < 1 / len(lexicon.VALUES[attribute]) < 1 / 8


def test_words_of_different_attributes_never_meet():
    values = [value for words in lexicon.VALUES.values() for value in words]
    aliases = [alias for words in lexicon.ALIASES.values() for alias in words]
    assert len(set(values)) == len(values)
    assert len(set(aliases)) == len(aliases)
    assert not set(values) & set(aliases)
    assert set(lexicon.ALIASES) <= set(values)
    assert all(len(words) >= 12 for words in lexicon.VALUES.values())
    entities = {entity.removeprefix("the ").lower() for names in lexicon.ENTITIES.values() for entity in names}
    assert not entities & set(values)
    assert all(re.fullmatch("[a-z]+", value) for value in values)


def test_long_range_changes_the_topic_and_ends_with_the_first_interaction():
    for steps, tail in ((2, 1), (8, 2), (16, 4)):
        for conversation in take(1, steps, "long-range", count=30):
            first_keys = {key for key, _ in conversation.first.facts}
            entities = {key.partition(".")[0] for key in first_keys}
            middle = conversation.follow_ups[: steps - tail]
            mentioned = {key for turn in middle for key in (*turn.asks, *(key for key, _ in turn.facts))}
            assert conversation.follow_ups[0].kind == "topic"
            assert conversation.follow_ups[0].asks == ()
            assert not mentioned & first_keys
            assert not {key.partition(".")[0] for key in mentioned} & entities
            assert all(set(turn.asks) <= first_keys for turn in conversation.follow_ups[steps - tail :])


@pytest.mark.parametrize("level", [0, 1])
def test_the_two_lowest_levels_are_short_and_plain(level):
    conversations = take(level, 16, count=150)
    lengths = [len(turn.query.split()) for conversation in conversations for turn in conversation.follow_ups]
    kinds = {turn.kind for conversation in conversations for turn in conversation.interactions}
    assert max(lengths) <= 12
    assert kinds == {"tell", "ask", "ask-again", "overwrite", "distract"}
    assert {len(turn.asks) for conversation in conversations for turn in conversation.follow_ups} == {0, 1}


def test_level_two_adds_kinds_and_entities_and_level_three_stories_and_aliases():
    second, third = take(2, 16, count=150), take(3, 16, count=150)
    kinds = {turn.kind for conversation in second for turn in conversation.interactions}
    assert {"ask-several", "ask-unknown", "topic"} <= kinds
    assert "story" not in kinds
    assert {entity_of(key)[0] for conversation in second for key, _ in told(conversation)} == {"person", "animal", "thing"}
    assert not any(turn.aliases for conversation in second for turn in conversation.interactions)
    assert any(turn.aliases for conversation in third for turn in conversation.follow_ups)
    stories = [conversation.first for conversation in third if conversation.first.kind == "story"]
    assert stories
    for story in stories:
        assert len({key.partition(".")[0] for key, _ in story.facts}) == 1, story
        assert all(holds(story.answer, value) and not holds(story.query, value) for _, value in story.facts)
    later = [turn for conversation in third for turn in conversation.follow_ups if turn.kind == "story"]
    assert all(holds(turn.query, value) for turn in later for _, value in turn.facts), "a generated answer cannot tell later facts"


def test_stories_are_plain_text_of_the_same_world():
    source = GeneratedSource(2, 0, "train")
    stories = source.stories("train", 0, 200)
    assert stories[50:60] == source.stories("train", 50, 10)
    assert len(set(stories)) == 200
    assert not set(stories) & set(source.stories("validation", 0, 200))
    assert all(story[-1] == "." and "{" not in story for story in stories)


def test_no_template_is_left_unfilled():
    for level in LEVEL_NUMBERS:
        for conversation in take(level, 16):
            joined = " ".join(part for pair in texts(conversation) for part in pair)
            assert "{" not in joined
            assert "  " not in joined
            assert all(part[0].isupper() for pair in texts(conversation) for part in pair)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 9}, "level must be one of 0, 1, 2, 3"),
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"strategy": "long"}, "known: long-range"),
        ({"steps": 0}, "at least 1"),
        ({"strategy": "single-step", "steps": 4}, "exactly 1 step"),
    ],
)
def test_wrong_arguments_get_a_sentence(change, message):
    arguments = {"level": 1, "steps": 4, "strategy": "multi-step", "split": "train", "seed": 0, "index": 0}
    with pytest.raises(ConfigError, match=message):
        generate_conversation(**(arguments | change))


def test_a_new_topic_is_about_somebody_new():
    about_known = topics = 0
    for conversation in take(2, 16, count=150):
        known = set()
        for interaction in conversation.interactions:
            entities = {key.partition(".")[0] for key, _ in interaction.facts}
            topics += interaction.kind == "topic"
            about_known += interaction.kind == "topic" and entities <= known
            known |= entities
    assert topics > 50
    assert about_known < topics / 4


@pytest.mark.parametrize("strategy", SHAPES)
def test_no_question_comes_three_times_in_a_row(strategy):
    for steps in (8, 16):
        for conversation in take(1, steps, strategy, count=100):
            asks = [turn.asks for turn in conversation.follow_ups if turn.asks]
            assert not any(one == two == three for one, two, three in zip(asks, asks[1:], asks[2:], strict=False))
