"""Metrics in JSONL files, handed on to trackers; the time that each phase takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rxrl.reading import whole_objects
from rxrl.runs.trackers import Tracker
from rxrl.types import Action, Policy, TokenBatch
from rxrl.writing import append_line, cut, flush, json_text

METRICS_FILE, TIMINGS_FILE = "metrics.jsonl", "timings.jsonl"
_logger = logging.getLogger(__name__)


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
            tracker.log(plain_line | {_named_by_unit(key): value for key, value in (times or {}).items()})
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


def _named_by_unit(key: str) -> str:
    """What a tracker calls a time, a rate or a share of time."""
    return f"{'speed' if key.endswith(('_per_second', '_share')) else 'seconds'}/{key}"


def _whole_lines(path: Path, most: int | None = None) -> int:
    """Bytes of the whole lines of JSON objects that a file begins with, of its first `most` bytes."""
    size = 0
    for end, _ in whole_objects(path):
        if most is not None and end > most:
            break
        size = end
    return size
