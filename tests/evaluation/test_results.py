"""What a run left is at hand in Python: short to print, as a data frame, as LaTeX."""

from __future__ import annotations

import re

import pytest

import rxrl
from rxrl.errors import CheckpointError, DataError
from rxrl.evaluation import CONTROLS, Evaluation, evaluate
from rxrl.evaluation.frames import COLUMNS
from rxrl.evaluation.tables import csv_text, latex, markdown
from rxrl.types import Score
from tests.evaluation.fakes import Reader, WordCodec, conversations, environment, record


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    played, codec = conversations(12), WordCodec()
    return evaluate(environment(played, codec, 4), Reader(codec), played, seed=1, controls=CONTROLS, resamples=50)


def of(records: list) -> Evaluation:
    from rxrl.evaluation.play import Playthrough

    return Evaluation.of({"true": Playthrough(records)}, seed=0, resamples=10)


def test_an_evaluation_prints_in_ten_lines(evaluation: Evaluation) -> None:
    text = repr(evaluation)
    assert len(text) < 1000
    assert len(text.splitlines()) <= 10
    assert "12 conversations" in text
    for label, mean in (("retention at 16 turns", evaluation.summary["retention_at_16"]), ("chance", evaluation.controls["chance"])):
        assert re.search(rf"{label} +{mean:.3f}", text)


def test_notebooks_get_a_table_with_everything_escaped() -> None:
    shown = of([record("<b>", 1, 1.0)])
    shown.scenarios["<script>"] = {"score": 1.0, "interval": [0.5, 1.5]}
    html = shown._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<tr>") == html.count("</tr>") >= 4


def test_a_data_frame_has_a_row_for_each_turn_and_the_columns_that_are_documented(evaluation: Evaluation) -> None:
    frame = evaluation.to_pandas()
    assert list(frame.columns) == [*COLUMNS, *(f"term_{name}" for name in ("form", "gate", "held"))]
    assert len(frame) == len(evaluation.records) == 12 * 16
    assert frame.retention.mean() == pytest.approx(evaluation.summary["retention"])
    asked = frame[frame.asking]
    assert (asked.exact == (asked.retention > 1 - 1e-9)).all()
    assert frame[~frame.asking].retention.isna().all()
    first = evaluation.records[0].turn
    assert tuple(frame.loc[0, ["query", "answer", "turn"]]) == (first.query, first.answer, first.index)


def test_controls_follow_in_the_frame_where_they_are_asked_for(evaluation: Evaluation) -> None:
    frame = evaluation.to_pandas(controls=True)
    assert set(frame.condition) == {"true", *CONTROLS}
    means = frame.groupby("condition").retention.mean()
    assert means["swapped_memory"] == pytest.approx(evaluation.controls["swapped_memory"]["retention"])


def test_values_that_are_missing_everywhere_keep_their_type() -> None:
    frame = of([record("a", 1, None, terms={"form": None}), record("b", 1, None, reward=None)]).to_pandas()
    types = {name: str(frame[name].dtype) for name in ("distance", "retention", "exact", "reward", "outcome", "term_form")}
    assert types == {"distance": "Int64", "exact": "boolean"} | dict.fromkeys(("retention", "reward", "outcome", "term_form"), "float64")
    assert frame.isna()[["distance", "retention", "exact", "outcome"]].all().all()


def test_an_outcome_of_a_scenario_has_a_column() -> None:
    assert of([record("a", 1, None, outcome=Score(7.5))]).to_pandas().outcome.tolist() == [7.5]


def test_what_was_saved_is_read_back(evaluation: Evaluation, tmp_path) -> None:
    evaluation.save(tmp_path / "run")
    found = rxrl.load_run(tmp_path / "run").evaluation
    assert list(found.records) == list(evaluation.records)
    assert found.control_records.keys() == evaluation.control_records.keys()
    assert repr(found) == repr(evaluation)
    assert found.cost == evaluation.cost


def test_controls_of_an_earlier_evaluation_are_not_read_with_a_later_one(evaluation: Evaluation, tmp_path) -> None:
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path).control_records
    of(list(evaluation.records)).save(tmp_path)
    assert not Evaluation.load(tmp_path).control_records


def test_a_run_gives_configuration_metrics_evaluation_and_checkpoint(evaluation: Evaluation, tmp_path) -> None:
    for name in ("supervised", "mrl"):
        evaluation.save(tmp_path / "evaluation" / name)
    (tmp_path / "config.yaml").write_text("seed: 3\nmrl: {epochs: 2}\n")
    (tmp_path / "metrics.jsonl").write_text('{"phase": "sft", "loss": 2.0}\n{"phase": "mrl", "reward": 5.0}\n{"cut')
    (tmp_path / "timings.jsonl").write_text('{"phase": "sft", "tokens_per_second": 900.0}\n{"phase": "mrl", "update": 0.5}\n')
    run = rxrl.load_run(tmp_path)
    assert run.config == {"seed": 3, "mrl": {"epochs": 2}}
    assert run.timings.tokens_per_second[0] == 900.0
    assert run.timings.phase.tolist() == run.metrics.phase.tolist()
    assert run.metrics.loss[0] == 2.0
    assert run.metrics.reward.isna().tolist() == [True, False]
    assert list(run.evaluation_folders) == ["mrl", "supervised"]
    assert run.evaluation.summary["conversations"] == 12
    assert "2 rows of metrics, no checkpoint, evaluations: mrl, supervised" in repr(run)
    with pytest.raises(CheckpointError):
        run.load()


def test_a_folder_without_a_run_is_refused_and_a_missing_evaluation_says_how_to_make_one(tmp_path) -> None:
    with pytest.raises(DataError, match="There is no folder"):
        rxrl.load_run(tmp_path / "none")
    with pytest.raises(DataError, match="neither a run nor an evaluation"):
        rxrl.load_run(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    assert rxrl.load_run(tmp_path).timings.empty
    with pytest.raises(DataError, match="rxrl evaluate"):
        _ = rxrl.load_run(tmp_path).evaluation


def test_tables_escape_what_their_format_would_read_as_a_command() -> None:
    header, rows = ("name", "n"), [("a_b & 50 % {x} \\", "−1"), ("p|q\nr", "2")]
    assert r"a\_b \& 50 \% \{x\} \textbackslash{} & $-$1 \\" in latex(header, rows)
    assert latex(header, rows).startswith("\\begin{tabular}{lr}\n")
    assert latex(header, rows, caption="100 %", label="tab:a").splitlines()[2:4] == [r"\caption{100 \%}", r"\label{tab:a}"]
    assert markdown(header, rows).splitlines()[1:] == ["|---|---:|", "| a_b & 50 % {x} \\ | −1 |", r"| p\|q r | 2 |"]
    assert csv_text(header, [("a,b", 0.1)]) == 'name,n\n"a,b",0.1\n'
