from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.errors import ConfigError
from rxrl.evaluation import (
    chance,
    compare,
    play_conditions,
    retention_by_distance,
    summarise,
    summarise_comparisons,
    summarise_controls,
    summarise_stage,
)
from rxrl.evaluation.metrics import bootstrap, reward_range
from rxrl.rewards import held
from rxrl.types import SavedInteraction
from tests.evaluation.fakes import KEYS, UNKNOWN, VALUES, Forgetful, Reader, WordCodec, conversations, environment, record


@pytest.mark.slow
def test_the_interval_covers_the_truth_where_questions_of_a_conversation_are_correlated():
    rng = np.random.default_rng(0)
    clusters, questions, trials = 40, 8, 300
    groups = np.repeat(np.arange(clusters), questions).tolist()
    covered, naive = 0, 0
    for trial in range(trials):
        skill = rng.beta(2, 1, size=clusters)
        values = (rng.random((clusters, questions)) < skill[:, None]).astype(float).ravel()
        _, low, high = bootstrap(values, groups, seed=trial, resamples=300)
        covered += low <= 2 / 3 <= high
        _, low, high = bootstrap(values, list(range(len(values))), seed=trial, resamples=300)
        naive += low <= 2 / 3 <= high
    assert 0.90 <= covered / trials <= 0.985
    assert naive < covered


def test_the_interval_depends_on_the_seed_and_not_on_the_order_of_values():
    rng = np.random.default_rng(0)
    values, groups = rng.random(200), [f"c{i // 5}" for i in range(200)]
    first = bootstrap(values, groups, seed=1)
    order = rng.permutation(200)
    assert bootstrap(values[order], [groups[i] for i in order], seed=1) == pytest.approx(first, abs=1e-12)
    assert bootstrap(values, groups, seed=2)[1:] != first[1:]


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_interval_holds_the_mean_of_values_within_their_range(pairs):
    values, groups = [value for value, _ in pairs], [group for _, group in pairs]
    mean, low, high = bootstrap(values, groups, resamples=200)
    assert mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


def test_the_bootstrap_of_nothing_is_refused():
    with pytest.raises(ConfigError):
        bootstrap([], [])
    with pytest.raises(ConfigError):
        bootstrap([1.0], ["a", "b"])


def test_retention_by_distance_groups_asking_turns():
    records = [
        record("a", 1, 1.0, distance=1),
        record("a", 2, None),
        record("a", 3, 0.5, distance=9),
        record("b", 3, 1.0, distance=9),
        record("b", 4, 0.0, distance=None),
    ]
    rows = retention_by_distance(records)
    assert [(row["distance"], row["mean"], row["exact"], row["turns"], row["conversations"]) for row in rows] == [
        (1, 1.0, 1.0, 1, 1),
        (9, 0.75, 0.5, 2, 2),
    ]
    assert rows[1]["low"] == 0.5
    assert rows[1]["high"] == 1.0


def test_headlines_take_the_turns_that_they_name():
    records = [
        record("a", 1, 1.0, distance=2, steps=16),
        record("a", 12, 0.0, distance=12, steps=16),
        record("a", 13, 0.0, distance=17, steps=16),
        record("b", 1, 1.0, distance=1, steps=8),
        record("b", 8, 1.0, distance=8, steps=8),
        record("b", 3, None, steps=8, reward=3.0),
        record("c", 1, 0.5, distance=None, steps=16, reward=None),
    ]
    summary = summarise(records, resamples=100)
    assert summary["retention"] == pytest.approx(3.5 / 6)
    assert summary["retention_at_16"] == pytest.approx(1.5 / 4)
    assert summary["retention_at_16_exact"] == pytest.approx(1 / 4)
    assert summary["retention_near"] == 1.0
    assert summary["retention_far"] == 0.0
    assert summary["retention_far_turns"] == 1
    assert summary["retention_by_distance"] == {"1": 1.0, "2": 1.0, "8": 1.0, "12": 0.0, "17": 0.0}
    assert summary["reward"] == {"mean": 8.0, "min": 8.0, "max": 8.0, "episode_min": 8.0, "episode_max": 8.0, "turns": 5}
    assert summary["reward_other"]["mean"] == 3.0
    assert (summary["conversations"], summary["turns"], summary["asking_turns"]) == (3, 7, 6)


def test_binding_accuracy_counts_answers_that_name_what_was_told_of_another():
    rivals = {"mia.pet": ("dog", "fox")}
    said = {"it is cat .": 1.0, "it is dog .": 0.0, "it is cat or fox .": 2 / 3, "it is owl .": 0.0, "i do not know .": 0.0}
    records = [record("a", turn, held, answer=text, told_rivals=rivals) for turn, (text, held) in enumerate(said.items(), start=1)]
    summary = summarise([*records, record("b", 1), record("b", 2, None, told_rivals=rivals)])
    assert summary["binding_accuracy"] == pytest.approx(3 / 5)
    assert (summary["binding_accuracy_turns"], summary["binding_accuracy_conversations"]) == (5, 1)
    low, high = summary["binding_accuracy_interval"]
    assert low <= summary["binding_accuracy"] <= high


def test_a_value_that_the_right_answer_names_too_confuses_nobody():
    both = {"mia.pet": ("dog",), "tom.pet": ("cat",)}
    asked = record("a", 1, answer="it is cat and dog .", reference="it is cat and dog .", told_rivals=both)
    assert summarise([asked])["binding_accuracy"] is None
    third = record("a", 1, answer="it is cat and fox .", reference="it is cat and dog .", told_rivals={**both, "mia.pet": ("dog", "fox")})
    assert summarise([third])["binding_accuracy"] == 0.0


def test_binding_accuracy_is_none_where_nothing_has_a_rival():
    summary = summarise([record("a", 1), record("b", 1, 0.0)])
    assert summary["binding_accuracy"] is None
    assert summary["binding_accuracy_interval"] is None
    assert summary["binding_accuracy_turns"] == 0


def test_rewards_leave_unscored_turns_out():
    found = reward_range([record("a", 1, reward=2.0), record("a", 2, reward=4.0), record("b", 1, reward=9.0), record("c", 1, reward=None)])
    assert found == {"mean": 5.0, "min": 2.0, "max": 9.0, "episode_min": 3.0, "episode_max": 9.0, "turns": 3}
    assert reward_range([])["mean"] is None


def test_pairing_removes_what_conversations_share():
    rng = np.random.default_rng(1)
    skill = rng.random(60)
    first, second = [], []
    for index, level in enumerate(skill):
        for turn in range(1, 5):
            first.append(record(f"c{index}", turn, min(1.0, level + 0.05)))
            second.append(record(f"c{index}", turn, level))
    paired = compare(first, second)
    assert paired["difference"] == pytest.approx(0.05, abs=0.01)
    assert paired["low"] > 0
    low, high = summarise(first)["retention_interval"]
    assert paired["high"] - paired["low"] < 0.2 * (high - low)
    reverse = compare(second, first)
    assert reverse["difference"] == -paired["difference"]
    assert reverse["high"] < 0


def test_only_shared_turns_are_compared():
    first = [record("a", 1, 1.0), record("a", 2, 1.0), record("b", 1, 1.0)]
    second = [record("a", 2, 0.0), record("c", 1, 0.0), record("b", 1, None)]
    result = compare(first, second)
    assert (result["turns"], result["conversations"], result["difference"]) == (1, 1, 1.0)
    assert compare(first, [record("z", 1)]) is None
    assert compare(first, second, select="retention_far") is None
    with pytest.raises(ConfigError, match="twice"):
        compare([*first, first[0]], second)
    with pytest.raises(ConfigError, match="retention_far"):
        compare(first, second, select="retention_fra")


def _asked(name, expected, *, unknown=False, **changes):
    return record(name, 1, 1.0, expected={} if unknown else expected, rivals=dict.fromkeys(expected, VALUES), unknown=unknown, **changes)


def test_chance_is_the_most_frequent_value_of_each_attribute():
    pets = [_asked(f"p{i}", {KEYS[i % 3]: VALUES[i % 8]}) for i in range(80)]
    assert chance(pets) == pytest.approx(1 / 8)
    colours = [_asked(f"q{i}", {"mia.colour": "red" if i % 2 else "blue"}) for i in range(20)]
    assert chance(pets + colours) == pytest.approx((10 + 10) / 100)
    assert chance([record(retention=None)]) is None


def test_what_was_never_told_counts_for_chance():
    told = [_asked(f"p{i}", {"mia.pet": VALUES[i % 8]}) for i in range(16)]
    never = [_asked(f"u{i}", {"mia.pet": ""}, unknown=True) for i in range(4)]
    assert chance(told + never) == pytest.approx(4 / 20)
    assert chance(told + never[:1]) == pytest.approx(2 / 17)


def test_chance_for_several_facts_is_a_share():
    both = [_asked(f"b{i}", {"mia.pet": VALUES[i % 8], "mia.colour": ("red", "blue")[i % 2]}) for i in range(32)]
    assert chance(both) == pytest.approx((1 / 8 + 1 / 2) / 2)
    pets = [_asked(f"t{i}", {"mia.pet": VALUES[i % 8], "tom.pet": VALUES[(i + 1) % 8]}) for i in range(32)]
    assert chance(pets) == pytest.approx((1 / 4 + 1 / 4) / 2)


def test_an_exact_constant_answer_has_every_value_right():
    several = [record(f"c{n}", expected={"a.pet": f"p{n % 4}", "a.colour": f"q{n % 2}"}) for n in range(8)]
    assert chance(several) == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert chance(several, exact=True) == pytest.approx(1 / 4)
    single = [record(f"c{n}", expected={"a.pet": f"p{n % 4}"}) for n in range(8)]
    assert chance(single, exact=True) == chance(single) == pytest.approx(1 / 4)
    rooms = [
        record(f"c{n}", query="where is he ?", reference=f"in the {room}", expected={}, asks_known=False, saved=(_went(room),))
        for n, room in enumerate(("kitchen", "garden", "kitchen", "hall"))
    ]
    assert chance(rooms, exact=True) == 0.5


@given(st.lists(st.tuples(st.sampled_from(VALUES), st.booleans()), min_size=1, max_size=20))
def test_no_single_constant_answer_beats_chance(asked):
    records = [
        _asked(f"c{i}", {"mia.pet": value}, unknown=unknown, reference=UNKNOWN if unknown else f"it is {value} .")
        for i, (value, unknown) in enumerate(asked)
    ]
    scores = [np.mean([held(replace(each.turn, answer=text)) for each in records]) for text in (*VALUES, UNKNOWN)]
    assert max(scores) == pytest.approx(chance(records))


def test_chance_without_known_facts_tries_the_references():
    rooms = ("kitchen", "kitchen", "kitchen", "garden")
    records = [
        record(f"c{i}", 1, 1.0, query="where is he ?", reference=f"in the {room}", expected={}, asks_known=False, saved=(_went(room),))
        for i, room in enumerate(rooms)
    ]
    assert chance(records) == pytest.approx(3 / 4)


def _went(room):
    return SavedInteraction(f"he went to the {room}", "ok", (), ())


def test_swapped_memory_and_forgetting_stand_next_to_chance():
    played = conversations(40)
    codec = WordCodec()
    env = environment(played, codec, 8)
    real = play_conditions(env, Reader(codec), played, seed=1, controls=("empty_memory", "swapped_memory", "oracle"))
    true = real.pop("true")
    content = summarise_controls(true, real, resamples=200)
    assert content["oracle"]["retention_at_16"] == 1.0
    assert content["swapped_memory"]["retention_at_16"] == 0.0
    assert content["swapped_memory"]["contribution"]["low"] == 1.0
    assert content["swapped_memory"]["turns"] + content["swapped_memory"]["left_out"] == summarise(true, resamples=10)["asking_turns"]
    assert 1 / 8 <= content["chance"] <= 0.6
    fake = play_conditions(env, Forgetful(codec), played, seed=1, controls=("swapped_memory",))
    none = summarise_controls(fake["true"], {"swapped_memory": fake["swapped_memory"]}, resamples=200)
    assert none["swapped_memory"]["contribution"]["difference"] == 0.0
    assert summarise(fake["true"], resamples=10)["retention_at_16"] <= content["chance"]


def test_comparisons_use_full_episodes_where_there_are_any():
    mrl = [record("a", 1, 1.0, steps=16), record("b", 1, 0.0, steps=8)]
    start = [record("a", 1, 0.0, steps=16), record("b", 1, 1.0, steps=8)]
    result = summarise_comparisons(mrl=mrl, supervised=start)
    assert list(result) == ["mrl_minus_supervised"]
    assert (result["mrl_minus_supervised"]["difference"], result["mrl_minus_supervised"]["turns"]) == (1.0, 1)
    short = summarise_comparisons(mrl=[mrl[1]], supervised=[start[1]], smat=[start[1]])
    assert short["mrl_minus_smat"]["difference"] == -1.0


def test_a_stage_says_what_happened():
    stage = summarise_stage(
        steps=4, strategy="multi-step", records=[record("a", 1, 1.0, reward=9.0), record("a", 2, None)], iterations=3, ended="done"
    )
    assert stage["reward"]["mean"] == 9.0
    assert stage["retention"] == 1.0
    assert {"steps", "strategy", "iterations", "ended"} <= stage.keys()
    assert summarise_stage(steps=4, strategy="multi-step", records=[], iterations=0, ended="done")["retention"] is None


def test_turns_that_only_a_control_asks_are_not_counted_against_those_it_lacks():
    true = [record("a", turn) for turn in (1, 2, 3)]
    control = [record("a", turn) for turn in (2, 3, 4, 5)]
    found = summarise_controls(true, {"oracle": control}, resamples=50)["oracle"]
    assert (found["turns"], found["left_out"]) == (4, 1)
