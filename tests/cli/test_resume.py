"""Runs that stop and go on give the same bytes as runs that do not; so do two runs with one seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.cli.pipeline import Pipeline, PipelineConfig
from rxrl.cli.progress import Terminal
from rxrl.cli.quickstart import BUDGETS
from rxrl.config import load_config
from rxrl.models import ReactiveTransformer

SMALLER = (
    "data.test_conversations=3",
    "data.steps=3",
    "stages.pretrain.iterations=2",
    "stages.sft.iterations=2",
    "stages.memory_attention.iterations=2",
    "stages.smat.phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]",
    "mrl.max_iterations=2",
    "mrl.max_answer_tokens=6",
)


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    ours, theirs = (ReactiveTransformer.from_pretrained(folder / "checkpoint").state_dict() for folder in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def interrupt(monkeypatch: pytest.MonkeyPatch, method: str, at: int) -> None:
    """Ctrl+C at the `at`-th call of an observer."""
    calls = []

    def observer(self: Terminal, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Terminal, method, observer)


@pytest.mark.parametrize(("name", "at"), [("smat", 5), ("pretrain", 3), ("pretrain", 1)])
def test_an_interrupted_stage_goes_on_as_if_nothing_had_been(name: str, at: int, run_stage: Any, tmp_path: Path) -> None:
    run_stage(name, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "stage", at)
        run_stage(name, tmp_path / "parted", "--checkpoint-every", 2, code=130)
    assert not (tmp_path / "parted" / "checkpoint").exists()
    run_stage(name, tmp_path / "parted", code=2)
    run_stage(name, tmp_path / "parted", "--checkpoint-every", 2, "--resume")
    assert_same_run(tmp_path / "whole", tmp_path / "parted")


@pytest.mark.parametrize("at", [1, 4, 5])
def test_an_interrupted_training_goes_on_as_if_nothing_had_been(at: int, run_mrl: Any, whole_mrl: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "on_iteration", at)
        run_mrl(tmp_path, code=130)
    run_mrl(tmp_path, code=2)
    run_mrl(tmp_path, "--resume")
    assert_same_run(whole_mrl, tmp_path)


@pytest.fixture(scope="module")
def whole_mrl(run_mrl: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mrl")
    run_mrl(folder)
    return folder


def test_going_on_with_other_settings_is_refused(run_mrl: Any, tmp_path: Path, curriculum: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch, "on_iteration", 3)
        run_mrl(tmp_path, code=130)
    assert "another configuration" in run_mrl(tmp_path, "--resume", "--set", "algorithm.kl=0.5", code=2).stderr
    other = tmp_path / "other.yaml"
    other.write_text(curriculum.read_text().replace("iterations: 3", "iterations: 4"))
    assert "another curriculum" in run_mrl(tmp_path, "--resume", "--curriculum", other, code=2).stderr


def run_pipeline(folder: Path, seed: int) -> bytes:
    config = load_config(BUDGETS / "tiny.yaml", PipelineConfig, [*SMALLER, f"seed={seed}"])
    Pipeline(config, folder, label="tiny").run()
    return (folder / "metrics.jsonl").read_bytes()


def test_one_seed_gives_the_same_metrics_byte_for_byte(tmp_path: Path, invoke: Any) -> None:
    first, second = run_pipeline(tmp_path / "a", 7), run_pipeline(tmp_path / "b", 7)
    assert first == second
    assert b'"phase": "mrl"' in first
    assert run_pipeline(tmp_path / "c", 8) != first
    transcripts = [(tmp_path / name / "evaluation/mrl/transcripts.jsonl").read_bytes() for name in "ab"]
    assert transcripts[0] == transcripts[1]

    # The report can be made again from the run's own files, and a finished run is not overwritten.
    page = (tmp_path / "a" / "report.html").read_text()
    invoke("report", tmp_path / "a")
    assert (tmp_path / "a" / "report.html").read_text() == page
    refused = invoke("quickstart", "--budget", "tiny", "--out", tmp_path / "a", code=2)
    assert "holds a finished run" in refused.stderr
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == first
