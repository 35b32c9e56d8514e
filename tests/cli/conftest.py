"""Tiny settings for the commands, and a checkpoint to start from, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rxrl.cli import main as cli

Invoke = Callable[..., Any]

TINY = ("batch_tokens=300", "validation_rows=4", "validate_every=2", "log_every=1")
STAGE_SETTINGS = {
    "pretrain": ("iterations=3", *TINY),
    "sft": ("iterations=3", *TINY),
    "memory-attention": ("iterations=3", "steps=2", *TINY),
    "smat": ("phases=[{steps: 1, iterations: 3}, {steps: 2, iterations: 3}]", *TINY),
}
CURRICULUM = """\
name: tiny
defaults: {iterations: 3}
stages: [{steps: 2}, {steps: 3, strategy: {multi-step: 1, long-range: 1}, earlier_share: 0.25, reset_ratio: 0.5}]
"""
MRL_SETTINGS = ("episodes=4", "evaluation.every=2", "evaluation.conversations=4", "checkpoint_every=2", "max_answer_tokens=6")


def settings(assignments: tuple[str, ...]) -> list[str]:
    """Assignments as `--set` options."""
    return [part for assignment in assignments for part in ("--set", assignment)]


@pytest.fixture(scope="session")
def invoke() -> Invoke:
    """Runs `rxrl ...` in this process."""

    def run(*arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="rxrl")
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return run


@pytest.fixture(scope="session")
def run_stage(invoke: Invoke) -> Invoke:
    """Runs one stage with tiny settings; returns the folder of its checkpoint."""

    def run(name: str, out: Path, *options: object, code: int = 0) -> Path:
        invoke("stage", name, "--out", out, *settings(STAGE_SETTINGS[name]), *options, code=code)
        return out / "checkpoint"

    return run


@pytest.fixture(scope="session")
def checkpoint(run_stage: Invoke, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has seen a few steps of memory-aware training."""
    return run_stage("smat", tmp_path_factory.mktemp("smat"))


@pytest.fixture(scope="session")
def curriculum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curriculum of two short stages."""
    path = tmp_path_factory.mktemp("curriculum") / "tiny.yaml"
    path.write_text(CURRICULUM)
    return path


@pytest.fixture(scope="session")
def run_mrl(invoke: Invoke, checkpoint: Path, curriculum: Path) -> Invoke:
    """Runs `rxrl train` with tiny settings."""

    def run(out: Path, *options: object, start: Path = checkpoint, code: int = 0) -> Any:
        return invoke("train", "--from", start, "--curriculum", curriculum, "--out", out, *settings(MRL_SETTINGS), *options, code=code)

    return run
