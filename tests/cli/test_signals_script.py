"""scripts/signals.py: each row can be trained, and the table of what is finished."""

from __future__ import annotations

from pathlib import Path

import pytest

from references import SMAT, START, folder_of, transcripts
from rxrl.config import load_config
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation.records import write_records
from rxrl.pipeline import BUDGETS, PipelineConfig
from rxrl.training.config import MRLConfig
from signals import BASE, KIND, RATES, ROWS, run_signals, signals_table
from tests.evaluation.fakes import record


def test_each_row_names_signals_that_exist_and_differs_from_the_others() -> None:
    mrl = load_config(BUDGETS["default"], PipelineConfig, []).mrl.model_dump()
    found = {name: MRLConfig.model_validate(mrl | {"signals": {"reward": 0} | signals}).signals for name, signals in ROWS.items()}
    assert all(one != other for name, one in found.items() for other_name, other in found.items() if name != other_name)
    assert set(RATES) <= set(ROWS)
    assert {name for name, signals in found.items() if signals["reward"].coefficient} == {name for name in ROWS if name.endswith("reward")}
    paths = {transcripts(folder_of(Path(), KIND, 0, name), name) for name in (SMAT, *ROWS)}
    assert len(paths) == len(ROWS) + 1


def test_the_table_pairs_each_row_with_supervision_and_with_the_references_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("seed: 3\n")
    for name, retention in {START: 0.25, SMAT: 0.75, BASE: 0.5, "reference, probes": 1.0}.items():
        place = folder_of(tmp_path, "" if name == START else KIND, 3, name)
        write_records(transcripts(place, name), [record(f"c{number}", retention=retention) for number in range(3)])
    head, _, *rows = signals_table([tmp_path / "run"], tmp_path)
    assert head == "| signals | seed 3 | mean | minus SMAT continued, paired | minus reference, paired |"
    assert rows == [
        "| start | 0.250 | 0.250 |  |  |",
        "| SMAT continued | 0.750 | 0.750 |  |  |",
        "| reference | 0.500 | 0.500 | -0.250 [-0.250, -0.250] |  |",
        "| reference, probes | 1.000 | 1.000 | +0.250 [+0.250, +0.250] | +0.500 [+0.500, +0.500] |",
    ]


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        run_signals([tmp_path / "nowhere"], tmp_path, (), print)


def test_runs_of_one_seed_do_not_share_their_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 3\n")
    with pytest.raises(DataError, match=r"/a and .*/b both have seed 3: give runs of different seeds"):
        signals_table([tmp_path / "a", tmp_path / "b"], tmp_path)
