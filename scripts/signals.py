"""What each signal adds: MRL with one set of signals at a time, beside SMAT continued for the same tokens.

All start from the supervised checkpoints of finished main jobs and play the same conversations, half as many of 8, 12 and 16 turns as
there, without small talk and the signal `keep`, which are there for another reason. A teacher that reads the encodings of another
conversation is the control of the one that reads its own. `python scripts/results.py signals RUN...` runs what is missing, and prints the
table.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from references import SMAT, START, Bench, folder_of, spent_by_mrl, transcripts
from rxrl.config import load_config
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.pipeline import Pipeline, PipelineConfig
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
        RxrlError: A run is not there.
    """
    torch.set_num_threads(1)
    for run in runs:
        bench = Bench.of(run, _seed(run), out, say)
        bench.measure_start()
        for name in only or ROWS:
            _train(bench, name)
        spent = folder_of(out, KIND, bench.config.seed, BASE)
        if (spent / "metrics.jsonl").exists():
            bench.supervise(KIND, bench.clean, spent_by_mrl(spent))


def _seed(run: Path) -> int:
    return load_config(run / "config.yaml", PipelineConfig).seed


def _train(bench: Bench, name: str) -> None:
    """One row, unless it is finished."""
    folder = folder_of(bench.out, KIND, bench.config.seed, name)
    if transcripts(folder, name).exists():
        return
    bench.say(f"--- {folder}")
    mrl = bench.config.mrl.model_dump()
    rate = RATES.get(name, mrl["optimizer"]["learning_rate"])
    mrl |= {"signals": {"reward": 0} | ROWS[name], "small_talk": {"share": 0}, "optimizer": mrl["optimizer"] | {"learning_rate": rate}}
    changed = bench.config.model_copy(update={"mrl": type(bench.config.mrl).model_validate(mrl)})
    pipeline, model = Pipeline(changed, folder, say=bench.say), copy.deepcopy(bench.model)
    shorter = tuple(stage.model_copy(update={"iterations": (stage.iterations + 1) // 2}) for stage in pipeline.curriculum.stages)
    pipeline.curriculum = pipeline.curriculum.model_copy(update={"stages": shorter})
    pipeline.reinforce(model, bench.tokenizer, bench.clean)
    pipeline.measure(model, bench.tokenizer, bench.clean, "mrl", ())


def signals_table(runs: Sequence[Path], out: Path) -> list[str]:
    """Markdown rows: retention by seed, and the paired differences to SMAT continued and to the references alone."""
    seeds = [_seed(run) for run in runs]
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
