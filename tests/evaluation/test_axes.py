"""Axes of stress: each varies one thing, at a fixed distance, and a curve is summed up by where it leaves 0.9."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl import lexicon
from rxrl.cli import main as cli
from rxrl.data.world import LEVELS, GeneratedSource
from rxrl.errors import ConfigError
from rxrl.evaluation.axes import AXES, LOADS, WINDOW, Course, Point, axes_of, curves, holds_sentence, points_of
from rxrl.evaluation.unseen import UNSEEN, unseen_phrasing
from rxrl.types import Conversation

WINDOWED = """\
from rxrl.policies import TextPolicy


class Newest(TextPolicy):
    '''Says everything that the newest interactions said.'''

    def answer(self, dialogues, generators):
        return [" ".join(query for query, _ in dialogue.history if "?" not in query) for dialogue in dialogues]
"""


def course(level: int, count: int = 4) -> Course:
    found = GeneratedSource(level=level, seed=0, split="test").take(steps=16, strategy="multi-step", start=0, count=count)
    return Course(found, level, 0, count)


def points(axis: str, level: int) -> list[Point]:
    return list(points_of(axis, course(level)))


def distances(conversation: Conversation) -> set[int]:
    """Turns between what is asked and its last exposure."""
    seen: dict[str, int] = {}
    found = set()
    for turn, each in enumerate(conversation.interactions):
        found |= {turn - seen[key] for key in each.asks or ()}
        seen.update({key: turn for key, _ in each.facts})
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("axis", ["load", "binding", "correction"])
def test_every_fact_is_asked_for_at_the_same_distance(axis: str, level: int) -> None:
    for point in points(axis, level):
        assert len(point.conversations) == 4
        for each in point.conversations:
            assert each.steps == 2 * WINDOW - 1
            assert distances(each) == {WINDOW}


@pytest.mark.parametrize("level", LEVELS)
def test_each_axis_varies_what_it_names(level: int) -> None:
    for point in points("load", level):
        assert {len({key for each in talk.interactions for key, _ in each.facts}) for talk in point.conversations} == {point.x}
    assert [point.x for point in points("load", level)] == list(LOADS)
    for point in points("binding", level):
        for talk in point.conversations:
            keys = [key for each in talk.interactions for key, _ in each.facts]
            assert len(set(keys)) == 8
            assert len({key.rpartition(".")[0] for key in keys}) == 8
            assert len({key.rpartition(".")[2] for key in keys}) == 8 // point.x
    for point in points("correction", level):
        for talk in point.conversations:
            values: dict[str, list[str]] = {}
            for key, value in (fact for each in talk.interactions for fact in each.facts):
                values.setdefault(key, []).append(value)
            assert {len(told) for told in values.values()} == {point.x + 1}
            assert all(new != old for told in values.values() for old, new in pairwise(told))
            assert all(values[each.asks[0]][-1] in each.answer.lower() for each in talk.follow_ups if each.asks)


def test_lengths_and_small_talk_have_the_asked_turns() -> None:
    assert [(point.x, point.conversations[0].steps) for point in points("length", 0)] == [(each, each) for each in (16, 32, 64, 256)]
    found = [(point.curve, point.x, point.conversations[0].steps) for point in points("time", 0)]
    assert found == [(curve, turns, 16 + turns) for curve in ("spread among the turns", "before all turns") for turns in (0, 16, 48, 112)]


def test_unseen_words_are_in_no_phrasing_of_the_world() -> None:
    topics = {(kind, topic.attribute): topic for kind, found in lexicon.ALL_TOPICS.items() for topic in found if kind != "animal"}
    assert set(UNSEEN) == set(topics)
    for key, (tell, ask) in UNSEEN.items():
        assert tell not in (*topics[key].tells, *topics[key].story)
        assert ask not in topics[key].asks


@pytest.mark.parametrize("level", LEVELS)
def test_rephrasing_changes_words_alone(level: int) -> None:
    for each in course(level, 20).conversations:
        assert unseen_phrasing(each, told=False, asked=False) == each
        other = unseen_phrasing(each, told=True, asked=True)
        for old, new in zip(each.interactions, other.interactions, strict=True):
            assert (old.answer, old.facts, old.asks) == (new.answer, new.facts, new.asks)
            assert (old.query == new.query) == (not old.asks and not (old.facts and old.kind != "story"))
            assert old.kind == "story" or all(value in new.query.lower() for _, value in new.facts)


def test_a_curve_is_summed_up_by_where_it_leaves_nine_tenths() -> None:
    def curve(*means: float) -> Any:
        measured = [(Point("turns", 16 * 2**place, f"{16 * 2**place} turns", ()), {"mean": mean}) for place, mean in enumerate(means)]
        return curves("length", measured)["curves"][0]

    assert curve(0.95, 0.91, 0.5, 0.95)["holds"] == 32
    assert holds_sentence("length", curve(0.95, 0.91, 0.5)) == "length, turns: holds 0.9 up to 32 turns (64 turns: 0.50)."
    assert holds_sentence("length", curve(0.95, 0.9)) == "length, turns: holds 0.9 throughout, up to 32 turns."
    assert holds_sentence("length", curve(0.5, 0.95)) == "length, turns: below 0.9 from the start (16 turns: 0.50)."


def test_axes_are_named_in_a_list() -> None:
    assert axes_of("time, load") == ["time", "load"]
    assert axes_of("all") == list(AXES)
    for text in ("tim", "", "time,lod"):
        with pytest.raises(ConfigError, match="--stress takes axes such as time,load"):
            axes_of(text)


def test_a_window_falls_where_its_end_is(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(WINDOWED)
    scores = {}
    for memory in ("transcript:8", "transcript"):
        command = ["evaluate", f"{tmp_path / 'mine.py'}:Newest", "--memory", memory, "--stress", "load", "--conversations", "2"]
        command += ["--max-answer-tokens", "400", "--no-controls", "--steps", "2", "--out", str(tmp_path / memory)]
        result = CliRunner().invoke(cli.app, command, prog_name="rxrl")
        assert result.exit_code == 0, (result.output, result.exception)
        assert "Under stress" in result.stdout
        scores[memory] = json.loads((tmp_path / memory / "evaluation.json").read_text())["stress"]
    loads = {memory: [point["mean"] for point in found["load"]["curves"][0]["points"]] for memory, found in scores.items()}
    assert max(loads["transcript:8"]) < 0.2
    assert loads["transcript"][0] > 0.5
    assert (tmp_path / "transcript" / "stress" / "load-facts-told-2.jsonl").is_file()
    assert CliRunner().invoke(cli.app, ["report", str(tmp_path / "transcript")], prog_name="rxrl").exit_code == 0
    page = (tmp_path / "transcript" / "report.html").read_text()
    assert "How far it holds" in page
    assert "facts told" in page


def test_stress_on_rows_has_the_axis_time_alone(tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        result = CliRunner().invoke(cli.app, ["evaluate", "parrot", *arguments], prog_name="rxrl")
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        return str(result.stderr)

    assert "conversations of a file have the axis time" in refused("--data", "rows.jsonl", "--stress", "load")
    assert "conversations of one kind" in refused("--data", "scenario:guess", "--stress", "time")
    assert "--stress does not go with --suite" in refused("--suite", "mqar", "--stress", "time")
