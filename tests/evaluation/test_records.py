from __future__ import annotations

import datetime
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.errors import DataError, RewardError
from rxrl.evaluation import TurnRecord, play, read_records, rescore, write_records
from rxrl.evaluation.play import play_conditions
from rxrl.evaluation.records import TurnLine
from rxrl.reading import parse_json
from rxrl.rewards import Retention, held
from rxrl.types import SavedInteraction, Score, Turn
from tests.evaluation.fakes import Reader, WordCodec, conversations, environment, record

_text = st.text(max_size=12)
_ids = st.lists(st.integers(7, 5000), max_size=4).map(tuple)
_saved = st.lists(st.builds(SavedInteraction, _text, _text, _ids, _ids), max_size=3).map(tuple)
_share = st.one_of(st.none(), st.floats(0, 1))
_turns = st.builds(
    Turn, conversation_id=_text, index=st.integers(1, 32), steps=st.integers(1, 32), strategy=_text, query=_text, answer=_text,
    reference=_text, query_ids=_ids, answer_ids=_ids, reference_ids=_ids, saved=_saved, asking=st.booleans(),
    expected=st.dictionaries(_text, _text, max_size=2), aliases=st.dictionaries(_text, st.lists(_text, max_size=2).map(tuple), max_size=2),
    rivals=st.dictionaries(_text, st.lists(_text, max_size=2).map(tuple), max_size=2), unknown=st.booleans(),
    distance=st.one_of(st.none(), st.integers(1, 32)), asks_known=st.booleans(), kind=st.one_of(st.none(), _text),
    extra=st.dictionaries(_text, st.one_of(_text, st.integers(), st.none()), max_size=2), history=_saved,
    outcome=st.one_of(st.none(), st.builds(Score, _share, st.dictionaries(_text, _share, max_size=2))),
)  # fmt: skip
_records = st.builds(
    TurnRecord, turn=_turns, retention=_share, reward=st.one_of(st.none(), st.floats(0, 10)),
    terms=st.dictionaries(_text, _share, max_size=2), control=st.one_of(st.none(), _text),
)  # fmt: skip


@given(_records)
def test_a_record_survives_json(each):
    assert parse_json(json.dumps(each.to_json()), "x", TurnLine).record(None) == each


@given(st.lists(_records, max_size=5))
def test_records_survive_a_file(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("records") / "some" / "transcripts.jsonl"
    write_records(path, records)
    assert read_records(path) == records
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_history_is_written_once_for_each_interaction(tmp_path):
    played = conversations(3, steps=12)
    codec = WordCodec()
    records = play(environment(played, codec, 3), Reader(codec), played, seed=1)
    path = write_records(tmp_path / "transcripts.jsonl", records)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(len(line["history"]) for line in lines) == 3 * 12
    assert [len(each.turn.history) for each in read_records(path)] == [*range(1, 13)] * 3
    some = [each for each in records if each.turn.index % 3 == 0]
    assert read_records(write_records(path, some)) == some


def test_exact_needs_everything():
    assert record(retention=1.0).exact is True
    assert record(retention=0.999).exact is False
    assert record(retention=None).exact is None


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"turn": 1}', '{"conversation_id": "a", "surprise": 1}'])
def test_a_broken_line_is_named(tmp_path, line):
    path = write_records(tmp_path / "transcripts.jsonl", [record()])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=r"transcripts\.jsonl, line 2"):
        read_records(path)


@pytest.mark.parametrize(
    "change",
    [{"history_kept": "x"}, {"history_kept": -1}, {"retention": "x"}, {"retention": []}, {"retention": "0.5"}, {"turn": "1"},
     {"turn": 1.0}, {"asking": 1}, {"query": 3}, {"query_ids": ["1"]}, {"terms": {"a": "1"}}, {"outcome": 3}, {"saved": {}},
     {"history": [{"query": "q"}]}],
)  # fmt: skip
def test_values_of_other_types_are_named(tmp_path, change):
    path = tmp_path / "transcripts.jsonl"
    path.write_text(json.dumps({**record().to_json(), **change}) + "\n")
    with pytest.raises(DataError, match=r"transcripts\.jsonl, line 1"):
        read_records(path)


def test_a_line_that_is_no_text_is_named(tmp_path):
    path = write_records(tmp_path / "transcripts.jsonl", [record()])
    path.write_bytes(path.read_bytes() + b"\xff\n")
    with pytest.raises(DataError, match=r"transcripts\.jsonl, line 2"):
        read_records(path)


def test_lines_without_those_that_their_history_goes_on_from_are_refused(tmp_path):
    played, codec = conversations(2, steps=6), WordCodec()
    path = write_records(tmp_path / "all.jsonl", play(environment(played, codec, 2), Reader(codec), played, seed=1))
    lines = path.read_text().splitlines(keepends=True)
    for some in (lines[1:], lines[::2], [*lines[:2], *lines[3:]]):
        path.write_text("".join(some))
        with pytest.raises(DataError, match="use the whole file"):
            read_records(path)


def test_columns_that_json_does_not_know_are_kept_as_text(tmp_path):
    extra = {"difficulty": float("nan"), "since": datetime.date(2024, 5, 1)}
    read = read_records(write_records(tmp_path / "t.jsonl", [record(extra=extra)]))
    assert read[0].turn.extra == {"difficulty": None, "since": "2024-05-01"}


@pytest.mark.parametrize("failing", ["oracle", "empty_memory"])
def test_a_reward_that_fails_in_a_control_leaves_the_turns_of_the_model(failing):
    played, codec = conversations(3, steps=4), WordCodec()
    true = play(environment(played, codec, 3), Reader(codec), played, seed=1)
    scored = []

    def flaky(turns):
        scored.extend(turns)
        # Oracle: behind all turns of the true memory; empty memory: behind those of its first turn.
        if len(scored) > (len(true) if failing == "oracle" else len(played)):
            raise ValueError("no")
        return [Score(1.0)] * len(turns)

    env = environment(played, codec, 3, reward=flaky)
    with pytest.raises(RewardError) as error:
        play_conditions(env, Reader(codec), played, seed=1, controls=(failing,))
    said = [(turn.conversation_id, turn.index, turn.answer) for turn in error.value.turns]
    expected = [(*each.key, each.turn.answer) for each in true if failing == "oracle" or each.turn.index == 1]
    assert sorted(said) == sorted(expected)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "transcripts.jsonl")


def test_records_can_be_scored_again_without_a_model(tmp_path):
    played = conversations(4, steps=6)
    codec = WordCodec()
    records = play(environment(played, codec, 4), Reader(codec), played, seed=1)
    read = read_records(write_records(tmp_path / "t.jsonl", records))
    assert rescore(read, Retention()) == list(records)
    assert [held(each.turn) for each in read] == [each.retention for each in records]
    seen = rescore(read, lambda turns: [Score(len(turn.history) / 2, {"told": 1.0}) for turn in turns])
    assert [each.reward for each in seen] == [each.turn.index / 2 for each in records]
    assert [replace(each, reward=0, terms={}) for each in seen] == [replace(each, reward=0, terms={}) for each in records]


def test_a_wrong_reward_is_refused():
    with pytest.raises(RewardError):
        rescore([record()], lambda turns: [11.0])
    with pytest.raises(RewardError):
        rescore([record()], lambda turns: [])
