from __future__ import annotations

import csv
import json
import math
import re
import sys
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from rxrl.data.origins import Origin
from rxrl.envs.scenarios import load
from rxrl.errors import DataError
from rxrl.evaluation import (
    CONTROLS,
    WHOLE_CONTROLS,
    compare_scenarios,
    evaluate,
    summarise,
    summarise_comparisons,
    summarise_controls,
    summarise_stage,
    write_records,
    write_report,
    write_run_report,
)
from rxrl.evaluation.charts import number, ticks
from rxrl.evaluation.curves import learning_curves
from rxrl.evaluation.provenance import made_with
from rxrl.evaluation.transcripts import choose_episodes
from rxrl.players import make_play
from rxrl.reading.documents import json_value
from rxrl.types import SavedInteraction
from rxrl.writing import json_text
from tests.evaluation.fakes import Forgetful, Reader, WordCodec, conversations, environment, record

VOID = {"meta", "link", "br", "img", "hr", "input"}


class _Page(HTMLParser):
    """Checks that tags are balanced and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def run():
    played = conversations(12)
    codec = WordCodec()
    env = environment(played, codec, 4)
    after = evaluate(env, Reader(codec), played, seed=1, controls=CONTROLS, resamples=50)
    before = evaluate(env, Forgetful(codec), played, seed=1, resamples=50)
    content = {
        "title": "A <run> & more",
        "seed": 1,
        "wall_seconds": 61.2,
        "after_supervised": before.summary,
        "after_mrl": after.summary,
        "after_smat_continued": before.summary,
        "controls": after.controls,
        "comparisons": summarise_comparisons(mrl=after.records, supervised=before.records, smat=before.records, resamples=50),
        "stages": [
            summarise_stage(steps=2, strategy="multi-step", records=before.records, iterations=5, ended="threshold reached"),
            summarise_stage(steps=16, strategy="long-range", records=after.records, iterations=9, ended="<end>"),
        ],
        "cost": after.cost,
        "config": {"mrl": {"clip": 0.2, "path": "<script>alert(1)</script>"}},
        "scenarios": played_scenarios(),
    }
    return content, list(after.records)


def played_scenarios():
    """`preferences`, as if MRL had made the best player of the one without memory."""
    games = load("preferences", split="test").take(steps=8, count=20)
    found = []
    for player in ("blind", "best"):
        envs, policy = make_play(player, games, num_envs=5, reward="outcome")
        found.append(evaluate(envs, policy, games, seed=0, controls=WHOLE_CONTROLS, resamples=50))
    before, after = found
    return compare_scenarios(before.scenarios, after.scenarios, (before.records, after.records), resamples=50)


METRICS = [
    *({"phase": "pretrain", "iteration": i, "loss": 3.0 / i, "validation_loss": 3.1 / i} for i in range(1, 20)),
    *({"phase": "smat", "iteration": i, "loss": 2.0 / i, "loss_true": 1.0 / i, "loss_empty": 2.0, "loss_other": 2.5} for i in range(1, 20)),
    *(
        {
            "phase": "mrl",
            "stage": i // 10,
            "steps": 2 + i // 10,
            "iteration": i,
            "reward": 5 + i / 10,
            "retention": 0.5,
            "kl": 0.01,
            "entropy": 0.3,
        }
        for i in range(20)
    ),
]


def test_the_page_is_one_whole_file_that_needs_no_network(run, tmp_path):
    path = write_report(run[0], METRICS, run[1], tmp_path)
    page = _Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    attributes = [(name, value or "") for _, attrs in page.tags for name, value in attrs.items()]
    fetched = [
        pair for pair in attributes if pair[0] in ("src", "href", "srcset", "xlink:href", "action", "data") or pair[0].startswith("on")
    ]
    within = [value for name, value in fetched if name == "href" and value.startswith("#")]
    assert set(within) == {f"#{attrs['id']}" for tag, attrs in page.tags if tag == "section"}
    assert [value.partition(",")[0] for name, value in fetched if value not in within] == ["data:text/csv;charset=utf-8"]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    assert "prefers-color-scheme: dark" in text


def test_every_part_is_there(run, tmp_path):
    page = _Page(write_report(run[0], METRICS, run[1], tmp_path).read_text(encoding="utf-8"))
    sections = {attrs.get("id") for tag, attrs in page.tags if tag == "section"}
    assert sections == {
        "headline",
        "distance",
        "scenario-preferences",
        "curriculum",
        "learning",
        "conversations",
        "cost",
        "reading",
        "configuration",
    }
    for words in (
        "after MRL",
        "SMAT continued",
        "swapped memory",
        "empty memory",
        "oracle",
        "threshold reached",
        "true memory",
        "mrl.clip",
        "1 min 1 s",
    ):
        assert words in page.text
    assert "MRL remembers more than the supervised checkpoint" in page.text


def test_values_are_escaped(run, tmp_path):
    evil = '<img src=x onerror="alert(1)">&"\''
    records = [
        record(evil, 1, 0.0, query=evil, answer=evil, reference=evil, strategy=evil, history=(SavedInteraction(evil, evil, (), ()),)),
        record(evil, 2, 1.0, query=evil, answer=evil),
    ]
    content = {
        **run[0],
        "title": evil,
        "notes": [evil],
        "preset": evil,
        "config": {evil: {evil: evil}},
        "cost": {evil: run[0]["cost"], "b": run[0]["cost"]},
    }
    content["stages"] = [summarise_stage(steps=1, strategy=evil, records=records, iterations=1, ended=evil)]
    metrics = [{"phase": evil, "stage": evil, "loss": float(i), f"{evil}_loss": float(i)} for i in range(3)]
    page = _Page(write_report(content, metrics, records, tmp_path).read_text(encoding="utf-8"))
    assert page.open == []
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert page.text.count(evil) >= 15


@pytest.mark.parametrize(
    "missing",
    [
        "after_supervised",
        "after_mrl",
        "after_smat_continued",
        "controls",
        "comparisons",
        "scenarios",
        "stages",
        "cost",
        "config",
        "seed",
        "wall_seconds",
        "title",
    ],
)
def test_a_missing_part_is_left_out(run, tmp_path, missing):
    for content in ({name: value for name, value in run[0].items() if name != missing}, {**run[0], missing: None}):
        assert _Page(write_report(content, METRICS, run[1], tmp_path).read_text(encoding="utf-8")).open == []


def test_an_empty_run_still_gives_a_page(tmp_path):
    page = _Page(write_report({}, [], None, tmp_path).read_text(encoding="utf-8"))
    assert {attrs.get("id") for tag, attrs in page.tags if tag == "section"} == {"reading"}
    empty = {"after_mrl": summarise([]), "controls": summarise_controls([], {"oracle": []}), "stages": [{}]}
    page = _Page(write_report(empty, [], [], tmp_path).read_text(encoding="utf-8"))
    assert page.open == []


def test_a_scenario_is_told_with_its_bounds(run, tmp_path):
    found = run[0]["scenarios"]["preferences"]
    assert found["blind"] < found["best"]
    assert found["share"] == pytest.approx((found["after"] - found["blind"]) / (found["best"] - found["blind"]))
    assert found["gain"]["difference"] == pytest.approx(found["after"] - found["before"])
    assert found["gain"]["low"] > 0
    text = _Page(write_report(run[0], METRICS, run[1], tmp_path).read_text(encoding="utf-8")).text
    assert f"MRL raised the score: from {found['before']:.2f} to {found['after']:.2f}" in text
    assert f"without memory is {found['blind']:.2f}, and the best player earns {found['best']:.2f}" in text

    lost = {**found, "before": found["after"], "after": found["before"], "share": -0.1, "gain": {"difference": -2, "low": -3, "high": -1}}
    text = _Page(write_report({"scenarios": {"preferences": lost}}, [], [], tmp_path).read_text(encoding="utf-8")).text
    assert "MRL lowered the score" in text
    assert "does not do better than no memory" in text


def test_conversations_of_a_scenario_are_shown_with_what_answers_earned(tmp_path):
    games = load("preferences", split="test").take(steps=4, count=6)
    envs, policy = make_play("best", games, num_envs=3, reward="outcome")
    records = evaluate(envs, policy, games, seed=0, resamples=10).records
    text = _Page(write_report({}, [], records, tmp_path).read_text(encoding="utf-8")).text
    assert "10 of 10" in text
    assert "0 of 10" in text
    assert "expected:" not in text


def test_supervised_training_that_wins_is_said_so(run, tmp_path):
    worse = {"difference": -0.2, "low": -0.3, "high": -0.1, "first": 0.5, "second": 0.7, "turns": 9, "conversations": 5}
    level = {**worse, "difference": 0.01, "low": -0.02, "high": 0.04}
    content = {**run[0], "comparisons": {"mrl_minus_supervised": level, "mrl_minus_smat": worse}}
    text = _Page(write_report(content, [], [], tmp_path).read_text(encoding="utf-8")).text
    assert "remembers less than supervised training (SMAT) continued" in text
    assert "cannot be told apart" in text


def test_time_is_that_since_the_run_was_resumed(run, tmp_path):
    pages = [_Page(write_report({**run[0], **more}, [], [], tmp_path).read_text(encoding="utf-8")) for more in ({}, {"resumed": True})]
    assert ["wall time since resumed" in page.text for page in pages] == [False, True]


@pytest.mark.parametrize(("count", "where"), [(1, "one conversation"), (4, "4 conversations")])
def test_a_few_conversations_win_nothing(run, tmp_path, count, where):
    ahead = {"difference": 0.3, "low": 0.3, "high": 0.3, "first": 0.8, "second": 0.5, "turns": 3, "conversations": count}
    few = {**run[0]["after_mrl"], "retention_at_16_conversations": count}
    controls = {"swapped_memory": {"contribution": ahead}}
    content = {**run[0], "after_mrl": few, "comparisons": {"mrl_minus_supervised": ahead}, "controls": controls}
    text = _Page(write_report(content, [], [], tmp_path).read_text(encoding="utf-8")).text
    assert f"on {where}: too few to tell them apart" in text
    assert "remembers more" not in text
    assert f"memory contributes 0.30 (too few conversations to be sure: {count})" in text
    headline = text[text.index("16-turn episodes, after MRL") :]
    assert "95 % interval" not in headline[: headline.index("held-out conversations")]


def test_the_headline_counts_the_conversations_that_it_is_of(tmp_path):
    records = [record(f"short {index}", steps=4) for index in range(18)]
    records += [record(f"long {index}", steps=16) for index in range(2)]
    text = _Page(write_report({"after_mrl": summarise(records)}, [], [], tmp_path).read_text(encoding="utf-8")).text
    assert "2 questions in 2 held-out conversations" in " ".join(text.split())


def test_nothing_is_written_that_cannot_be_shown(run, tmp_path):
    write_report(run[0], [], run[1], tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    with pytest.raises(DataError, match="does not hold what an evaluation writes"):
        write_run_report(tmp_path, {"after_mrl": {"by_distance": [{"distance": 1, "mean": 0.5, "low": 0.1, "high": 0.9}]}})
    assert (tmp_path / "report.json").read_bytes() == before


def test_the_loss_that_validation_has_is_drawn_before_its_parts():
    keys = ("loss", "ar_loss", "mlm_loss", "val_loss", "val_ar_loss", "val_mlm_loss")
    rows = [{"phase": "pretrain", "iteration": step, **dict.fromkeys(keys, 1.0 / step)} for step in (1, 2, 3)]
    [group] = learning_curves(rows)
    drawn = str(group.panels[0])
    assert "training" in drawn
    assert "val loss" in drawn or "validation" in drawn


def test_numbers_beside_the_page(run, tmp_path):
    write_report({**run[0], "odd": math.nan}, METRICS, run[1], tmp_path)
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content["after_mrl"] == json.loads(json.dumps(run[0]["after_mrl"]))
    assert content["odd"] is None
    rows = list(csv.DictReader((tmp_path / "retention_by_distance.csv").open(encoding="utf-8")))
    mine = [row for row in rows if row["condition"] == "after_mrl"]
    assert [int(row["distance"]) for row in mine] == [row["distance"] for row in run[0]["after_mrl"]["by_distance"]]
    assert {row["condition"] for row in rows} == {"after_mrl", "after_supervised", "after_smat_continued", *CONTROLS}
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html", "retention_by_distance.csv"}


def test_a_report_is_made_again_from_its_run(run, tmp_path):
    first = write_report(run[0], METRICS, run[1], tmp_path).read_text(encoding="utf-8")
    write_records(tmp_path / "transcripts.jsonl", run[1])
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in METRICS) + '{"phase": "mr')
    assert write_run_report(tmp_path).read_text(encoding="utf-8") == first


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"report\.json"):
        write_run_report(tmp_path)
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(DataError, match="object"):
        write_run_report(tmp_path)
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("{}\nnonsense\n")
    with pytest.raises(DataError, match="line 2"):
        write_run_report(tmp_path)


def test_plots_stay_inside_their_frame(run, tmp_path):
    page = _Page(write_report(run[0], METRICS, run[1], tmp_path).read_text(encoding="utf-8"))
    size = (0.0, 0.0)
    points = 0
    for tag, attrs in page.tags:
        if tag == "svg":
            frame = (attrs.get("viewbox") or f"0 0 {attrs.get('width')} {attrs.get('height')}").split()
            size = (float(frame[2]), float(frame[3]))
        pairs = [(attrs[x], attrs[y]) for x, y in (("cx", "cy"), ("x1", "y1"), ("x2", "y2")) if x in attrs]
        pairs += [tuple(pair.split(",")) for pair in (attrs.get("points") or "").split()]
        for x, y in pairs:
            points += 1
            assert -1 <= float(x) <= size[0] + 1
            assert -1 <= float(y) <= size[1] + 1
    assert points > 200


def test_curves_follow_what_metrics_hold():
    groups = learning_curves(METRICS)
    assert [group.title for group in groups] == ["Supervised stages", "Memory reinforcement learning"]
    assert [panel.title for panel in groups[1].panels] == ["Reward", "Retention", "KL to the reference", "Entropy"]
    assert [panel.title for panel in groups[0].panels] == [
        "Joint pre-training: loss",
        "Supervised memory-aware training: loss",
        "Supervised memory-aware training: loss by what memory holds",
    ]
    assert learning_curves([]) == []
    assert learning_curves([{"phase": "mrl", "reward": 1.0}]) == []
    assert learning_curves([{"phase": "sft", "loss": math.nan}, {"phase": "sft", "loss": None}, {"phase": "sft", "loss": "high"}]) == []


def test_long_curves_are_thinned():
    rows = [{"phase": "sft", "iteration": i, "loss": 1.0} for i in range(20_000)]
    assert len(str(learning_curves(rows)[0].panels[0].plot)) < 10_000


def test_chosen_conversations_run_from_best_to_worst():
    records = [record(f"c{i}", turn, float(turn <= i)) for i in range(9) for turn in range(1, 9)] + [record("short", 1, 1.0, steps=2)]
    episodes = choose_episodes(records)
    assert [episode.right for episode in episodes] == [8, 5, 3, 0]
    assert choose_episodes(records[::-1]) == episodes
    assert choose_episodes([record(retention=None)]) == []
    assert len(choose_episodes(records[:8])) == 1


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 10), (-3.2, 7.9), (1e-6, 3e-6), (0, 12345), (5, 5)])
def test_ticks_are_inside_and_even(low, high):
    found = ticks(low, high)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-12 <= tick <= high + 1e-9 * max(1, high) for tick in found)
    steps = {round((b - a) / ((high - low) or 1), 6) for a, b in pairwise(found)}
    assert len(steps) <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.50"), (0.0047, "0.005"), (-0.001, "-0.001"), (0.0, "0.00"), (1e-9, "0.00"), (1234.5, "1,234"), (None, "–"), (math.nan, "–")],
)
def test_numbers_for_people(value, text):
    assert number(value) == text


def test_a_command_in_another_locale_is_written_as_it_was_meant(monkeypatch: pytest.MonkeyPatch):
    # As Python has the arguments of a process whose locale is not UTF-8; the first is no bytes of anything.
    for name, wanted in (("\udcc3\udcbcber.jsonl", "über.jsonl"), ("über.jsonl", "über.jsonl"), ("\ud83d.jsonl", "?.jsonl")):
        monkeypatch.setattr(sys, "argv", ["/bin/rxrl", "quickstart", "--data", name])
        assert made_with()["command"] in (f"rxrl quickstart --data {wanted}", f"rxrl quickstart --data '{wanted}'")
        origin = Origin("training", name, None, "")
        assert json_value(json_text(origin.saved()))["name"] == wanted
