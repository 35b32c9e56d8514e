"""Metrics to JSONL, always; to trackers such as wandb and TensorBoard where asked; the time that each phase takes."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field

from rxrl.config import BaseConfig
from rxrl.errors import MissingExtraError
from rxrl.reading import whole_objects
from rxrl.types import Action, Policy, TokenBatch
from rxrl.writing import append_line, cut, flush, json_text

METRICS_FILE, TIMINGS_FILE = "metrics.jsonl", "timings.jsonl"
_logger = logging.getLogger(__name__)


class TrackingConfig(BaseConfig):
    """Trackers that receive metrics in addition to `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = Field("off", description="Weights & Biases.")
    project: str = Field("rxrl", description="Project name there.")
    tensorboard: bool = Field(False, description="TensorBoard event files in the folder of the run.")


class Clock:
    """Adds up the seconds of named phases; work still queued on a GPU at the end of a phase counts towards it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what runs inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Returns the seconds so far and starts again."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class TimedPolicy:
    """A policy whose answers are timed as `collect/generate`."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self.policy, self.clock = policy, clock

    def act(self, observation: TokenBatch, memory: Any, generators: Sequence[torch.Generator] | None) -> Action:
        """Answers of the policy."""
        with self.clock("collect/generate"):
            return self.policy.act(observation, memory, generators)


class MetricsLog:
    """Appends one JSON object a line to `metrics.jsonl`.

    Times go to `timings.jsonl`, so that two runs with one seed write the same `metrics.jsonl`, byte for byte.

    Args:
        folder: Folder of the run.
        trackers: Where metrics go besides.
        writes: False in all processes but the first: nothing is written.
    """

    def __init__(self, folder: str | Path, trackers: tuple[Tracker, ...] = (), writes: bool = True) -> None:
        self.folder = Path(folder)
        self.trackers = trackers if writes else ()
        self.writes = writes
        self._started = time.perf_counter()
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, metrics: Mapping[str, Any], times: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Writes one line of metrics (tensors become numbers, floats keep 6 significant digits) and one of times; returns the first."""
        plain_line = {key: plain(value) for key, value in metrics.items()}
        if self.writes:
            label = {key: plain_line[key] for key in ("phase", "stage", "iteration") if key in plain_line}
            seconds = {key: round(value, 4) for key, value in (times or {}).items()}
            self._append(TIMINGS_FILE, label | {"elapsed": round(time.perf_counter() - self._started, 3)} | seconds)
            self._append(METRICS_FILE, plain_line)
        for tracker in self.trackers:
            tracker.log(plain_line | {f"seconds/{key}": value for key, value in (times or {}).items()})
        return plain_line

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        then = ", then go on with --resume"
        append_line(self.folder / name, json_text(line), kept="checkpoints are untouched", then=then)

    def position(self) -> dict[str, int]:
        """Bytes of each file so far, which are on the disk from now on."""
        files = [self.folder / name for name in (METRICS_FILE, TIMINGS_FILE)]
        return {file.name: flush(file) if file.exists() else 0 for file in files}

    def rewind(self, position: Mapping[str, int] | None = None) -> None:
        """Cuts the files back to a position that a checkpoint has noted; None: to nothing.

        Lines that are missing there, or are no lines of metrics (a disk that lost power can leave either), cannot be made again: a warning
        says so, and the file goes on after those that are left.
        """
        for name in (METRICS_FILE, TIMINGS_FILE) if self.writes else ():
            if (path := self.folder / name).exists():
                wanted = (position or {}).get(name, 0)
                kept = _whole_lines(path, wanted)
                cut(path, kept)
                if kept < wanted:
                    _logger.warning("%s has lost its last lines before the checkpoint; it goes on after those that are left.", path)

    def open(self, ids: Mapping[str, str] | None = None) -> None:
        """Starts the trackers, each as a new run or as the one with its id."""
        for tracker in self.trackers:
            tracker.open((ids or {}).get(tracker.name))

    def tracker_ids(self) -> dict[str, str]:
        """Ids under which the trackers can go on."""
        return {tracker.name: tracker.id for tracker in self.trackers if tracker.id}

    def close(self) -> None:
        """Closes the trackers."""
        for tracker in self.trackers:
            tracker.finish()


class Tracker:
    """A service that receives metrics in addition to the JSONL file.

    Attributes:
        name: Of the service.
        id: Of the run there, for services that can go on with one.
    """

    name = "tracker"
    id: str | None = None

    def open(self, run_id: str | None = None) -> None:
        """Starts a run, or continues the one with that id."""

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Takes one line of metrics."""
        raise NotImplementedError

    def finish(self) -> None:
        """Ends the run."""


def open_trackers(config: TrackingConfig, folder: Path, run: Mapping[str, Any]) -> tuple[Tracker, ...]:
    """The trackers that a run asks for; none of them has started yet.

    Args:
        config: Which.
        folder: Folder of the run; offline files go below it.
        run: Configuration that the trackers show.

    Raises:
        MissingExtraError: A tracker is not installed.
    """
    trackers: list[Tracker] = []
    if config.wandb != "off":
        trackers.append(WandbTracker(config.project, folder, run, mode=config.wandb))
    if config.tensorboard:
        trackers.append(TensorBoardTracker(folder))
    return tuple(trackers)


class WandbTracker(Tracker):
    """Weights & Biases; `mode="offline"` needs no key and no network (and cannot go on with a run: it starts another file of it)."""

    name = "wandb"

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any], mode: str = "offline") -> None:
        try:
            import wandb  # noqa: PLC0415
        except ImportError:
            raise MissingExtraError("Tracking with wandb", "wandb") from None
        self._wandb: Any = wandb
        self._options = {"project": project, "dir": str(folder), "config": dict(config), "mode": cast(Any, mode)}
        self._resume = "allow" if mode == "online" else None
        self._run: Any = None
        self._line = 0

    def open(self, run_id: str | None = None) -> None:
        """Starts a run under an id of its own, or goes on with the given one."""
        self.id = run_id or uuid.uuid4().hex[:12]
        self._run = self._wandb.init(**self._options, id=self.id, resume=self._resume)
        self._run.define_metric("*", step_metric="line")

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Logs numbers under `phase/name`, with the iteration, or else our own line number, as the step."""
        self._line = int(metrics.get("iteration", self._line + 1))
        self._run.log(_numbers(metrics) | {"line": self._line})

    def finish(self) -> None:
        """Ends the wandb run."""
        if self._run is not None:
            self._run.finish()


class TensorBoardTracker(Tracker):
    """TensorBoard event files below the folder of the run, through accelerate; `tensorboard --logdir FOLDER` shows them."""

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        from accelerate.utils import is_tensorboard_available  # type: ignore[import-untyped]  # noqa: PLC0415

        if not is_tensorboard_available():
            raise MissingExtraError("Tracking with TensorBoard", "tensorboard")
        self._folder = folder
        self._writer: Any = None

    def open(self, run_id: str | None = None) -> None:
        """Opens a new event file; TensorBoard joins those of one folder by step."""
        from accelerate.tracking import TensorBoardTracker as Writer  # type: ignore[import-untyped]  # noqa: PLC0415

        self._writer = Writer("tensorboard", str(self._folder))
        self._writer.start()

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Logs numbers under `phase/name` at their iteration."""
        self._writer.log(_numbers(metrics), step=int(metrics.get("iteration", 0)))

    def finish(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.finish()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """All lines of a run's `metrics.jsonl`; empty where there is none."""
    path = Path(folder) / METRICS_FILE
    return [row for _, row in whole_objects(path)] if path.exists() else []


def plain(value: Any) -> Any:
    """A metric as JSON holds it: numbers in place of tensors, floats of 6 significant digits, None for what is not a finite number."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    phase = metrics.get("phase", "run")
    return {f"{phase}/{key}": value for key, value in metrics.items() if isinstance(value, int | float)}


def _whole_lines(path: Path, most: int | None = None) -> int:
    """Bytes of the whole lines of JSON objects that a file begins with, of its first `most` bytes."""
    size = 0
    for end, _ in whole_objects(path):
        if most is not None and end > most:
            break
        size = end
    return size
