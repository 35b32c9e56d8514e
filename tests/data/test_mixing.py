"""Mixes of data: exact shares in an order that never changes, by name or by source."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.config import parse_config
from rxrl.data.mixing import MixedSource, Shares, mix_of
from rxrl.data.rows import read_conversations, write_conversations
from rxrl.data.sources import RowsSource
from rxrl.data.splits import DataConfig
from rxrl.data.world import GeneratedSource
from rxrl.envs.scenarios import SupervisedSource, load
from rxrl.errors import ConfigError, DataError
from rxrl.pipeline import PipelineConfig
from rxrl.supply import load_mix, named_reward, open_configured, open_named

MIXED = {"retention": 1.0, "outcome": 1.0}
WEIGHTS = st.lists(st.one_of(st.integers(1, 9), st.sampled_from([0.1, 0.25, 0.7, 2.5])), min_size=1, max_size=6)


def world(seed: int = 0) -> GeneratedSource:
    return GeneratedSource(1, seed, "train")


@given(weights=WEIGHTS, start=st.integers(0, 500), count=st.integers(1, 60))
def test_every_beginning_keeps_the_shares_and_every_period_exactly(weights: list[float], start: int, count: int) -> None:
    shares, whole = Shares(weights), Shares(weights).places(0, 600)
    assert shares.places(start, count) == whole[start : start + count]
    had: Counter[int] = Counter()
    for position, (part, before) in enumerate(whole, start=1):
        assert before == had[part]
        had[part] += 1
        assert all(abs(had[each] - position * weight / sum(weights)) < 1 for each, weight in enumerate(weights))
        if position % shares.period == 0:
            assert all(had[each] * sum(weights) == pytest.approx(position * weight) for each, weight in enumerate(weights))


def test_a_position_holds_the_same_scenario_whatever_was_taken_before() -> None:
    parts = [(load("guess"), 1), (load("preferences"), 1), (world(), 2)]
    source = MixedSource(parts)
    whole = source.take(steps=4, start=0, count=40)
    assert Counter(each.extra.get("scenario", "world") for each in whole) == {"guess": 10, "preferences": 10, "world": 20}
    assert len({each.id for each in whole}) == 40
    assert source.take(steps=4, start=17, count=9) == whole[17:26]
    assert pickle.loads(pickle.dumps(source)).take(steps=4, start=30, count=10) == whole[30:]
    assert [each for each in whole if "scenario" not in each.extra] == world().take(steps=4, strategy="multi-step", start=0, count=20)


def test_a_part_that_has_nothing_of_a_length_says_so_at_once() -> None:
    short = RowsSource(world().take(steps=2, strategy="multi-step", start=0, count=3), seed=0)
    with pytest.raises(DataError, match="at least 4 turns are needed"):
        MixedSource([(load("guess"), 9), (short, 1)]).take(steps=4, count=1)
    with pytest.raises(ConfigError, match="decides itself what its user comes back to"):
        MixedSource([(world(), 9), (load("guess"), 1)]).take(steps=4, strategy="long-range", count=1)


def test_lessons_and_conversations_are_mixed_for_supervised_stages() -> None:
    source = MixedSource([(SupervisedSource(load("guess")), 1), (world(), 1)])
    taken = source.take(steps=3, count=6)
    assert [each.id.endswith("-supervised") for each in taken] == [True, False] * 3
    assert {each.steps for each in taken} == {3}


def test_names_with_weights(tmp_path: Path) -> None:
    assert mix_of("scenario:guess") == {"scenario:guess": 1.0}
    assert mix_of(["scenario:guess", "world=2.5", "world.jsonl=x"]) == {"scenario:guess": 1.0, "world": 2.5, "world.jsonl=x": 1.0}
    assert mix_of({"scenario:guess": 1, "world": 0}) == {"scenario:guess": 1.0}
    odd = tmp_path / "rows=2"
    odd.touch()
    assert mix_of([str(odd)]) == {str(odd): 1.0}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["world", "world=2"], "'world' is named twice"),
        ({"world": -1}, "must be a number of at least 0, got -1"),
        ({"world": True}, "must be a number of at least 0, got True"),
        (["world=inf"], "must be a number of at least 0, got inf"),
        ({"world": 0}, "at least one part with a weight above 0"),
    ],
)
def test_a_wrong_mix_is_refused_in_one_sentence(given: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        mix_of(given)  # type: ignore[arg-type]
    assert len(str(caught.value).splitlines()) == 1


def rows_file(folder: Path, name: str, seed: int, count: int = 8) -> str:
    path = folder / f"{name}.jsonl"
    write_conversations(path, world(seed).take(steps=4, strategy="multi-step", start=0, count=count))
    return str(path)


def test_splits_of_a_mix_hold_each_part_apart(tmp_path: Path) -> None:
    rows, held_out = rows_file(tmp_path, "rows", 1), rows_file(tmp_path, "held", 2)
    sources = open_named(["scenario:guess", "world=2", rows], [held_out], 2, seed=3)
    train, validation = (each.take(steps=4, strategy="multi-step", start=0, count=8) for each in sources.played)
    assert not {each.id for each in train} & {each.id for each in validation}
    assert Counter(each.extra.get("scenario", "row") for each in train) == {"guess": 2, "row": 6}
    assert {each.level for each in train if "scenario" in each.extra} == {2}  # type: ignore[attr-defined]
    lessons = sources.train.take(steps=4, strategy="multi-step", start=0, count=8)
    assert sum(each.id.endswith("-supervised") for each in lessons) == 2
    assert len(sources.stories("train")(0, 12)) == 12


def test_settings_take_a_mix(tmp_path: Path) -> None:
    data = parse_config({"train": {"scenario:guess": 1, "world": 3}, "steps": 5, "test_conversations": 8}, DataConfig)
    sources = open_configured(data, seed=0)
    assert Counter(each.extra.get("scenario", "world") for each in sources.test) == {"guess": 2, "world": 6}
    assert {each.steps for each in sources.test} == {5}
    rows = rows_file(tmp_path, "rows", 1)
    for wrong, said in (
        ({"train": {"world": -1}}, "train"),
        ({"train": {}}, "at least one part with a weight above 0"),
        ({"train": {"world": 1}, "held_out": rows}, "held_out: .* got 1 for 0"),
        ({"train": {rows: 1, f"./{rows}": 1}, "level": 2}, "level: it is of the generated world and of scenarios"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_config(wrong, DataConfig)


def test_each_file_of_a_mix_is_held_out_by_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 1 for 0"):
        open_named(["scenario:guess", "world"], ["rows.jsonl"])
    rows, more, held_out, other = (rows_file(tmp_path, name, seed) for seed, name in enumerate(("rows", "more", "held", "other")))
    with pytest.raises(ConfigError, match="got 1 for 2"):
        open_named([rows, "world", more], [held_out])
    sources = open_named([rows, "world", more], [held_out, other], 1)
    found = sources.validation.take(steps=4, strategy="multi-step", start=0, count=24)
    known = [{each.id for each in read_conversations(name)} for name in (held_out, other)]
    assert [sum(each.id in ids for each in found) for ids in known] == [8, 8]
    with pytest.raises(DataError, match="8 conversations are in both"):
        open_named([rows, more], [held_out, more])
    tested = open_configured(parse_config({"train": {rows: 1, more: 1}, "held_out": [held_out, other]}, DataConfig), seed=0)
    assert {each.id for each in tested.test} == known[0] | known[1]


def test_the_reward_of_a_mix_is_that_of_its_parts() -> None:
    assert named_reward(None) == named_reward(["world", "rows.jsonl"]) == "retention"
    assert named_reward(["scenario:guess", "scenario:pairs"]) == "outcome"
    assert named_reward(["scenario:guess", "world=2"]) == MIXED


def test_an_environment_draws_from_a_mix(tmp_path: Path) -> None:
    rows = rows_file(tmp_path, "rows", 1)
    found = load_mix({"scenario:guess": 1, rows: 1, "world": 2}, steps=3, count=16, split="test")
    assert Counter(each.extra.get("scenario", "row") for each in found) == {"guess": 4, "row": 12}
    assert {each.steps for each in found} == {3}


def test_the_settings_of_a_job_name_the_reward_that_its_data_needs() -> None:
    for train, reward in (("world", "retention"), ("scenario:guess", "outcome"), ({"scenario:guess": 1, "world": 2}, MIXED)):
        assert parse_config({"data": {"train": train}}, PipelineConfig).mrl.reward == reward
    own = {"data": {"train": "scenario:guess"}, "mrl": {"reward": "repetition"}}
    assert parse_config(own, PipelineConfig).mrl.reward == "repetition"
