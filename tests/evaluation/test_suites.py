"""Suites: what they play, what bounds their scores, and what they say where data are missing."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data.rows import LengthLimit
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation.suites import SUITES, Setting
from rxrl.evaluation.suites.babi import excerpt, hide
from rxrl.evaluation.suites.dialogues import KINDS
from rxrl.evaluation.suites.recall import recall
from rxrl.types import Conversation, Interaction

REAL = Path(__file__).parents[2].parent / "shared" / "data"
TASK = """\
1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went to the kitchen.
5 Where is Mary? \tkitchen\t4
"""
BOOK = "The sun rose. A long road led over the hill. Nobody spoke on the way. The river was cold and grey."
READER = """\
import re
from rxrl.policies import TextPolicy


class Reader(TextPolicy):
    '''Where somebody is, from what was said; and the pairs of mqar.'''

    def answer(self, dialogues, generators):
        return [self.one(dialogue) for dialogue in dialogues]

    def one(self, dialogue):
        told = " ".join(query for query, _ in dialogue.history)
        if who := re.fullmatch(r"Where is (\\w+)\\? ?", dialogue.query):
            return (re.findall(rf"{who[1]} (?:moved|went) to the (\\w+)", told) or ["nowhere"])[-1]
        return dict(re.findall(r"(\\w\\w) (\\w+)[,.]", told)).get(dialogue.query.rstrip("?"), "Okay.")
"""
LOCOMO = [
    {
        "sample_id": "one",
        "conversation": {
            "speaker_a": "Ana",
            "speaker_b": "Bo",
            "session_1_date_time": "1 May 2023",
            "session_1": [
                {"speaker": "Ana", "dia_id": "D1:1", "text": "I have a new dog, Rex."},
                {"speaker": "Bo", "dia_id": "D1:2", "text": "Nice!", "blip_caption": "a brown dog"},
            ],
            "session_2_date_time": "3 May 2023",
            "session_2": [{"speaker": "Bo", "dia_id": "D2:1", "text": "I moved to Rome."}],
        },
        "qa": [
            {"question": "What is the dog called?", "answer": "Rex", "evidence": ["D1:1"], "category": 4},
            {"question": "Where does Bo live?", "answer": "Rome", "evidence": ["D2:1"], "category": 4},
            {"question": "When did Ana get a dog?", "answer": 2023, "evidence": ["D1:1"], "category": 2},
            {"question": "What is the cat of Bo called?", "adversarial_answer": "Rex", "evidence": ["D1:1"], "category": 5},
        ],
    }
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "babi").mkdir()
    (tmp_path / "babi" / "qa1_single-supporting-fact_test.txt").write_text(TASK * 6)
    (tmp_path / "babi" / "qa1_single-supporting-fact_train.txt").write_text(TASK)
    (tmp_path / "book.txt").write_text(BOOK)
    (tmp_path / "reader.py").write_text(READER)
    (tmp_path / "locomo.json").write_text(json.dumps(LOCOMO))
    return tmp_path


def evaluated(what: object, *arguments: object, out: Path) -> dict[str, Any]:
    command = ["evaluate", str(what), *map(str, arguments), "--out", str(out)]
    result = CliRunner().invoke(cli.app, command, prog_name="rxrl")
    assert result.exit_code == 0, (result.output, result.exception)
    assert CliRunner().invoke(cli.app, ["report", str(out)], prog_name="rxrl").exit_code == 0
    assert "<h2>Suite" in (out / "report.html").read_text()
    return dict(json.loads((out / "evaluation.json").read_text())["suite"])


def test_babi_scores_each_task_between_its_bounds(place: Path) -> None:
    found = {
        name: evaluated(what, "--suite", "babi", "--data", place / "babi", out=place / name)["groups"]
        for name, what in (("reader", f"{place / 'reader.py'}:Reader"), ("parrot", "parrot"))
    }
    [right], [wrong] = found["reader"], found["parrot"]
    assert (right["name"], right["conversations"], right["questions"]) == ("1 single supporting fact", 6, 12)
    assert (right["score"], right["oracle"], wrong["score"]) == (1.0, 1.0, 0.0)
    assert right["blind"] == wrong["blind"] == 0.5


def test_without_memory_nothing_is_right(place: Path) -> None:
    given = (f"{place / 'reader.py'}:Reader", "--suite", "babi", "--data", place / "babi", "--set", "lengths=[1]")
    refused = CliRunner().invoke(cli.app, ["evaluate", *map(str, given)], prog_name="rxrl")
    assert refused.exit_code == 2
    assert "Unknown option of the suite babi 'lengths'" in refused.stderr
    found = evaluated(given[0], *given[1:5], "--memory", "none", out=place / "none")
    assert found["groups"][0]["score"] == 0.0


def test_babi_long_hides_facts_in_order_among_a_book(place: Path) -> None:
    options = ("--data", place / "babi", "--set", f"text={place / 'book.txt'}", "--set", "lengths=[100, 300]", "--conversations", 3)
    found = evaluated(f"{place / 'reader.py'}:Reader", "--suite", "babi-long", *options, out=place / "long")
    assert [(row["name"], row["score"], row["questions"]) for row in found["groups"]] == [
        ("task 1, 100 tokens", 1.0, 3),
        ("task 1, 300 tokens", 1.0, 3),
    ]
    assert not any(row["matches"] for row in found["published"])


def test_the_text_around_facts_has_the_asked_length_and_fits() -> None:
    rng = random.Random(0)
    text = excerpt(BOOK, 400, rng)
    assert len(text.split()) == 400
    facts = [Interaction(f"Fact {number}.", "Okay.", (("a.place", f"p{number}"),), ()) for number in range(5)]
    told = Conversation("c", facts[0], (*facts[1:], Interaction("Where?", "p4", asks=("a.place",))))
    found = hide(told, text, LengthLimit(30), "hidden", rng)
    assert max(len(each.query.split()) + len(each.answer.split()) for each in found.interactions) <= 30
    said = " ".join(each.query for each in found.interactions[:-1])
    assert [int(number) for number in re.findall(r"Fact (\d)", said)] == list(range(5))
    assert " ".join(re.sub(r"Fact \d\.", "", said).split()) == text
    assert [each.asks for each in found.follow_ups if each.asks] == [("a.place",)]
    again = hide(told, text, LengthLimit(30), "hidden", random.Random(0))
    assert [each.query for each in again.interactions] != [each.query for each in found.interactions]


def test_mqar_is_solved_by_reading_and_not_by_guessing(place: Path) -> None:
    options = ("--set", "pairs=[4, 32]", "--conversations", 4)
    found = evaluated(f"{place / 'reader.py'}:Reader", "--suite", "mqar", *options, out=place / "mqar")["groups"]
    assert [row["score"] for row in found] == [1.0, 1.0]
    assert [row["questions"] for row in found] == [16, 64]
    assert all(row["blind"] <= 0.25 for row in found)


def test_pairs_are_told_before_they_are_asked_for_and_values_do_not_repeat() -> None:
    found = recall("r", 10, 4, random.Random(1))
    told = dict(fact for each in found.interactions for fact in each.facts)
    assert len(told) == len(set(told.values())) == 10
    assert [len(each.facts) for each in found.interactions[:3]] == [4, 4, 2]
    assert sorted(key for each in found.follow_ups for key in each.asks or ()) == sorted(told)
    assert all(told[each.asks[0]] == each.answer for each in found.follow_ups if each.asks)


def test_locomo_reads_sessions_and_kinds_of_questions(place: Path) -> None:
    groups = {group.name: group for group in SUITES.find("locomo")().groups(Setting(place / "locomo.json"))}
    assert set(groups) == {KINDS[4], KINDS[2], KINDS[5]}
    [conversation] = groups[KINDS[4]].scenarios
    assert conversation.first.query == "1 May 2023. Ana: I have a new dog, Rex."
    assert conversation.follow_ups[0].query == "Bo: Nice! (shows a brown dog)"
    found = evaluated("oracle", "--suite", "locomo", "--data", place / "locomo.json", out=place / "locomo")
    assert {row["name"]: (row["score"], row["questions"]) for row in found["groups"]} == {
        KINDS[4]: (1.0, 2),
        KINDS[2]: (1.0, 1),
        KINDS[5]: (1.0, 1),
    }


def test_the_blind_bound_of_locomo_is_one_answer_for_each_kind_of_question(place: Path) -> None:
    found = evaluated("parrot", "--suite", "locomo", "--data", place / "locomo.json", out=place / "locomo")
    # Two names are asked for, so one constant answer is right half of the time; what was never said has one right answer.
    assert {row["name"]: row["blind"] for row in found["groups"]} == {KINDS[4]: 0.5, KINDS[2]: 1.0, KINDS[5]: 1.0}


@pytest.mark.parametrize("name", SUITES.built_in)
def test_a_suite_lists_published_scores_with_their_source_or_says_why_not(name: str) -> None:
    suite = SUITES.find(name)
    assert all(row.source and row.note and not row.matches for row in suite.published)
    assert bool(suite.published) != bool(suite.unpublished)


def test_scenarios_stand_between_their_players(place: Path) -> None:
    found = evaluated("parrot", "--suite", "scenarios", "--conversations", 2, "--set", "steps=4", out=place / "games")
    assert {"guess", "preferences"} <= {row["name"] for row in found["groups"]}
    assert "simulated" not in {row["name"] for row in found["groups"]}
    assert all(row["blind"] <= row["oracle"] for row in found["groups"])
    assert found["mean"] < 0.2


@pytest.mark.parametrize("name", ["babi", "babi-long", "sgd", "locomo"])
def test_missing_data_say_how_to_get_them(name: str, place: Path) -> None:
    suite, options = SUITES.find(name)(), {"text": str(place / "book.txt")} if name == "babi-long" else {}
    with pytest.raises(DataError, match=r"needs data, --data PATH: give the f.* https://"):
        suite.groups(Setting(options=options))
    with pytest.raises(DataError, match="There is nothing at"):
        suite.groups(Setting(place / "none", options=options))


def test_wrong_options_are_refused_in_one_sentence(place: Path) -> None:
    def refused(*arguments: object) -> str:
        result = CliRunner().invoke(cli.app, ["evaluate", "parrot", *map(str, arguments)], prog_name="rxrl")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        return str(result.stderr)

    assert "Unknown suite 'bab'" in refused("--suite", "bab")
    assert "--level does not go with --suite" in refused("--suite", "mqar", "--level", 1)
    assert "--set is for the options of a suite" in refused("--set", "pairs=[4]")
    assert "pairs of the suite mqar" in refused("--suite", "mqar", "--set", "pairs=[0]")
    assert "is like [4, 8, 16, 32, 64], got 4" in refused("--suite", "mqar", "--set", "pairs=4")
    assert "generates its conversations" in refused("--suite", "mqar", "--data", place / "babi")
    assert "needs a text" in refused("--suite", "babi-long", "--data", place / "babi")
    assert "no bAbI files" in refused("--suite", "babi", "--data", place)
    with pytest.raises(ConfigError, match="subclass"):
        SUITES.find("rxrl.types:Turn")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs files that are not published: data sets")
def test_the_real_files_of_babi_and_sgd_fit_a_small_model() -> None:
    limit = LengthLimit(60)
    tasks = SUITES.find("babi")().groups(Setting(REAL / "babi", 3, limit=limit))
    assert len(tasks) == 20
    assert all(len(group.scenarios) == 3 for group in tasks)
    kinds = SUITES.find("sgd")().groups(Setting(REAL / "sgd", 5, limit=limit))
    assert "confirm" in {group.name for group in kinds}
