"""Wrong answers: what is taken for what, and examples of all distances."""

from __future__ import annotations

from rxrl.evaluation.mistakes import EXAMPLES, NOTHING, confusions, mistakes_view
from tests.evaluation.fakes import KEYS, VALUES, record


def asked(name: str, answer: str, right: bool, distance: int = 1, kind: str = "ask"):
    rivals = {KEYS[0]: tuple(value for value in VALUES if value != "cat")}
    return record(name, 1, float(right), answer=answer, expected={KEYS[0]: "cat"}, rivals=rivals, distance=distance, kind=kind)


def test_a_confusion_is_the_right_value_with_what_is_said_instead() -> None:
    assert confusions(asked("a", "it is dog .", False).turn) == [("cat", "dog")]
    assert confusions(asked("a", "i like it .", False).turn) == [("cat", NOTHING)]
    assert confusions(asked("a", "it is cat .", True).turn) == []
    assert confusions(asked("a", "frog or dog ?", False).turn) == [("cat", "dog"), ("cat", "frog")]


def test_wrong_answers_are_counted_and_shown_by_kind() -> None:
    wrong = [asked(f"w{number}", "it is dog .", False, distance=number % 16 + 1) for number in range(40)]
    found = mistakes_view([*wrong, asked("v", "a goat", False, kind="again"), asked("r", "it is cat .", True), record("n", 1, None)])
    assert (found["wrong"], found["asked"]) == (41, 42)
    assert found["confusions"] == [("cat", "dog", 40), ("cat", "goat", 1)]
    assert [(kind, count, len(rows)) for kind, count, rows in found["kinds"]] == [("again", 1, 1), ("ask", 40, EXAMPLES)]
    distances = [row["distance"] for row in found["kinds"][1][2]]
    assert distances == sorted(distances)
    assert (distances[0], distances[-1]) == (1, 15)


def test_without_wrong_answers_there_is_nothing_to_show() -> None:
    assert mistakes_view([asked("r", "it is cat .", True)]) is None
    assert mistakes_view([]) is None
