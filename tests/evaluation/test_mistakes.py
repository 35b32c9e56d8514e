"""Wrong answers: what is taken for what, and a list that a reader can filter."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rxrl.evaluation.mistakes import EXAMPLES, NOTHING, SHOWN, confusions, miss, mistakes_view
from rxrl.evaluation.records import TurnRecord
from tests.evaluation.fakes import KEYS, VALUES, record


def asked(name: str, answer: str, right: bool, distance: int = 1, kind: str = "ask") -> TurnRecord:
    rivals = {KEYS[0]: tuple(value for value in VALUES if value != "cat")}
    return record(name, 1, float(right), answer=answer, expected={KEYS[0]: "cat"}, rivals=rivals, distance=distance, kind=kind)


def test_a_confusion_is_the_right_value_with_what_is_said_instead() -> None:
    assert confusions(asked("a", "it is dog .", False).turn) == [("cat", "dog")]
    assert confusions(asked("a", "i like it .", False).turn) == [("cat", NOTHING)]
    assert confusions(asked("a", "it is cat .", True).turn) == []
    assert confusions(asked("a", "frog or dog ?", False).turn) == [("cat", "dog"), ("cat", "frog")]


def test_wrong_answers_are_counted_and_shown_by_kind() -> None:
    wrong = [asked(f"w{number}", "it is dog .", False, distance=number % 16 + 1) for number in range(240)]
    found = mistakes_view([*wrong, asked("v", "a goat", False, kind="again"), asked("r", "it is cat .", True), record("n", 1, None)])
    assert (found["wrong"], found["asked"]) == (241, 242)
    assert found["confusions"] == [("cat", "dog", 240), ("cat", "goat", 1)]
    assert Counter(row["kind"] for row in found["rows"]) == {"again": 1, "ask": SHOWN // 2}
    distances = [row["distance"] for row in found["rows"][1:]]
    assert distances == sorted(distances)
    assert set(distances) == set(range(1, 17))


def test_many_kinds_of_question_keep_examples_of_each() -> None:
    wrong = [asked(f"{kind}-{number}", "it is dog .", False, kind=f"task {kind}") for kind in range(20) for number in range(30)]
    assert set(Counter(row["kind"] for row in mistakes_view(wrong)["rows"]).values()) == {EXAMPLES}


def test_a_filter_gives_each_example_its_options_and_each_option_its_number_of_examples() -> None:
    wrong = [asked(f"w{number}", "it is dog .", False, distance=number + 1) for number in range(5)]
    wrong += [asked("f", "it is frog .", False, distance=7, kind="again"), asked("e", " ", False, distance=1)]
    found = mistakes_view(wrong)
    filters = {name: options for name, _, options in found["filters"]}
    assert filters == {
        "kind": [("again", 1), ("ask", 6)],
        "miss": [("another value", 6), ("no answer", 1)],
        "confusion": [("cat: dog", 5), ("cat: frog", 1), ("cat: no value", 1)],
        "distance": [("1", 2), ("2", 1), ("3 to 4", 2), ("5 to 8", 2)],
    }
    for name, options in filters.items():
        numbers = Counter(number for row in found["rows"] for number in row["numbers"][name].split())
        assert numbers == {str(place): count for place, (_, count) in enumerate(options)}


def test_what_is_wrong_with_an_answer_has_a_name() -> None:
    def missed(answer: str, share: float = 0.0, **turn: Any) -> str:
        rivals = {KEYS[0]: tuple(value for value in VALUES if value != "cat")}
        return miss(record("a", 1, share, answer=answer, expected={KEYS[0]: "cat"}, rivals=rivals, **turn))

    assert missed("it is dog .") == "another value"
    assert missed("it is cat or dog .", 0.67) == "right and wrong values"
    assert missed("i like it .") == NOTHING
    assert missed("") == "no answer"
    assert missed("it is dog .", unknown=True) == "a guess at what was never told"
    assert missed("the cat", 0.5) == "some of the values"


def test_without_wrong_answers_there_is_nothing_to_show() -> None:
    assert mistakes_view([asked("r", "it is cat .", True)]) is None
    assert mistakes_view([]) is None
