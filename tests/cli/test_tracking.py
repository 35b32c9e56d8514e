"""Weights & Biases gets every line of metrics when asked, and is not needed otherwise."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest


class FakeWandb:
    """What we use of the package, in memory."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []
        self.finished = False

    def init(self, **options: Any) -> FakeWandb:
        self.started = options
        return self

    def define_metric(self, *names: str, **options: str) -> None:
        pass

    def log(self, line: dict[str, Any], step: int | None = None) -> None:
        assert step is None, "its own step drops what a resumed run sends again"
        self.lines.append(line)

    def finish(self) -> None:
        self.finished = True


def test_every_line_reaches_the_tracker(run_mrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run_mrl(tmp_path, "--wandb", "offline", "--set", "tracking.project=mine")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (fake.started["mode"], fake.started["project"], fake.started["config"]["episodes"]) == ("offline", "mine", 4)
    assert [line["mrl/reward"] for line in fake.lines] == [line["reward"] for line in lines]
    assert fake.finished


def test_a_missing_package_is_said_before_anything_is_written(run_mrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'rxrl[wandb]'" in run_mrl(tmp_path / "run", "--wandb", "offline", code=2).stderr
    assert not (tmp_path / "run").exists()
    run_mrl(tmp_path / "run")
