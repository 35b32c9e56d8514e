"""Runs side by side: paired within a seed, resampled over seeds, and the same numbers on the page and in the files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from rxrl.errors import ConfigError, DataError
from rxrl.evaluation import Evaluation
from rxrl.evaluation.compare_page import comparison_lines, write_comparison
from rxrl.evaluation.comparing import compare_runs, named_runs
from rxrl.evaluation.play import Playthrough
from tests.evaluation.fakes import record

TALKS = 30


def saved(folder: Path, right: float) -> str:
    """An evaluation in which the first share of the questions of every conversation is answered."""
    records = [record(f"c{talk}", turn, float(turn + talk % 3 <= 12 * right)) for talk in range(TALKS) for turn in range(1, 11)]
    Evaluation.of({"true": Playthrough(records)}, seed=0, resamples=10).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("runs")
    small = [saved(root / f"small-seed{seed}", 0.4 + 0.05 * seed) for seed in range(3)]
    return small + [saved(root / "large" / f"seed-{seed}", 0.8 + 0.05 * seed) for seed in range(3)]


def test_folders_that_differ_in_their_seed_alone_are_one_variant(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("a-seed0", "a_seed12", "b/seed-3", "plain")]
    found = named_runs([*map(str, names), f"mine={tmp_path / 'c-seed4'}"])
    assert [(each.variant, each.seed) for each in found] == [("a", 0), ("a", 12), ("b", 3), ("plain", None), ("mine", 4)]
    assert found[-1].folder == tmp_path / "c-seed4"


def test_variants_are_compared_over_seeds_and_within_each(runs: list[str]) -> None:
    found = compare_runs(runs, resamples=300)
    assert found["variants"] == ["small", "large"]
    measure = found["measures"]["retention_at_16"]
    scores = {variant: list(each.values()) for variant, each in measure["scores"].items()}
    assert [len(each) for each in scores.values()] == [3, 3]
    small, large = (measure["by_variant"][name] for name in ("small", "large"))
    assert small["iqm"] == pytest.approx(sum(scores["small"]) / 3)
    assert large["difference"]["value"] == pytest.approx(large["iqm"] - small["iqm"])
    low, high = large["difference"]["interval"]
    assert 0 < low <= large["difference"]["value"] <= high
    assert large["probability"] == {"value": 1.0, "interval": [1.0, 1.0]}
    assert [pair["seed"] for pair in large["paired"]] == [0, 1, 2]
    for pair, ours, theirs in zip(large["paired"], scores["large"], scores["small"], strict=True):
        assert pair["difference"] == pytest.approx(ours - theirs)
        assert pair["low"] <= pair["difference"] <= pair["high"]
        assert (pair["turns"], pair["conversations"]) == (TALKS * 10, TALKS)
    assert "difference" not in small


def test_two_single_runs_are_paired_and_say_nothing_of_seeds(runs: list[str]) -> None:
    found = compare_runs([runs[0], runs[5]], resamples=300)
    large = found["measures"]["retention"]["by_variant"]["large"]
    assert large["interval"] is large["difference"]["interval"] is large["probability"]["interval"] is None
    assert len(large["paired"]) == 1
    [sentence] = [line for line in comparison_lines(found) if line.startswith("large is above small")]
    assert "one seed each; paired 95 % interval over conversations" in sentence


def test_single_runs_on_other_conversations_differ_by_what_they_share(tmp_path: Path) -> None:
    for name, talks, right in (("less", range(20), 0.0), ("more", range(10, 40), 1.0)):
        # Only the conversations 10 to 19 were played by both, and there all answers are equally good.
        records = [record(f"c{talk}", turn, 0.5 if talk in range(10, 20) else right) for talk in talks for turn in range(1, 5)]
        Evaluation.of({"true": Playthrough(records)}, seed=0, resamples=10).save(tmp_path / name)
    found = compare_runs([str(tmp_path / "less"), str(tmp_path / "more")], resamples=100)
    assert found["measures"]["retention"]["by_variant"]["more"]["difference"]["value"] > 0.5
    expected = "more and less cannot be told apart: 0.000 (one seed each; paired 95 % interval over conversations 0.000 to 0.000)."
    assert expected in comparison_lines(found)


def test_runs_that_do_not_differ_are_said_to_be_alike(runs: list[str], tmp_path: Path) -> None:
    again = saved(tmp_path / "again-seed0", 0.4)
    lines = comparison_lines(compare_runs([runs[0], again], resamples=100))
    assert any("again and small cannot be told apart" in line for line in lines)


def test_page_and_tables_hold_the_same_numbers(runs: list[str], tmp_path: Path) -> None:
    found = compare_runs(runs, resamples=300)
    page = write_comparison(found, tmp_path).read_text()
    assert not re.search(r"https?:|<script", page)
    assert json.loads((tmp_path / "compare.json").read_text()) == json.loads(json.dumps(found))
    rows = list(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    [large] = [row for row in rows if row["measure"] == "retention_at_16" and row["variant"] == "large"]
    exact = found["measures"]["retention_at_16"]["by_variant"]["large"]
    assert float(large["iqm"]) == exact["iqm"]
    assert float(large["difference_low"]) == exact["difference"]["interval"][0]
    shown = f"{exact['difference']['value']:.3f} ({exact['difference']['interval'][0]:.3f} to {exact['difference']['interval'][1]:.3f})"
    for name in ("compare.html", "compare.md", "compare.tex"):
        assert shown in (tmp_path / name).read_text()
    # All turns are those of 16-turn episodes here: what says the same is shown once.
    assert page.count("Retention at 16 turns</h2>") + page.count("Retention, all asking turns</h2>") == 1


def test_what_cannot_be_compared_is_refused(runs: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least two runs"):
        compare_runs(runs[:1])
    with pytest.raises(ConfigError, match="second run of 'small' with the seed 0"):
        compare_runs([runs[0], runs[0]])
    plain = saved(tmp_path / "plain", 0.4)
    for twice in ([plain, plain], [f"a={plain}", f"a={plain}/../plain"]):
        with pytest.raises(ConfigError, match="plain is named twice"):
            compare_runs(twice)
    for empty in ("a=", f"={plain}", ""):
        with pytest.raises(ConfigError, match="Expected a folder"):
            compare_runs([plain, empty])
    with pytest.raises(DataError, match="no folder"):
        compare_runs([runs[0], str(tmp_path / "none")])
