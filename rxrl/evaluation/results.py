"""What a run left in its folder, for notebooks and scripts."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import CheckpointError, DataError
from rxrl.evaluation.evaluate import EVALUATION_FILE, Evaluation
from rxrl.evaluation.report import METRICS, REPORT_JSON, TIMINGS, read_metrics, read_report
from rxrl.factory import checkpoint_folder, load_checkpoint
from rxrl.models import ReactiveTransformer
from rxrl.reading import read_yaml

CONFIG = "config.yaml"
EVALUATIONS = "evaluation"
"""Folder, inside that of the main job, with one folder for each evaluation."""
_MAIN = "mrl"


class Run:
    """The folder of a run or of an evaluation, read when it is asked for.

    Args:
        folder: What `rxrl quickstart`, `train`, `stage` or `evaluate` wrote.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        evaluations = ", ".join(self.evaluation_folders) or "none"
        rows = sum(1 for _ in _metrics_of(self.folder))
        trained = "a checkpoint" if self.has_checkpoint else "no checkpoint"
        return f"Run({str(self.folder)!r}): {rows} rows of metrics, {trained}, evaluations: {evaluations}"

    @cached_property
    def config(self) -> dict[str, Any]:
        """Settings of the run, nested; empty where the folder has no config.yaml."""
        file = self.folder / CONFIG
        return (read_yaml(file).data or {}) if file.is_file() else {}

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Rows of metrics.jsonl; what a row does not have is missing."""
        return pd.DataFrame(_metrics_of(self.folder))

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Rows of timings.jsonl, one for each of `metrics` in the same order; empty where there is none."""
        return pd.DataFrame(read_metrics(self.folder / TIMINGS))

    @cached_property
    def report(self) -> dict[str, Any]:
        """Content of report.json; empty where there is none."""
        return read_report(self.folder) if (self.folder / REPORT_JSON).is_file() else {}

    @cached_property
    def evaluation_folders(self) -> dict[str, Path]:
        """Folder of each evaluation by its name; the main one comes first."""
        own = {"": self.folder} if (self.folder / EVALUATION_FILE).is_file() else {}
        inner = sorted((file.parent for file in (self.folder / EVALUATIONS).glob(f"*/{EVALUATION_FILE}")), key=_order)
        return {name or self.folder.name: path for name, path in {**own, **{each.name: each for each in inner}}.items()}

    @cached_property
    def evaluation(self) -> Evaluation:
        """The evaluation of the run: that of `rxrl evaluate --out` into its folder, else the one after MRL.

        Raises:
            DataError: The folder has none, or a file is not what an evaluation writes.
        """
        found = next(iter(self.evaluation_folders.values()), None)
        if found is None:
            raise DataError(f"{self.folder} has no evaluation: make one with `rxrl evaluate {self.folder} --out {self.folder}`.")
        return Evaluation.load(found)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a trained model."""
        try:
            return (self.checkpoint / "config.json").is_file()
        except CheckpointError:
            return False

    @property
    def checkpoint(self) -> Path:
        """Folder of the trained model, as `rxrl evaluate` and `load_checkpoint` take it.

        Raises:
            CheckpointError: The run has not ended.
        """
        return checkpoint_folder(self.folder)

    def load(self) -> tuple[ReactiveTransformer, Tokenizer]:
        """The trained model, on the CPU, and its tokenizer.

        Raises:
            CheckpointError: There is none, or a file is broken.
        """
        return load_checkpoint(self.checkpoint)


def load_run(folder: str | Path) -> Run:
    """What a run left in its folder: `config`, `metrics`, `evaluation`, `checkpoint`.

    Args:
        folder: What `rxrl quickstart`, `train`, `stage` or `evaluate` wrote.

    Raises:
        DataError: There is no such folder, or it holds nothing of a run.
    """
    run = Run(folder)
    if not run.folder.is_dir():
        raise DataError(f"There is no folder {run.folder}: give the folder of a run or of an evaluation.")
    if not any((run.folder / name).is_file() for name in (CONFIG, METRICS, REPORT_JSON, EVALUATION_FILE)) and not run.has_checkpoint:
        raise DataError(f"{run.folder} holds neither a run nor an evaluation: give a folder that `rxrl train` or `rxrl evaluate` wrote.")
    return run


def _metrics_of(folder: Path) -> list[dict[str, Any]]:
    """Rows of the metrics of a run; none where there are none."""
    return read_metrics(folder / METRICS)


def _order(folder: Path) -> tuple[bool, str]:
    return folder.name != _MAIN, folder.name
