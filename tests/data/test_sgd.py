"""The importer of Schema-Guided Dialogue on small dialogues; the real files are in test_real_data.py."""

import json

import pytest
from typer.testing import CliRunner

from rxrl.cli.data import app
from rxrl.data.importers import import_sgd
from rxrl.data.rows import LengthLimit, read_conversations
from rxrl.data.stats import asked_under_references
from rxrl.errors import DataError
from rxrl.facts import attribute_values


def action(act, slot, value, meant=None):
    return {"act": act, "slot": slot, "values": [value], "canonical_values": [meant or value]}


def turn(speaker, utterance, *actions, service="Restaurants_1"):
    return {"speaker": speaker, "utterance": utterance, "frames": [{"service": service, "slots": [], "actions": list(actions)}]}


TABLE = [
    turn("USER", "A table in SF at 7 at night, please.", action("INFORM", "city", "SF"), action("INFORM", "time", "7 at night", "19:00")),
    turn("SYSTEM", "For how many?", {"act": "REQUEST", "slot": "party_size", "values": []}),
    turn("USER", "For two.", action("INFORM", "party_size", "2")),
    turn("SYSTEM", "Ok.", action("OFFER", "restaurant_name", "Nopa")),
    turn("USER", "Go ahead, with live music.", action("INFORM", "has_live_music", "True")),
    turn(
        "SYSTEM",
        "Please confirm: 2 people at Nopa in SF at 7 pm, with live music.",
        action("CONFIRM", "party_size", "2"),
        action("CONFIRM", "restaurant_name", "Nopa"),
        action("CONFIRM", "city", "SF"),
        action("CONFIRM", "time", "7 pm", "19:00"),
        action("CONFIRM", "has_live_music", "True"),
    ),
    turn("USER", "Rather in Oakland.", action("INFORM", "city", "Oakland")),
    turn("SYSTEM", "In Oakland at 8 pm?", action("OFFER", "city", "Oakland"), action("OFFER", "time", "8 pm", "20:00")),
    turn("USER", "At 7 pm!", action("NEGATE", "", "")),
    turn("SYSTEM", "At 7 pm in Oakland, then.", action("CONFIRM", "time", "7 pm", "19:00"), action("INFORM", "city", "Oakland")),
]


def dialogues(folder, *turns, ids=None, split="train", number=1):
    (folder / split).mkdir(parents=True, exist_ok=True)
    rows = [
        {"dialogue_id": (ids or {}).get(place, f"1_{place:05}"), "services": ["Restaurants_1"], "turns": each}
        for place, each in enumerate(turns)
    ]
    (folder / split / f"dialogues_{number:03}.json").write_text(json.dumps(rows))
    return folder


def test_what_the_user_informs_of_is_a_fact_and_an_answer_that_restates_it_asks(tmp_path):
    result = import_sgd(dialogues(tmp_path, TABLE))
    (conversation,) = result.conversations
    assert conversation.id == "sgd-train-1_00000"
    assert [each.facts for each in conversation.interactions] == [
        (("city", "SF"), ("time", "7 at night")),
        (("party_size", "2"),),
        (),
        (("city", "Oakland"),),
        (),
    ]
    # Not asked: what the assistant offered (Nopa, 8 pm), what no words say (True), what this turn tells, and what the query says.
    assert [each.asks for each in conversation.interactions] == [(), (), ("party_size", "city", "time"), (), ("city",)]
    assert [each.kind for each in conversation.interactions] == ["tell", "tell", "confirm", "tell", "inform"]
    assert conversation.follow_ups[1].aliases == {"time": ("19:00", "7 pm"), "party_size": ("two",)}
    assert result.counts == {
        **{"dialogues": 1, "conversations": 1, "turns": 4, "facts": 4, "asks": 2, "asked facts": 4, "refused": 0},
        **{"left out: another value than told": 1, "left out: value in the query": 1},
    }
    asked = list(asked_under_references(conversation, attribute_values(result.conversations)))
    assert [each.distance for each in asked] == [None, 2, None, 1]
    assert asked[1].expected == {"party_size": "2", "city": "SF", "time": "7 at night"}
    assert asked[1].rivals == {"party_size": (), "city": ("Oakland",), "time": ()}


def test_an_answer_that_restates_without_an_annotation_exposes_the_fact(tmp_path):
    said = [
        turn("USER", "In Oakland.", action("INFORM", "city", "Oakland")),
        turn("SYSTEM", "When?"),
        turn("USER", "Tonight."),
        turn("SYSTEM", "There are 2 in Oakland."),
        turn("USER", "Book one."),
        turn("SYSTEM", "One in Oakland?", action("CONFIRM", "city", "Oakland")),
    ]
    (conversation,) = import_sgd(dialogues(tmp_path, said)).conversations
    assert [each.distance for each in asked_under_references(conversation, {})] == [None, 1]


def test_slots_of_several_services_stand_apart(tmp_path):
    said = [
        turn("USER", "A table in Oakland.", action("INFORM", "city", "Oakland")),
        turn("SYSTEM", "Done."),
        turn("USER", "A room in Napa.", action("INFORM", "city", "Napa"), service="Hotels_2"),
        turn("SYSTEM", "Which one?"),
        turn("USER", "Any."),
        turn("SYSTEM", "A room in Napa?", action("CONFIRM", "city", "Napa"), service="Hotels_2"),
    ]
    (conversation,) = import_sgd(dialogues(tmp_path, said)).conversations
    assert [each.facts for each in conversation.interactions] == [(("restaurants.city", "Oakland"),), (("hotels.city", "Napa"),), ()]
    assert conversation.follow_ups[-1].asks == ("hotels.city",)


def test_splits_are_never_mixed(tmp_path):
    dialogues(tmp_path, TABLE)
    dialogues(tmp_path, TABLE, TABLE, split="dev")
    dialogues(tmp_path, TABLE, TABLE, TABLE, split="test")
    counts = {split: import_sgd(tmp_path, split=split).counts["dialogues"] for split in ("train", "validation", "test")}
    assert counts == {"train": 1, "validation": 2, "test": 3}
    assert import_sgd(tmp_path).counts["dialogues"] == 1
    (first, _) = import_sgd(tmp_path / "dev").conversations
    assert first.id == "sgd-validation-1_00000"
    with pytest.raises(DataError, match="is the split 'validation', but 'train' was asked for"):
        import_sgd(tmp_path / "dev", split="train")
    with pytest.raises(DataError, match="has the splits train, validation, test, but 'dev' was asked for"):
        import_sgd(tmp_path, split="dev")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (TABLE[:2], "it has 1 question with an answer"),
        (TABLE[:5], "do not take turns"),
        (TABLE[1:5], "do not take turns"),
        ([*TABLE[:2], turn("USER", " "), TABLE[3]], "interaction 1 is empty"),
        ([{"speaker": "USER"}], "'utterance' is missing"),
        ([{"speaker": "CLERK", "utterance": "Hi."}], "expected 'USER' or 'SYSTEM', got 'CLERK'"),
        ([*TABLE[:2], turn("USER", "So " * 30), TABLE[3]], "at most 30 are allowed"),
    ],
)
def test_dialogues_that_do_not_fit_are_named(tmp_path, broken, message):
    dialogues(tmp_path, TABLE, broken)
    with pytest.raises(DataError, match=rf"dialogues_001\.json, row 2: .*{message}"):
        import_sgd(tmp_path, limit=LengthLimit(30))
    result = import_sgd(tmp_path, limit=LengthLimit(30), keep_valid=True)
    assert (len(result.conversations), len(result.refused)) == (1, 1)


def test_folders_are_checked(tmp_path):
    with pytest.raises(DataError, match="no folder of Schema-Guided Dialogue"):
        import_sgd(tmp_path / "none")
    with pytest.raises(DataError, match="no folder of the split 'train'"):
        import_sgd(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"holds no file dialogues_\*\.json"):
        import_sgd(tmp_path)


def test_the_command_writes_rows_that_are_valid(tmp_path):
    dialogues(tmp_path / "data", TABLE, TABLE)
    out = CliRunner().invoke(app, ["import", "sgd", str(tmp_path / "data"), str(tmp_path / "rows.jsonl")])
    assert out.exit_code == 0, out.output
    assert "Wrote 2 conversations" in out.output
    assert "asked facts 8" in out.output
    assert read_conversations(tmp_path / "rows.jsonl") == import_sgd(tmp_path / "data").conversations
