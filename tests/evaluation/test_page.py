"""What the page of a run says and shows, looked at in the text and, where there is one, in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rxrl.data.origins import Origin
from rxrl.data.world import GeneratedSource
from rxrl.evaluation import summarise, summarise_stage
from rxrl.evaluation.answers import answers, digits_for
from rxrl.evaluation.charts import Mark, Series, dot_plot, line_plot
from rxrl.evaluation.curves import learning_curves
from rxrl.evaluation.provenance import made_with
from rxrl.evaluation.report import render, write_report, write_run_report
from rxrl.evaluation.views import cost_view, headline_view, stages_view
from tests.evaluation.fakes import record
from tests.skips import BROWSER

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def summary(right: float, count: int = 40) -> dict[str, Any]:
    turns = [record(f"c{talk}", turn, float(turn <= 16 * right), distance=turn) for talk in range(count) for turn in range(1, 17)]
    return summarise(turns, resamples=100)


def content(**changes: Any) -> dict[str, Any]:
    """A run with every part of the page but scenarios."""
    after, before = summary(0.75), summary(0.5)
    swapped = {
        **summary(0.0),
        "contribution": {"difference": 0.75, "low": 0.7, "high": 0.8, "first": 0.75, "second": 0.0, "conversations": 40},
    }
    paid = {"difference": 0.25, "low": 0.2, "high": 0.3, "first": 0.75, "second": 0.5, "turns": 640, "conversations": 40}
    stage = {"steps": 8, "strategy": "multi-step", "iterations": 5, "ended": "a long reason why this stage has come to its end"}
    reward = {"mean": 6.0, "min": 0.0, "max": 10.0, "episode_min": 4.0, "episode_max": 8.0}
    run = {
        "title": "A run", "seed": 1, "preset": "pico", "after_mrl": after, "after_supervised": before,
        "controls": {"chance": 0.125, "swapped_memory": swapped, "oracle": summary(1.0)},
        "comparisons": {"mrl_minus_supervised": paid},
        "stress": {"turns_64": {"after_mrl": {"mean": 0.3, "low": 0.25, "high": 0.35, "conversations": 40}}},
        "stages": [{**stage, "retention": 0.5, "reward": reward}] * 3,
        "cost": [{"turn": turn, "tokens": 20.0, "seconds": 0.02 if turn < 16 else 0.01, "conversations": 40} for turn in range(1, 17)],
        "config": {"mrl": {"episodes": 8}, "curriculum": {"stages": [stage] * 12}}, "notes": ["A note."],
    }  # fmt: skip
    return {**run, **changes}


METRICS = [
    {"phase": "mrl", "stage": i // 10, "steps": 2 + i // 10, "iteration": i, "reward": 5.0, "retention": 0.5, "kl": 0.1} for i in range(20)
]
RECORDS = [record(f"c{talk}", turn, float(talk % 2)) for talk in range(6) for turn in range(1, 17)]


WRONG = [
    record(
        f"c{place}", place % 16 + 1, 0.0, kind=f"kind {place % 2}", distance=place % 7 or None, expected={"a.pet": "cat"},
        rivals={"a.pet": ("dog", "frog")}, answer=("it is a dog", "frog", "", "who knows")[place % 4],
    )
    for place in range(40)
]  # fmt: skip


def test_the_first_screen_answers_what_a_reader_asks() -> None:
    found = dict(headline_view(content())["answers"])
    assert list(found) == ["How good?", "For how long?", "Under what load?", "Against what?", "Did MRL pay?"]
    texts = {question: " ".join(each["text"] for each in sentences) for question, sentences in found.items()}
    assert "hold 0.750 of what is asked" in texts["How good?"]
    assert "0.12 (chance)" in texts["How good?"]
    assert "At least 0.9 up to 12 turns after a fact was told" in texts["For how long?"]
    assert texts["Under what load?"] == "0.30 with conversations of 64 turns."
    assert "memory contributes 0.75" in texts["Against what?"]
    assert "MRL remembers more than the supervised checkpoint it started from: 0.75 against 0.50, ahead by 0.25" in texts["Did MRL pay?"]


def test_a_memory_that_falls_under_load_is_not_called_good() -> None:
    part = {"mean": 0.37}
    [(_, [sentence])] = [
        each for each in answers({}, {"retention": 0.96}, "retention", None, [("64 turns", part)]) if each[0] == "Under what load?"
    ]
    assert sentence["tone"] == "bad"


@pytest.mark.parametrize(("other", "tone"), [((0.5, 0.45, 0.55), "good"), ((0.8, 0.75, 0.85), "open"), ((0.95, 0.93, 0.97), "bad")])
def test_whether_mrl_paid_looks_under_load_too(other: tuple[float, float, float], tone: str) -> None:
    own, rival = (dict(zip(("mean", "low", "high"), each, strict=True)) for each in ((0.82, 0.78, 0.86), other))
    [(_, [sentence])] = [
        each for each in answers({}, {}, "retention", None, [("64 turns", own)], [("64 turns", rival)]) if each[0] == "Did MRL pay?"
    ]
    assert sentence == {"tone": tone, "text": f"Under load, MRL beside SMAT continued: 0.82 against {other[0]:.2f} with 64 turns."}
    load, beside = [("64 turns", own | {"conversations": 2})], [("64 turns", rival)]
    assert dict(answers({}, {}, "retention", None, load, beside))["Did MRL pay?"][0]["tone"] == "open", "two conversations show nothing"


def test_numbers_and_their_difference_agree_to_the_last_digit_shown() -> None:
    assert digits_for(0.9958, 0.9612, 0.0346) == 3  # 1.00 and 0.96 do not differ by 0.03
    assert digits_for(0.75, 0.50, 0.25) == 2
    part = {"difference": -0.0346, "low": -0.05, "high": -0.02, "first": 0.9612, "second": 0.9958, "conversations": 40}
    [sentence] = dict(headline_view(content(comparisons={"mrl_minus_smat": part}))["answers"])["Did MRL pay?"]
    text = sentence["text"]
    assert "0.961 against 0.996, behind by 0.035" in text
    assert "did not pay" in text


def test_every_tile_has_an_interval_or_nothing() -> None:
    tiles = {tile["title"]: tile for tile in headline_view(content())["tiles"]}
    for title in ("mean reward (of 10)", "of answers exactly right"):
        low, high = tiles[title]["interval"]
        assert low <= float(tiles[title]["value"]) <= high
    assert "to 10.00" not in json.dumps([tile["note"] for tile in tiles.values()])


def test_chart_and_table_of_the_curriculum_show_the_same_ranges() -> None:
    assert stages_view(content()["stages"])["ends"] == ("episode_min", "episode_max")
    page = render(content(), METRICS, RECORDS)
    table = re.search(r'<section id="curriculum">.*?</table>', page, re.S)[0]
    assert "lowest episode" in table
    assert ">4.00<" in table
    assert ">0.00<" not in table


def test_the_line_of_a_stage_never_stands_left_of_the_axis() -> None:
    series = [Series("reward", "mrl", [(10.0, 1.0), (20.0, 2.0)])]
    drawn = line_plot(series, title="t", borders=[(1.0, "2"), (4.0, "4"), (15.0, "8"), (30.0, "16")])(340)
    places = [float(x) for x in re.findall(r'class="border" x1="([\d.]+)"', drawn)]
    assert len(places) == 2
    assert min(places) >= 44
    assert re.findall(r'<text class="tick" x="[\d.]+" y="[\d.]+">(\w+)</text>', drawn) == ["4", "8"]


def test_a_series_of_one_point_is_a_dot_in_the_legend_too() -> None:
    rows = [{"phase": "smat", "iteration": i, "loss": 1.0, **({"val_loss": 1.0} if i == 5 else {})} for i in range(1, 9)]
    [group] = learning_curves(rows)
    legend = str(group.panels[0].legend)
    assert legend.count("<circle") == 1
    assert legend.count("<line") == 1


def test_a_cheap_last_turn_is_explained_and_an_even_one_is_not() -> None:
    assert "last turn takes less time" in cost_view(content()["cost"])["note"]
    assert cost_view(content()["cost"][:-1])["note"] == ""


def test_a_training_that_was_not_evaluated_has_a_headline() -> None:
    stages = [summarise_stage(steps=steps, strategy="multi-step", records=RECORDS, iterations=3, ended="done") for steps in (2, 4)]
    found = headline_view({"stages": stages})
    assert (found["title"], found["value"]) == ("Retention in 4-turn episodes", 0.5)
    assert "rxrl evaluate RUN --out RUN" in str(found["answers"])
    assert headline_view({"stages": [{}]}) is None
    assert '<section id="headline">' in render({"stages": stages}, METRICS, ())


def test_a_training_whose_stages_have_no_numbers_takes_them_from_its_metrics() -> None:
    page = render({"stages": [{}]}, METRICS, ())
    assert "Retention in 3-turn episodes" in page
    assert '<section id="headline">' not in render({"stages": [{}]}, [], ())


def test_the_page_says_where_it_comes_from_and_where_the_time_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/rxrl", "train", "--out", "a folder"])
    rows = [*[{"phase": "mrl", "collect": 3.0, "update": 1.0}] * 2, {"phase": "smat", "collect": 9.0}]
    for name, lines in (("timings", rows), ("metrics", METRICS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    page = write_report(content(made_with=made_with()), METRICS, RECORDS, tmp_path).read_text()
    monkeypatch.setattr("sys.argv", ["rxrl", "report"])
    for each in (page, write_run_report(tmp_path).read_text()):
        assert "rxrl train --out &#39;a folder&#39;" in each
        assert "Of 8 seconds of MRL: playing episodes 75 %, updates 25 %." in each
    assert 'id="origin"' not in render(content(), METRICS, RECORDS)


def test_the_page_names_the_data_by_their_hashes(tmp_path: Path) -> None:
    told = GeneratedSource(0, 5, "test").take(steps=2, strategy="multi-step", start=0, count=3)
    data = [Origin.of_generated("world", level=0, split="train", seed=5).saved(), Origin.of_played("world", told).saved()]
    page = write_report(content(data=data), METRICS, RECORDS, tmp_path).read_text()
    assert f"<code>{data[1]['sha256'][:16]}</code>" in page
    assert "level 0, split train, seed 5" in page
    assert json.loads((tmp_path / "report.json").read_text())["data"] == data


def test_every_picture_says_its_numbers_and_headings_are_in_order() -> None:
    page = render(content(), METRICS, RECORDS)
    pictures = re.findall(r"<svg (?![^>]*aria-hidden)[^>]*>", page)
    assert len(pictures) > 8
    for each in pictures:
        assert 'role="img"' in each
        assert re.search(r'aria-label="[^"]+: [^"]*\d', each), each
    levels = [int(level) for level in re.findall(r"<h(\d)", page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "after MRL: 0.750, 0.7" in dot_plot([Mark("after MRL", "mrl", 0.75, 0.71, 0.79)], title="t")(340)


def test_the_contents_name_every_section_and_the_numbers_can_be_downloaded() -> None:
    page = render(content(), METRICS, RECORDS)
    anchors = re.findall(r'<li><a href="#([\w-]+)">', page)
    assert anchors == re.findall(r'<section id="([\w-]+)"', page)
    assert page.index('<nav class="contents"') < page.index("<section")
    assert "condition%2Cdistance%2Cf1" in page


CHECKS = """
const seen = {errors: [], wide: document.documentElement.scrollWidth - window.innerWidth, cut: [], faint: []};
const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = node => { for (; node; node = node.parentElement) {
  const found = rgb(getComputedStyle(node).backgroundColor);
  if (found.length === 3 || found[3] > 0) return found;
} return [255, 255, 255]; };
document.querySelectorAll('details').forEach(each => each.open = true);
for (const node of document.querySelectorAll('main *')) {
  const own = [...node.childNodes].some(each => each.nodeType === 3 && each.textContent.trim());
  if (!own || !node.getClientRects().length || node.tagName.toLowerCase() === 'title') continue;
  const style = getComputedStyle(node), svg = node instanceof SVGElement;
  const [a, b] = [light(rgb(svg ? style.fill : style.color)), light(ground(node))].sort((x, y) => y - x);
  const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && +style.fontWeight >= 700);
  if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) seen.faint.push(node.textContent.trim().slice(0, 40));
}
if (PRINTED) for (const each of document.querySelectorAll('.scroll'))
  if (each.scrollWidth > each.clientWidth + 1) seen.cut.push(each.textContent.slice(0, 60));
if (PRINTED) for (const each of document.querySelectorAll('.settings th, .settings td'))
  if (each.clientWidth < 120) seen.cut.push(`${each.clientWidth} wide: ${each.textContent.slice(0, 40)}`);
for (const each of document.querySelectorAll('figure svg text')) {
  const [own, around] = [each, each.closest('figure')].map(node => node.getBoundingClientRect());
  if (own.width && (own.left < around.left || own.right > around.right)) seen.cut.push(each.textContent);
}
const links = [...document.querySelectorAll('nav a')];
seen.links = links.map(each => {
  each.focus();
  return document.activeElement === each && !!document.querySelector(each.getAttribute('href'));
});
parent.document.getElementById('result').textContent = JSON.stringify(seen);
"""


FILTERS = """
const seen = {before: document.querySelector('form.filter').hidden, wrong: [], options: 0};
const form = document.querySelector('form.filter'), rows = [...document.querySelectorAll('#wrong > li')];
document.querySelectorAll('details').forEach(each => each.open = true);
const shown = () => rows.filter(each => each.getClientRects().length).length;
const tell = node => node.dispatchEvent(new Event('input', {bubbles: true}));
for (const select of form.querySelectorAll('select')) {
  select.focus();
  if (document.activeElement !== select || !select.labels.length) seen.wrong.push(select.name);
  for (const option of select.options) {
    select.value = option.value;
    tell(select);
    const count = option.value ? Number(option.text.match(/\\((\\d+)\\)$/)[1]) : rows.length;
    const said = form.querySelector('output').textContent;
    if (shown() !== count || !said.startsWith(`${count} of ${rows.length}`)) seen.wrong.push(option.text);
    seen.options += 1;
  }
  select.value = '';
}
form.elements.words.value = 'NOTHING says THIS';
tell(form.elements.words);
seen.none = shown();
form.reset();
setTimeout(() => {
  seen.again = shown() === rows.length;
  parent.document.getElementById('result').textContent = JSON.stringify(seen);
}, 50);
"""


def looked_at(
    page: str, width: int, folder: Path, *, dark: bool = False, printed: bool = False, checks: str = CHECKS
) -> tuple[dict[str, Any], str]:
    """What a browser finds on the page with a script of checks, `width` pixels wide, and what it says besides."""
    page = page.replace("(prefers-color-scheme: dark)", "all" if dark else "not all").replace(
        "@media print", "@media all" if printed else "@media not all"
    )
    page = page.replace("</body>", f"<script>{checks.replace('PRINTED', str(printed).lower())}</script></body>")
    frame = f'<pre id="result"></pre><iframe width="{width}" height="900" srcdoc="{html.escape(page)}"></iframe>'
    (folder / "frame.html").write_text(f"<!doctype html><meta charset=utf-8>{frame}", encoding="utf-8")
    options = ["--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder / 'chrome'}"]
    command = [str(CHROMIUM), "--headless", *options, "--virtual-time-budget=4000", "--dump-dom", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert result is not None, done.stderr[-2000:]
    assert result[1], done.stderr[-2000:]
    return json.loads(html.unescape(result[1])), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=BROWSER)
@pytest.mark.parametrize(
    ("width", "dark", "printed"),
    [(1280, False, False), (1280, True, False), (390, False, False), (390, True, False), (700, False, True)],
)
def test_a_browser_finds_nothing_wrong(width: int, dark: bool, printed: bool, tmp_path: Path) -> None:
    found, said = looked_at(render(content(), METRICS, RECORDS), width, tmp_path, dark=dark, printed=printed)
    assert found["wide"] <= 0
    assert found["cut"] == []
    assert found["faint"] == []
    assert printed or (all(found["links"]) and len(found["links"]) >= 8)
    assert "CONSOLE" not in said


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=BROWSER)
def test_long_names_of_groups_fit_a_phone(tmp_path: Path) -> None:
    names = ("13 compound coreference", "a rather long name of a group, which goes on", "anything-that-has-no-space-to-break-at")
    row = {"score": 0.5, "low": 0.4, "high": 0.6, "blind": 0.2, "oracle": 1.0, "questions": 9, "conversations": 3, "note": "one at a time"}
    suite = {"name": "own", "measures": "share", "groups": [{"name": name, **row} for name in names], "mean": 0.5, "published": []}
    page = render({"evaluation": summary(0.5), "suite": suite}, (), ())
    assert page.count("one at a time") == 1
    found, _ = looked_at(page, 390, tmp_path)
    assert (found["cut"], found["faint"], found["wide"] <= 0) == ([], [], True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=BROWSER)
def test_wrong_answers_can_be_filtered_in_a_browser(tmp_path: Path) -> None:
    found, said = looked_at(render(content(), METRICS, WRONG), 800, tmp_path, checks=FILTERS)
    assert found == {"before": False, "wrong": [], "options": found["options"], "none": 0, "again": True}
    assert found["options"] > 15
    assert "CONSOLE" not in said


def test_without_a_script_wrong_answers_are_a_plain_list() -> None:
    page = render(content(), METRICS, WRONG)
    assert re.search(r'<form class="filter"[^>]* hidden>', page)
    assert page.count("<li data-kind=") == len(WRONG)
    assert "src=" not in page
