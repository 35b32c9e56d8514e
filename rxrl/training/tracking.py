"""Metrics to JSONL, always; to a tracker such as wandb where asked; progress to the terminal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from rxrl.errors import MissingExtraError
from rxrl.training.config import TrackingConfig

METRICS_FILE, TIMINGS_FILE = "metrics.jsonl", "timings.jsonl"


class MetricsLog:
    """Appends one JSON object a line to `metrics.jsonl`.

    Times go to `timings.jsonl`, so that two runs with one seed write the same `metrics.jsonl`, byte for byte.
    """

    def __init__(self, folder: str | Path, trackers: tuple[Tracker, ...] = ()) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.trackers = trackers
        self._started = time.perf_counter()

    def write(self, metrics: Mapping[str, Any], times: Mapping[str, float] | None = None) -> None:
        """Writes one line of metrics (tensors become numbers, floats keep 6 significant digits) and one of times."""
        plain = {key: _plain(value) for key, value in metrics.items()}
        _append(self.folder / METRICS_FILE, plain)
        label = {key: plain[key] for key in ("phase", "stage", "iteration") if key in plain}
        seconds = {key: round(value, 4) for key, value in (times or {}).items()}
        _append(self.folder / TIMINGS_FILE, label | {"elapsed": round(time.perf_counter() - self._started, 3)} | seconds)
        for tracker in self.trackers:
            tracker.log(plain)

    def position(self) -> int:
        """Bytes of `metrics.jsonl` so far."""
        path = self.folder / METRICS_FILE
        return path.stat().st_size if path.exists() else 0

    def rewind(self, position: int) -> None:
        """Cuts `metrics.jsonl` back to a position that a checkpoint has noted."""
        path = self.folder / METRICS_FILE
        if path.exists():
            os.truncate(path, position)

    def close(self) -> None:
        """Closes the trackers."""
        for tracker in self.trackers:
            tracker.finish()


class Tracker:
    """Where metrics go besides the JSONL file."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Takes one line of metrics."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ends the run."""


def open_trackers(config: TrackingConfig, folder: Path, run: Mapping[str, Any]) -> tuple[Tracker, ...]:
    """The trackers that a run asks for.

    Args:
        config: Which.
        folder: Folder of the run; offline files go below it.
        run: Configuration that the trackers show.

    Raises:
        MissingExtraError: The tracker is not installed.
    """
    if config.wandb == "off":
        return ()
    return (WandbTracker(config.project, folder, run, mode=config.wandb),)


class WandbTracker(Tracker):
    """Weights & Biases; `mode="offline"` needs no key and no network."""

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], mode: str = "offline") -> None:
        try:
            import wandb  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("Tracking with wandb", "wandb") from None
        self._run = wandb.init(project=project, dir=str(folder), config=dict(config), mode=cast(Any, mode))
        self._run.define_metric("*", step_metric="line")
        self._line = 0

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Logs numbers under `phase/name`, with our own line number as the step."""
        phase = metrics.get("phase", "run")
        numbers = {f"{phase}/{key}": value for key, value in metrics.items() if isinstance(value, int | float)}
        self._run.log(numbers | {"line": self._line})
        self._line += 1

    def finish(self) -> None:
        """Ends the wandb run."""
        self._run.finish()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`; empty where there is none."""
    path = Path(folder) / METRICS_FILE
    return [json.loads(line) for line in path.read_text().splitlines() if line] if path.exists() else []


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value
