"""Figures for papers hold the numbers that they are of, and say which extra they need."""

from __future__ import annotations

import sys

import pytest

from rxrl.errors import MissingExtraError
from rxrl.evaluation import Evaluation
from rxrl.evaluation.figures import forgetting_figure, retention_figure
from rxrl.evaluation.play import Playthrough
from tests.evaluation.fakes import record


def evaluation() -> Evaluation:
    records = [record(f"c{talk}", turn, float(turn < 9), distance=turn) for talk in range(5) for turn in range(1, 17)]
    return Evaluation.of({"true": Playthrough(records)}, seed=0, resamples=20)


def test_the_curve_is_that_of_the_evaluation(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `figures`")
    figure = retention_figure({"mine": evaluation()})
    [axes] = figure.axes
    line = axes.lines[0]
    assert line.get_label() == "mine"
    assert list(line.get_ydata()) == [float(distance < 9) for distance in range(1, 17)]
    figure.savefig(tmp_path / "figure.pdf")
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_the_matrix_is_that_of_the_probe(tmp_path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `figures`")
    figure = forgetting_figure({"forgetting": [[1.0, 0.5], [None, 0.25]]})
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.filled(-1).tolist() == [[1.0, 0.5], [-1.0, 0.25]]
    figure.savefig(tmp_path / "figure.png")


def test_without_matplotlib_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"rxrl\[figures\]"):
        retention_figure({"mine": evaluation()})
