"""Rows on disk: round trips, and errors that name file and row."""

import datetime
import decimal
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.data.rows import LengthLimit, RefusedRow, read_conversations, to_conversation, to_row, write_conversations
from rxrl.data.world import GeneratedSource
from rxrl.errors import DataError
from rxrl.types import Conversation, Interaction


def generated(level=3, count=6):
    return GeneratedSource(level, 0, "train").take(steps=6, strategy="multi-step", start=0, count=count)


def with_everything():
    first = Interaction("Tell me.", "A cat sat.", (("a.pet", "cat"),), (), {"*": ("A cat sat down.",)}, kind="story")
    follow_ups = (
        Interaction("What?", "cat", (), ("a.pet",), {"a.pet": ("kitten", "tom")}, kind="ask", extra={"think": "easy", "weight": 2}),
        Interaction("And the dog?", "I do not know.", (), ("a.dog",), unknown=True),
        Interaction("Go on.", "Yes.", (("a.pet", "dog"), ("b.pet", "cat")), None),
    )
    return Conversation("one", first, follow_ups, {"source": "here", "tags": ["x", "y"]})


def row(**changes):
    base = {
        "query": "Anna has a cat.",
        "answer": "Okay.",
        "facts": [{"key": "anna.pet", "value": "cat"}],
        "interactions": [{"query": "What pet?", "answer": "cat", "asks": ["anna.pet"]}],
    }
    return {key: value for key, value in (base | changes).items() if value is not ...}


def write_lines(path, lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_conversations_come_back_as_they_were_written(tmp_path, suffix):
    path = tmp_path / "new" / f"rows{suffix}"
    conversations = [*generated(), with_everything()]
    assert write_conversations(path, conversations) == 7
    assert read_conversations(path) == conversations


WORDS = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1, max_size=12)


@given(WORDS, WORDS, st.lists(WORDS, max_size=3), st.booleans(), st.one_of(st.none(), WORDS))
def test_any_interaction_survives_a_row(query, answer, aliases, listed, kind):
    names = {"a.b": tuple(aliases)} if aliases else {}
    follow_up = Interaction(query, answer, (), ("a.b",) if listed else None, names, kind=kind)
    conversation = Conversation("id", Interaction(answer, query, (("a.b", f"x {answer}"),), ()), (follow_up,))
    assert to_conversation(json.loads(json.dumps(to_row(conversation))), "other") == conversation


def test_missing_asks_are_unknown_and_empty_asks_ask_for_nothing():
    conversation = to_conversation(row(interactions=[{"query": "a", "answer": "b"}, {"query": "a", "answer": "b", "asks": []}]), "x")
    assert [turn.asks for turn in conversation.follow_ups] == [None, ()]


def test_nulls_of_columns_count_as_missing():
    turn = {"query": "a", "answer": "b", "asks": None, "facts": None, "aliases": None, "unknown": None, "kind": None, "think": None}
    conversation = to_conversation(row(id=None, interactions=[turn]), "rows-3")
    assert conversation.id == "rows-3"
    assert conversation.follow_ups == (Interaction("a", "b"),)


def test_aliases_as_a_list_belong_to_the_whole_answer():
    turn = {"query": "a", "answer": "b", "asks": ["anna.pet"], "aliases": ["kitten", "puss"]}
    assert to_conversation(row(interactions=[turn]), "x").follow_ups[0].aliases == {"*": ("kitten", "puss")}


def test_top_level_keys_belong_to_the_first_interaction_and_the_rest_is_passed_through():
    conversation = to_conversation(row(kind="story", source="books", n=3), "x")
    assert (conversation.first.kind, conversation.first.facts) == ("story", (("anna.pet", "cat"),))
    assert conversation.extra == {"source": "books", "n": 3}
    assert conversation.first.extra == {}


BROKEN = [
    ("{not json", "not valid JSON"),
    ([1, 2], r"expected a mapping, got \[1, 2\]"),
    ("[" * 100_000, "not valid JSON \\(it is nested too deeply"),
    (row(query=...), "'query' is missing"),
    (row(answer="  "), "answer: expected text of at least 1 characters, got '  '"),
    (row(answer=7), "answer: expected text, got 7"),
    (row(interactions=...), "'interactions' is missing"),
    (row(interactions=[]), r"interactions: expected at least 1 item, got \[\]"),
    (row(interactions=[{"query": "a"}]), r"interactions\[0\]: 'answer' is missing"),
    (row(facts=[{"key": "anna.pet"}]), r"facts\[0\]: 'value' is missing"),
    (row(facts=[{"key": "a", "value": "b", "vlaue": "c"}]), r"facts\[0\]: Unknown key 'vlaue'; known: key, value\. Did you mean 'value'"),
    (row(interactions=[{"query": "a", "answer": "b", "asks": "anna.pet"}]), r"asks: expected a list, got 'anna\.pet'"),
    (row(interactions=[{"query": "a", "answer": "b", "asks": ["ben.pet"]}]), r"interactions\[0\] asks for 'ben\.pet', which no earlier"),
    (row(facts=[], interactions=[{"query": "a", "answer": "b", "asks": ["x.y"], "facts": [{"key": "x.y", "value": "z"}]}]), "no earlier"),
    (row(interactions=[{"query": "a", "answer": "b", "unknown": True}]), r"interactions\[0\] is unknown, but has no asks: name"),
    (row(interactions=[{"query": "a", "answer": "b", "unknown": True, "asks": []}]), "is unknown, but has no asks"),
    (row(unknown="true"), "unknown: expected true or false, got 'true'"),
    (row(unknown=1), "unknown: expected true or false, got 1"),
    (row(taught="false"), "taught: expected true or false, got 'false'"),
    (row(interactions=[{"query": "a", "answer": "b", "taught": 0}]), r"interactions\[0\]: taught: expected true or false, got 0"),
    ({"system": "Hi.", "taught": "no", "interactions": [{"query": "a", "answer": "b"}]}, "taught: expected true or false, got 'no'"),
    (row(unknown=True), "the first interaction is unknown, but has no asks"),
    (
        row(interactions=[{"query": "a", "answer": "b", "unknown": True, "asks": ["anna.pet"]}]),
        r"interactions\[0\] is unknown, but an earlier interaction tells all that it asks for \(anna\.pet\): leave unknown out",
    ),
    (
        row(interactions=[{"query": "a", "answer": "cat", "asks": ["anna.pet"], "aliases": {"anna.pett": ["kitty"]}}]),
        r"interactions\[0\] has aliases of what is neither told nor asked: .*known: \*, anna\.pet\. Did you mean 'anna\.pet'\?",
    ),
]


@pytest.mark.parametrize(("line", "message"), BROKEN)
def test_a_broken_row_is_named(tmp_path, line, message):
    path = write_lines(tmp_path / "rows.jsonl", [row(), row(), line, row()])
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 3: .*{message}"):
        read_conversations(path)


def test_the_rest_is_kept_on_request_with_reasons(tmp_path):
    lines = [row(id="a"), "{", row(id="b"), row(id="a"), "", row(query="")]
    path = write_lines(tmp_path / "rows.jsonl", lines)
    refused: list[RefusedRow] = []
    kept = read_conversations(path, keep_valid=True, refused=refused)
    assert [each.id for each in kept] == ["a", "b"]
    assert [each.row for each in refused] == [2, 4, 6]
    assert "already taken by row 1" in refused[1].reason
    assert str(refused[0]).startswith(f"{path}, row 2: not valid JSON")


def test_where_no_row_is_left_the_first_reason_is_said(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", ["{", row(query="")])
    with pytest.raises(DataError, match=r"no valid conversation \(of 2 rows none fits; .*rows\.jsonl, row 1: not valid JSON"):
        read_conversations(path, keep_valid=True)


def test_numbers_are_ids_too(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [row(id=7), row(id="8")])
    assert [each.id for each in read_conversations(path)] == ["7", "8"]
    with pytest.raises(ValueError, match="id: expected text, got True"):
        to_conversation(row(id=True), "x")


def test_asking_for_what_was_never_told_is_fine_where_it_is_said_so():
    turn = {"query": "a", "answer": "I do not know.", "asks": ["ben.pet"], "unknown": True}
    assert to_conversation(row(interactions=[turn]), "x").follow_ups[0].unknown


def test_aliases_may_stand_where_the_fact_is_told_or_asked():
    asking = {"query": "a", "answer": "cat", "asks": ["anna.pet"], "aliases": {" anna.pet": ["puss"], "*": ["the cat"]}}
    conversation = to_conversation(row(aliases={"anna.pet": ["kitten"]}, interactions=[asking]), "x")
    assert conversation.first.aliases == {"anna.pet": ("kitten",)}
    assert conversation.follow_ups[0].aliases == {"anna.pet": ("puss",), "*": ("the cat",)}
    unknown = {"query": "a", "answer": "I do not know.", "asks": ["anna.pet", "ben.pet"], "unknown": True, "aliases": {"ben.pet": ["no"]}}
    assert to_conversation(row(interactions=[unknown]), "x").follow_ups[0].unknown


def test_long_interactions_are_refused_with_their_length(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [row(), row(interactions=[{"query": "a b c d e f", "answer": "b"}])])
    with pytest.raises(DataError, match="row 2: interaction 1 has 7 words, but at most 6 are allowed"):
        read_conversations(path, limit=LengthLimit(6))
    assert len(read_conversations(path, limit=LengthLimit(7))) == 2


ODD = [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.date(2026, 1, 2), b"abc", decimal.Decimal("1.5")]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_columns_that_json_cannot_hold_are_named(tmp_path, value):
    import pyarrow as pa
    from pyarrow import parquet

    inner, outer = row(interactions=[{"query": "c", "answer": "d", "when": value}]), row(when=value)
    for rows, column in (([inner], r"interactions\[0\]\.when"), ([outer, row(id="x")], "when")):
        parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        conversations = read_conversations(tmp_path / "rows.parquet")
        with pytest.raises(DataError, match=rf"Conversation '.*', column '{column}': JSON has no form for .*\({type(value).__name__}\)"):
            write_conversations(tmp_path / "rows.jsonl", conversations)
        assert not (tmp_path / "rows.jsonl").exists()
        write_conversations(tmp_path / "again.parquet", conversations)
        assert read_conversations(tmp_path / "again.parquet") == conversations


def test_parquet_rows_are_numbered_too(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"query": "a", "answer": "b", "interactions": [{"query": "c", "answer": text}]} for text in ("d", " ")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet, row 2: interactions\[0\]\.answer"):
        read_conversations(tmp_path / "rows.parquet")
    (tmp_path / "bad.parquet").write_text("nothing")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_conversations(tmp_path / "bad.parquet")


def test_sources_that_are_not_there_or_empty_say_so(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read_conversations(tmp_path / "none.jsonl")
    (tmp_path / "rows.txt").write_text("hello")
    with pytest.raises(DataError, match=r"read from \.jsonl, \.json or \.parquet"):
        read_conversations(tmp_path / "rows.txt")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no valid conversation"):
        read_conversations(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes("größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_conversations(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match=r"\.jsonl or \.parquet"):
        write_conversations(tmp_path / "rows.csv", generated(count=1))


def test_a_data_set_folder_is_read_with_its_splits(tmp_path):
    import datasets

    rows = [row(id=str(number)) for number in range(3)]
    saved = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows), "validation": datasets.Dataset.from_list(rows[:1])})
    saved["validation"] = saved["validation"].map(lambda each: {**each, "id": "v"})
    saved.save_to_disk(str(tmp_path / "saved"))
    assert [each.id for each in read_conversations(tmp_path / "saved", split="train")] == ["0", "1", "2"]
    assert [each.id for each in read_conversations(f"{tmp_path / 'saved'}:validation")] == ["v"]
    with pytest.raises(DataError, match="has the splits train, validation"):
        read_conversations(tmp_path / "saved")
    with pytest.raises(DataError, match="no split 'tset'; it has train, validation"):
        read_conversations(tmp_path / "saved", split="tset")
    with pytest.raises(DataError, match="There is no file"):
        read_conversations(tmp_path / "nothing-here")
