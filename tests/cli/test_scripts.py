"""The scripts to copy run as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rxrl.factory import load_checkpoint

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def run_script() -> Any:
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent), "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: object) -> str:
        command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_training_script_then_the_evaluation_script(run_script: Any, checkpoint: Path, curriculum: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = run_script("train_mrl.py", checkpoint, "--curriculum", curriculum, "--episodes", 4, "--iterations", 2, "--out", run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(0 <= line["reward"] <= 10 for line in lines)
    written = shown.splitlines()[-1].removeprefix("Checkpoint: ")
    load_checkpoint(written)

    shown = run_script("evaluate.py", written, "--conversations", 4, "--steps", 3, "--out", tmp_path / "evaluation")
    assert "oracle: 1.0" in shown
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["conversations"] == 4


@pytest.mark.parametrize("name", ["train_mrl.py", "evaluate.py"])
def test_help(name: str, run_script: Any) -> None:
    assert "checkpoint" in run_script(name, "--help")
