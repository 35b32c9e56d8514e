"""Runs that stop and go on give the same bytes as runs that do not; so do two runs with one seed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.cli.progress import Terminal
from rxrl.config import load_config
from rxrl.evaluation import read_report
from rxrl.models import ReactiveTransformer
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig
from rxrl.training.callbacks import Callback, Progress

pytestmark = pytest.mark.slow

SMALLER = (
    "data.test_conversations=3",
    "data.steps=3",
    "stages.pretrain.iterations=2",
    "stages.sft.iterations=2",
    "stages.memory_attention.iterations=2",
    "stages.smat.phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]",
    "mrl.max_iterations=2",
    "mrl.max_answer_tokens=6",
    "interactive=null",
)
WITH_SECOND = (
    *SMALLER[:-1],
    "smat_continued=false",
    "interactive.data.test_conversations=3",
    "interactive.stages.smat.phases=[{steps: 2, iterations: 2}]",
    "interactive.mrl.max_answer_tokens=6",
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
        interrupt(patch, "on_iteration", at)
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
    config = load_config(BUDGETS["tiny"], PipelineConfig, [*SMALLER, f"seed={seed}"])
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


class Cut(Exception):
    """Ends a run from outside, as a killed process would."""


def cut_pipeline(folder: Path, observed: int | None, iteration: int | None) -> None:
    """Ends the main job at a line of a supervised stage's metrics, or at an iteration of MRL."""
    lines = []

    class Stop(Callback):
        def on_iteration(self, progress: Progress) -> None:
            mrl = progress.stage is not None
            lines.extend([progress] * (not mrl))
            if (mrl and progress.iteration == iteration) or (not mrl and len(lines) == observed):
                raise Cut

    config = load_config(BUDGETS["tiny"], PipelineConfig, [*SMALLER, "seed=7"])
    with pytest.raises(Cut):
        Pipeline(config, folder, label="tiny", callbacks=(Stop(),)).run()


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    run_pipeline(folder, 7)
    return folder


@pytest.mark.parametrize(("observed", "iteration"), [(1, None), (4, None), (5, None), (None, 1)])
def test_the_main_job_goes_on_after_the_last_checkpoint(
    observed: int | None, iteration: int | None, whole_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rxrl.pipeline.job.CHECKPOINT_EVERY", 1)
    cut_pipeline(tmp_path, observed, iteration)
    config = load_config(BUDGETS["tiny"], PipelineConfig, [*SMALLER, "seed=7"])
    Pipeline(config, tmp_path, label="tiny").run(resume=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole_job / "metrics.jsonl").read_bytes()
    for name in ("smat", "smat-continued"):
        ours, theirs = (ReactiveTransformer.from_pretrained(folder / "checkpoints" / name).state_dict() for folder in (tmp_path, whole_job))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert (tmp_path / "evaluation/mrl/transcripts.jsonl").read_bytes() == (whole_job / "evaluation/mrl/transcripts.jsonl").read_bytes()


def test_the_second_job_goes_on_and_stands_in_the_report(tmp_path: Path) -> None:
    mrl: list[Progress] = []

    class Stop(Callback):
        def on_iteration(self, progress: Progress) -> None:
            mrl.extend([progress] * (progress.stage is not None))
            if len(mrl) == 4:  # The first job has two.
                raise Cut

    config = load_config(BUDGETS["tiny"], PipelineConfig, [*WITH_SECOND, "seed=7", "interactive.mrl.checkpoint_every=1"])
    Pipeline(config, tmp_path / "whole").run()
    with pytest.raises(Cut):
        Pipeline(config, tmp_path / "parted", callbacks=(Stop(),)).run()
    Pipeline(config, tmp_path / "parted").run(resume=True)
    for name in ("metrics.jsonl", "evaluation/mrl/transcripts.jsonl"):
        assert (tmp_path / "parted/interactive" / name).read_bytes() == (tmp_path / "whole/interactive" / name).read_bytes()
    first, second = (read_report(tmp_path / name) for name in ("whole", "parted"))
    assert first["scenarios"] == second["scenarios"] == read_report(tmp_path / "whole/interactive")["scenarios"]
    assert first["data"] == second["data"]
    assert [each["use"] for each in first["data"]] == ["training", "validation", "test", "evaluation"]
    found = first["scenarios"]["preferences"]
    assert {"before", "after", "blind", "best", "share", "by_turn", "empty_memory", "swapped_memory"} <= found.keys()
    assert found["best"] > 0
    assert len(found["by_turn"]) == 4
    assert "A user who reacts: preferences" in (tmp_path / "whole/report.html").read_text()


def test_quickstart_goes_on_only_with_the_same_settings(tmp_path: Path, invoke: Any) -> None:
    cut_pipeline(tmp_path / "run", 1, None)
    refused = invoke("quickstart", "--budget", "tiny", "--out", tmp_path / "run", "--resume", code=2)
    assert "unfinished run with other settings" in refused.stderr
    settings = [part for each in SMALLER for part in ("--set", each)]
    done = invoke("quickstart", "--budget", "tiny", "--out", tmp_path / "run", "--seed", 7, "--resume", *settings)
    assert "Report: " in done.stdout
    assert not list(tmp_path.glob("run.unfinished*"))


def test_a_mistake_in_the_settings_moves_no_unfinished_run(tmp_path: Path, invoke: Any) -> None:
    cut_pipeline(tmp_path / "run", 1, None)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for mistake in (("--data", tmp_path / "missing.jsonl"), ("--set", "interactive={budget: 'scenario:missing.py:Thing'}")):
        assert "missing" in invoke("quickstart", "--budget", "tiny", "--out", tmp_path / "run", *mistake, code=2).stderr
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_a_terminated_command_leaves_a_checkpoint_and_its_own_exit_code(run_mrl: Any, whole_mrl: Path, tmp_path: Path) -> None:
    """As `kill` or a cluster's scheduler ends it; the signal comes in the middle of an iteration."""
    collected = []

    class Ended(Terminal):
        def on_rollout(self, rollout: Any) -> None:
            collected.append(rollout)
            if len(collected) == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rxrl.cli.train.Terminal", Ended)
        ended = run_mrl(tmp_path, code=143)
    assert "SIGTERM: finishing this iteration" in ended.stdout
    assert "Interrupted after iteration 3" in ended.stderr
    run_mrl(tmp_path, "--resume")
    assert_same_run(whole_mrl, tmp_path)


def test_a_command_can_stop_on_an_alarm(run_mrl: Any, tmp_path: Path) -> None:
    stopped = run_mrl(tmp_path, "--stop-on-alarm", "--set", "alarms.gate=0.49", code=2)
    assert "Alarm gate: The gates of memory attention are saturated" in " ".join(stopped.stdout.split())
    assert "Stopped by the alarm 'gate'" in stopped.stderr
    assert (tmp_path / "checkpoints" / "step-000001").is_dir()
