"""The programs of examples/ that take a checkpoint and those of scripts/ run as they are."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rxrl.factory import load_checkpoint
from scripts import learning
from scripts.learning import ALGORITHMS, TASKS, RecallSource, Run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run_script() -> Any:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: object) -> str:
        command = [sys.executable, str(ROOT / name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_training_script_then_the_evaluation_script(run_script: Any, checkpoint: Path, curriculum: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shown = run_script("examples/train_mrl.py", checkpoint, "--curriculum", curriculum, "--episodes", 4, "--iterations", 2, "--out", run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert all(0 <= line["reward"] <= 10 for line in lines)
    written = shown.splitlines()[-1].removeprefix("Checkpoint: ")
    load_checkpoint(written)

    shown = run_script("examples/evaluate.py", written, "--conversations", 4, "--steps", 3, "--out", tmp_path / "evaluation")
    assert "oracle: 1.0" in shown
    assert json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["conversations"] == 4


@pytest.mark.parametrize("name", ["examples/train_mrl.py", "examples/evaluate.py"])
def test_help(name: str, run_script: Any) -> None:
    assert "checkpoint" in run_script(name, "--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("examples/train_mrl.py", "nowhere"), "There is no checkpoint nowhere"),
        (("examples/evaluate.py", "nowhere"), "There is no checkpoint nowhere"),
        (("scripts/language.py", "nowhere", "nowhere"), "There is no file nowhere/store.json"),
        (("scripts/results.py", "runs", "nowhere"), "report.json is no report of a finished `rxrl quickstart`"),
        (("scripts/results.py", "wrong-references", "nowhere"), "There is no checkpoint nowhere/checkpoints/smat"),
    ],
)
def test_mistakes_get_one_sentence(arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", list(arguments))
    monkeypatch.syspath_prepend(ROOT / "scripts")
    with pytest.raises(SystemExit, match=f"^Error: .*{message}"):
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


def test_a_training_without_episodes_gets_one_sentence(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_mrl.py", str(checkpoint), "--episodes", "0"])
    with pytest.raises(SystemExit, match=r"^Error: the arguments: episodes: expected a number greater than or equal to 1, got 0\.$"):
        runpy.run_path(str(ROOT / "examples/train_mrl.py"), run_name="__main__")


def keep(out: Path, *runs: Run) -> None:
    for run in runs:
        learning.path_of(out, *run[:4]).write_text(json.dumps(run._asdict()))


def rows_of(table: str, task: str) -> dict[str, list[str]]:
    """Cells of one task's table by the first one of their row."""
    part = table.split(f"Asked {task} ")[1].split("\nAsked ", maxsplit=1)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("| ")]
    return {first: cells for first, *cells in lines}


@pytest.mark.slow
def test_language_is_measured_beside_n_grams(run_script: Any, invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    for name, texts in (("train", ["Mia has a cat.", "Tom has a cat."] * 20), ("held-out", ["Ann has a cat.", "Ben has a cat."])):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        invoke("data", "tokenize", file, tmp_path / name, "--tokenizer", checkpoint)
    shown = run_script("scripts/language.py", tmp_path / "train", tmp_path / "held-out", checkpoint)
    assert "Held out: 2 texts" in shown
    cells = {first.strip(): [float(cell.strip(" %")) for cell in rest if cell.strip(" |")] for first, *rest in table_of(shown)}
    (right, bits), (better, fewer) = cells["unigram"], cells["trigram"]
    assert right < better
    assert fewer < bits
    masked, following, model_bits = cells[str(checkpoint)]
    assert 0 <= masked <= 100
    assert 0 <= following <= 100
    assert model_bits > fewer, "a model of a few steps knows less than all there is to know"


def table_of(shown: str) -> list[list[str]]:
    """Cells of the rows of a Markdown table, without its head."""
    return [line.strip("|").split("|") for line in shown.splitlines() if line.startswith("|")][2:]


@pytest.mark.slow
def test_the_table_of_does_it_learn_has_every_run_in_its_place(run_script: Any, tmp_path: Path) -> None:
    keep(
        tmp_path,
        Run("at once", "impo", "all", 0, start=0.0, end=1.0, empty_memory=0.5, reached=15),
        Run("at once", "rloo", "all", 0, start=0.0, end=0.75, empty_memory=0.5, reached=20),
        Run("at once", "impo", "1", 2, start=0.5, end=0.95, empty_memory=0.5, reached=50),
        Run("later", "impo", "1", 2, start=0.25, end=0.5, empty_memory=0.5, reached=None),
    )
    shown = run_script("scripts/results.py", "learn", "--table", "--out", tmp_path, "--seeds", 0, 2)
    once, later = (rows_of(shown, task) for task in TASKS)
    assert once[""] == ["bptt_turns all: seed 0", "bptt_turns all: seed 2", "bptt_turns 1: seed 0", "bptt_turns 1: seed 2"]
    assert once["impo"] == ["0.00 to 1.00 (15)", "", "", "0.50 to 0.95 (50)"]
    # What was reached once and lost again is not learned.
    assert once["rloo"] == ["**0.00 to 0.75** (20)", "", "", ""]
    assert later["impo"] == ["", "", "", "**0.25 to 0.50** (never)"]
    assert once["learned"] == ["1 of 2", "", "1 of 1", ""]
    assert later["learned"] == ["0 of 0", "", "0 of 1", ""]
    assert [*once] == [*later] == ["", *ALGORITHMS, "learned"]


def test_does_it_learn_runs_what_is_missing_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [missing, *there] = [Run(*key, start=0.0, end=1.0, empty_memory=0.5, reached=5) for key in learning.wanted([3])]
    keep(tmp_path, *there)
    trained = []
    monkeypatch.setattr(learning, "train", lambda *key, folder: trained.append(key) or missing)
    for _ in range(2):
        learning.run_learning(tmp_path, [3], say=lambda text: None)
    assert trained == [missing[:4]]
    assert learning.read_runs(tmp_path, [3]) == [missing, *there]


def test_a_fact_is_asked_for_after_the_small_talk_and_the_words_are_known() -> None:
    for task in TASKS.values():
        for one in RecallSource(2, task.quiet).take(steps=task.steps, strategy="multi-step", start=3, count=4):
            [(_, pet)] = one.first.facts
            told = [each.asks for each in one.follow_ups]
            assert told == [()] * task.quiet + [("ann.pet",)] * (task.steps - task.quiet)
            assert {each.answer for each in one.follow_ups if each.asks} == {pet}
            for each in one.interactions:
                assert learning.CODEC.decode(learning.CODEC.encode(each.query)) == each.query
