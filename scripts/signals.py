"""What each signal adds: MRL with one set of signals at a time, beside SMAT continued for the same tokens.

All start from the supervised checkpoints of finished main jobs and play the same conversations, half as many of 8, 12 and 16 turns as
there, without small talk and the signal `keep`, which are there for another reason. A teacher that reads the encodings of another
conversation is the control of the one that reads its own. `python scripts/results.py signals RUN...` runs what is missing, and prints the
table.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from references import SMAT, START, Bench, folder_of, spent_by_mrl, transcripts
from rxrl.config import load_config
from rxrl.errors import DataError
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.pipeline import PipelineConfig
from tables import paired_row

BASE = "reference"
ROWS: dict[str, dict[str, Any]] = {
    BASE: {"reference": 1},
    "reference, teacher": {"reference": 1, "teacher": 1},
    "reference, teacher of another conversation": {"reference": 1, "teacher": {"coefficient": 1, "options": {"context": "other"}}},
    "reference, reward": {"reference": 1, "reward": 0.1},
    "reference where answers fail, reward": {"reference": {"coefficient": 1, "options": {"gate": 5.0}}, "reward": 0.1},
    "reference, probes": {"reference": 1, "probes": {"coefficient": 1, "options": {"per_write": 2}}},
    "reference, preference": {"reference": 1, "preference": 1},
    "reward": {"reward": 1},
}
"""Signals of each row; the reward has no weight where it is not named."""
RATES = {"reward": 0.0015}
"""Learning rates other than that of the main job, as they were chosen for it on conversations that are not tested on."""
KIND = "signals"


def run_signals(runs: Sequence[Path], out: Path, only: Sequence[str], say: Callable[[str], None]) -> None:
    """Trains and evaluates what is missing.

    Args:
        runs: Finished runs of the default budget.
        out: Folder of the new runs.
        only: Rows to run; none: all.
        say: Is told each step.

    Raises:
        RxrlError: A run is not there, or two have the same seed.
    """
    torch.set_num_threads(1)
    for run, seed in zip(runs, _seeds(runs), strict=True):
        bench = Bench.of(run, seed, out, say)
        bench.measure_start()
        for name in only or ROWS:
            settings = {"signals": {"reward": 0} | ROWS[name], "small_talk": {"share": 0}}
            settings |= {"optimizer": {"learning_rate": RATES[name]}} if name in RATES else {}
            bench.train(KIND, name, bench.clean, settings, parts=2)
        base = folder_of(out, KIND, seed, BASE)
        if transcripts(base, BASE).exists():
            bench.supervise(KIND, bench.clean, spent_by_mrl(base))


def _seeds(runs: Sequence[Path]) -> list[int]:
    """The seed of each run.

    Raises:
        DataError: Two have the same, and would share their rows.
    """
    seeds = [load_config(run / "config.yaml", PipelineConfig).seed for run in runs]
    for number, seed in enumerate(seeds):
        if seed in seeds[:number]:
            raise DataError(f"{runs[seeds.index(seed)]} and {runs[number]} both have seed {seed}: give runs of different seeds.")
    return seeds


def signals_table(runs: Sequence[Path], out: Path) -> list[str]:
    """Markdown rows: retention by seed, and the paired differences to SMAT continued and to the references alone."""
    seeds = _seeds(runs)
    found = {name: {seed: _records(out, seed, name) for seed in seeds} for name in (START, SMAT, *ROWS)}
    columns = [*(f"seed {seed}" for seed in seeds), "mean", "minus SMAT continued, paired", "minus reference, paired"]
    rows = [f"| signals | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, own in found.items():
        to_smat = paired_row([name], own, {} if name in (START, SMAT) else found[SMAT])
        to_base = paired_row([name], own, {} if name in (START, SMAT, BASE) else found[BASE])
        rows += [f"{one} {other.split('|')[-2].strip()} |" for one, other in zip(to_smat, to_base, strict=True)]
    return rows


def _records(out: Path, seed: int, name: str) -> list[TurnRecord]:
    path = transcripts(folder_of(out, "" if name == START else KIND, seed, name), name)
    return read_records(path) if path.exists() else []
