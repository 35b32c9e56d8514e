#!/usr/bin/env python
"""Makes the tables of docs/results.md from finished runs, and the runs of its experiments.

    python scripts/results.py runs runs/seed0 runs/seed1 runs/seed2
    python scripts/results.py scenarios runs/preferences0 runs/preferences1
    python scripts/results.py ablation --out runs/ablation --seeds 0 1 2
    python scripts/results.py learn --out runs/learn --seeds 0 1 2
    python scripts/results.py baselines --out runs/baselines --seeds 0 1 2
    python scripts/results.py wrong-references runs/seed0 runs/seed1 runs/seed2 --out runs/references
    python scripts/results.py few-references runs/seed0 runs/seed1 runs/seed2 --out runs/references
    python scripts/results.py signals runs/seed0 runs/seed1 runs/seed2 --out runs/signals
    python scripts/results.py attempts runs/seed0 runs/seed1 runs/seed2 --out runs/attempts

What is finished is not run again, so the last seven can be stopped, continued, and shared between processes by seed.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from attempts import attempts_table, play_attempts
from baselines import ROWS, baselines_tables, run_baselines
from learning import learning_table, read_runs, run_learning
from references import FEW, WRONG, few_references_table, going_on, run_references, wrong_references_table
from rxrl.config import load_config
from rxrl.curricula import Curriculum
from rxrl.data.splits import Sources, open_sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError, DataError, Interrupted, RxrlError
from rxrl.evaluation.metrics import compare
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer
from rxrl.pipeline import BUDGETS, PipelineConfig
from rxrl.pipeline.job import CONTINUED
from rxrl.pipeline.parts import train_tokenizer
from rxrl.writing import write_text
from signals import ROWS as SIGNALS
from signals import run_signals, signals_table
from tables import mean_retention, paired_row

CURRICULUM = Curriculum.model_validate({"stages": [{"steps": steps, "iterations": count} for steps, count in ((8, 8), (12, 8), (16, 16))]})
START = [{"steps": 1, "iterations": 400, "accuracy": 0.95}, {"steps": 4, "iterations": 500, "accuracy": 0.93}]
BASE = {
    "name": "impo",
    **{"minibatches": 2, "kl": 0.02, "entropy": 0.003, "memory_difference": 1e-4, "memory_cosine": 0.01, "consistency": 0.01},
}
FACTORS: dict[str, dict[str, Any]] = {
    "impo": {},
    "impo without KL to the reference": {"kl": 0.0},
    "impo without entropy": {"entropy": 0.0},
    "impo without memory difference": {"memory_difference": 0.0},
    "impo without memory cosine": {"memory_cosine": 0.0},
    "impo without consistency": {"consistency": 0.0},
    "impo, GAE over turns": {"advantage": "gae"},
    "impo, bptt_turns 1": {"bptt_turns": 1},
    "impo, bptt_turns 4": {"bptt_turns": 4},
    "ppo": {"name": "ppo"},
    "a2c": {"name": "a2c"},
    "grpo": {"name": "grpo"},
    "rloo": {"name": "rloo"},
    "reinforce": {"name": "reinforce"},
}
"""Rows of the ablation: what differs from the first; each has the same conversations, iterations and optimizer."""
REFERENCES = {"wrong-references": (WRONG, wrong_references_table), "few-references": (tuple(FEW), few_references_table)}
START_ROW, SMAT_ROW = "start (supervised, 4 turns)", "SMAT continued, same tokens"


def configuration(seed: int, factor: dict[str, Any]) -> PipelineConfig:
    """The budget `easy` with a supervised part that ends at 4 turns, and one factor of the update changed."""
    config = load_config(BUDGETS["easy"], PipelineConfig, [f"seed={seed}"])
    smat = config.stages.smat.model_copy(update={"phases": type(config.stages.smat).model_validate({"phases": START}).phases})
    mrl = type(config.mrl).model_validate(config.mrl.model_dump() | {"episodes": 32, "algorithm": BASE | factor})
    return config.model_copy(update={"stages": config.stages.model_copy(update={"smat": smat}), "mrl": mrl})


def run_ablation(out: Path, seeds: Sequence[int], only: Sequence[str]) -> None:
    """Runs what is not finished yet, one folder for each seed and row."""
    for seed in seeds:
        config = configuration(seed, {})
        torch.set_num_threads(config.threads or torch.get_num_threads())
        sources = open_sources(config.data, config.seed)
        model, tokenizer = starting_point(config, sources, out / f"seed{seed}" / "start")
        for name, factor in FACTORS.items():
            if not only or name in only:
                folder = folder_of(out, seed, name)
                reinforced(configuration(seed, factor), folder, copy.deepcopy(model), tokenizer, sources)
        spent, folder = folder_of(out, seed, "impo") / "tokens", folder_of(out, seed, "smat")
        if spent.exists() and not (folder / "evaluation").exists():
            pipeline = going_on(config, folder, print)
            pipeline.curriculum = CURRICULUM
            pipeline.continue_smat(copy.deepcopy(model), tokenizer, sources, int(spent.read_text(encoding="utf-8")))


def folder_of(out: Path, seed: int, name: str) -> Path:
    """Where the runs of one row and seed are."""
    return out / f"seed{seed}" / name.replace(" ", "-").replace(",", "")


def starting_point(config: PipelineConfig, sources: Sources, folder: Path) -> tuple[ReactiveTransformer, Tokenizer]:
    """The supervised checkpoint of a seed, made once."""
    checkpoint = folder / "checkpoints" / "smat"
    if not (folder / "evaluation").exists():
        tokenizer = train_tokenizer(config, sources)
        model = ReactiveTransformer.from_preset(config.preset, seed=config.seed, vocab_size=tokenizer.vocab_size)
        pipeline = going_on(config, folder, print)
        pipeline.supervise(model, tokenizer, sources)
        pipeline.measure(model, tokenizer, sources, "start", ())
    return load_checkpoint(checkpoint)


def reinforced(config: PipelineConfig, folder: Path, model: ReactiveTransformer, tokenizer: Tokenizer, sources: Sources) -> None:
    """One row of one seed."""
    if (folder / "tokens").exists():
        return
    sys.stdout.write(f"--- {folder}\n")
    pipeline = going_on(config, folder, print)
    pipeline.curriculum = CURRICULUM
    trainer = pipeline.reinforce(model, tokenizer, sources)
    pipeline.measure(model, tokenizer, sources, "mrl", ())
    write_text(folder / "tokens", str(trainer.state.tokens))


def ablation_table(out: Path, seeds: Sequence[int]) -> list[str]:
    """Markdown rows: retention by seed, and the paired difference to the first factor over all seeds."""
    rows = ["| | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | minus impo, paired | |", "|---" * (len(seeds) + 4) + "|"]
    base = by_seed(out, seeds, "impo", "mrl")
    for name in (START_ROW, *FACTORS, SMAT_ROW):
        folder, evaluation = {START_ROW: ("start", "start"), SMAT_ROW: ("smat", "smat-continued")}.get(name, (name, "mrl"))
        records = by_seed(out, seeds, folder, evaluation)
        rows += paired_row([name], {seed: records.get(seed, []) for seed in seeds}, base if name != "impo" else {}, verdict=True)
    return rows


def by_seed(out: Path, seeds: Sequence[int], name: str, evaluation: str) -> dict[int, list[TurnRecord]]:
    """Records of one row, of the seeds that have it; each seed has conversations of its own."""
    paths = {seed: folder_of(out, seed, name) / "evaluation" / evaluation / "transcripts.jsonl" for seed in seeds}
    return {seed: read_records(path) for seed, path in paths.items() if path.exists()}


def runs_table(folders: Sequence[Path]) -> list[str]:
    """Markdown rows of finished quickstart runs."""
    rows = ["| run | supervised | after MRL | SMAT continued | MRL - supervised | MRL - SMAT | minutes |", "|---" * 7 + "|"]
    more = [
        "| run | near (1 to 2) | far (9 to 16) | mean reward (min to max) | swapped | empty | chance | oracle |",
        "|---" * 8 + "|",
    ]
    for folder in folders:
        report = read_report(folder)
        after, controls = report["after_mrl"], report["controls"]
        columns = [interval(report.get(f"after_{each}")) for each in ("supervised", "mrl", "smat_continued")]
        columns += [difference(report["comparisons"].get(f"mrl_minus_{each}")) for each in ("supervised", "smat")]
        rows.append(f"| {folder.name} | {' | '.join(columns)} | {report['wall_seconds'] / 60:.1f} |")
        reward = after["reward"]
        numbers = [after["retention_near"], after["retention_far"]]
        shown = [*map(number, numbers), f"{reward['mean']:.2f} ({reward['min']:.2f} to {reward['max']:.2f})"]
        shown += [number(controls[each]["retention"]) for each in ("swapped_memory", "empty_memory")]
        shown += [number(controls["chance"]), number(controls["oracle"]["retention"])]
        more.append(f"| {folder.name} | {' | '.join(shown)} |")
    if len(folders) > 1 and (shown := pooled(folders)):
        rows.append(f"| all, paired | {' | '.join(shown)} | |")
    return [*rows, "", *more, "", *stress_rows(folders)]


def pooled(folders: Sequence[Path]) -> list[str]:
    """Mean retention of all conversations of several runs at each stage, and the paired differences of MRL.

    Nothing where runs were tested on the same conversations, as runs of one seed are: these would count twice. Nothing either where a run
    has no transcripts.
    """
    found = {}
    for name in ("supervised", "mrl", CONTINUED):
        paths = [folder / "evaluation" / name / "transcripts.jsonl" for folder in folders]
        # A run without its transcripts, or without SMAT continued, leaves nothing to pair.
        found[name] = [record for path in paths for record in read_records(path)] if all(path.exists() for path in paths) else []
    keys = [record.key for record in found["mrl"]]
    if not keys or len(set(keys)) < len(keys):
        return []
    means = [f"{mean_retention(records):.3f}" if records else "" for records in found.values()]
    pairs = [compare(found["mrl"], found[name]) if found["mrl"] and found[name] else None for name in ("supervised", CONTINUED)]
    return [*means, *map(difference, pairs)]


def stress_rows(folders: Sequence[Path]) -> list[str]:
    """Markdown rows of retention under stress; nothing where none was measured."""
    rows = []
    for folder in folders:
        for axis, found in read_report(folder).get("stress", {}).items():
            shown = []
            for when in ("supervised", "mrl", "smat_continued"):
                each = found.get(f"after_{when}")
                shown.append(f"{each['mean']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" if each else "")
            rows.append(f"| {folder.name} | {axis.replace('_', ' ')} | {' | '.join(shown)} |")
    return ["| run | under stress | supervised | after MRL | SMAT continued |", "|---" * 5 + "|", *rows] if rows else []


def scenarios_table(folders: Sequence[Path]) -> list[str]:
    """Markdown rows of the scenarios that finished runs played."""
    columns = (
        "run",
        "scenario",
        "before",
        "after MRL",
        "gain",
        "without memory",
        "best",
        "share",
        "last turn",
        "swapped",
        "empty",
        "minutes",
    )
    rows = [f"| {' | '.join(columns)} |", f"{'|---' * len(columns)}|"]
    for folder in folders:
        report = read_report(folder, ("scenarios", "wall_seconds"))
        for name, found in report["scenarios"].items():
            low, high = found["after_interval"]
            shown = [f"{found['before']:.2f}", f"{found['after']:.2f} [{low:.2f}, {high:.2f}]"]
            shown += ["{difference:+.2f} [{low:+.2f}, {high:+.2f}]".format(**found["gain"])]
            numbers = [found[key] for key in ("blind", "best", "share")]
            numbers += [found["by_turn"][-1], found["swapped_memory"], found["empty_memory"]]
            shown += ["" if value is None else f"{value:.2f}" for value in numbers]
            rows.append(f"| {folder.name} | {name}, level {found['level']} | {' | '.join(shown)} | {report['wall_seconds'] / 60:.1f} |")
    return rows


def read_report(folder: Path, wanted: Sequence[str] = ("after_mrl", "controls", "comparisons", "wall_seconds")) -> dict[str, Any]:
    """What a finished quickstart has measured.

    Raises:
        DataError: It is not there.
    """
    path = folder / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report, dict) or not report.keys() >= set(wanted):
            raise ValueError("what a quickstart measures is not all in it")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no report of a finished `rxrl quickstart` ({error}): give the folder of one.") from error
    return report


def number(value: float | None) -> str:
    """Three digits, or nothing where there is no such turn."""
    return "" if value is None else f"{value:.3f}"


def interval(summary: dict[str, Any] | None) -> str:
    """Retention over all asking turns with its interval."""
    if summary is None:
        return ""
    low, high = summary["retention_interval"]
    return f"{summary['retention']:.3f} [{low:.3f}, {high:.3f}]"


def difference(found: dict[str, Any] | None) -> str:
    """A paired difference with its interval."""
    return "" if found is None else f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("runs", help="tables of finished `rxrl quickstart` runs")
    runs.add_argument("folders", nargs="+", type=Path)
    played = commands.add_parser("scenarios", help="table of the scenarios of finished `rxrl quickstart` runs")
    played.add_argument("folders", nargs="+", type=Path)
    ablation = commands.add_parser("ablation", help="one factor at a time, paired seeds, from a 4-turn checkpoint to 16 turns")
    ablation.add_argument("--out", type=Path, default=Path("runs/ablation"))
    ablation.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    ablation.add_argument("--only", nargs="*", default=[], choices=list(FACTORS), help="rows to run; without it, all")
    ablation.add_argument("--table", action="store_true", help="run nothing, only print the table of what is finished")
    learn = commands.add_parser("learn", help="does it learn: what only memory can solve, each algorithm, with and without bptt_turns 1")
    learn.add_argument("--out", type=Path, default=Path("runs/learn"))
    learn.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    learn.add_argument("--table", action="store_true", help="run nothing, only print the table of what is finished")
    beside = commands.add_parser("baselines", help="models of equal size beside pico: retention, cost of a turn, bytes of memory")
    beside.add_argument("--out", type=Path, default=Path("runs/baselines"))
    beside.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    beside.add_argument("--only", nargs="*", default=[], choices=list(ROWS), help="rows to run; without it, all")
    beside.add_argument("--table", action="store_true", help="run nothing, only print the tables of what is finished")
    for name, help_text in (
        ("wrong-references", "a fifth of the references wrong, rewards right: MRL beside SMAT continued"),
        ("few-references", "references for a share of the conversations, rewards for all: MRL beside SMAT continued"),
    ):
        changed = commands.add_parser(name, help=help_text)
        changed.add_argument(
            "runs", nargs="+", type=Path, help="finished runs of the default budget with seeds 0, 1, ...: where both start"
        )
        changed.add_argument("--out", type=Path, default=Path("runs/references"))
        changed.add_argument("--seeds", nargs="*", type=int, default=[], help="seeds to run; without it, all")
        changed.add_argument("--table", action="store_true", help="run nothing, only print the table of what is finished")
    each = commands.add_parser("signals", help="what each signal adds: MRL with one set of signals at a time beside SMAT continued")
    each.add_argument("runs", nargs="+", type=Path, help="finished runs of the main job: where all start")
    each.add_argument("--out", type=Path, default=Path("runs/signals"))
    each.add_argument("--only", nargs="*", default=[], choices=list(SIGNALS), help="rows to run; without it, all")
    each.add_argument("--table", action="store_true", help="run nothing, only print the table of what is finished")
    again = commands.add_parser("attempts", help="pass@k before and after MRL: new ability, or sharper answers")
    again.add_argument("runs", nargs="+", type=Path, help="finished runs of the main job")
    again.add_argument("--out", type=Path, default=Path("runs/attempts"))
    again.add_argument("--conversations", type=int, default=100, help="test conversations of each run")
    again.add_argument("--attempts", type=int, default=32, help="how often each is played")
    return parser.parse_args()


def tables(arguments: argparse.Namespace) -> list[str]:
    """Runs what is missing, unless only the table is asked for; returns Markdown."""
    command = arguments.command
    if command == "runs":
        return runs_table(arguments.folders)
    if command == "scenarios":
        return scenarios_table(arguments.folders)
    if command == "attempts":
        if min(arguments.conversations, arguments.attempts) < 1:
            raise ConfigError("--conversations and --attempts must be at least 1.")
        for run in arguments.runs:
            play_attempts(run, arguments.out, arguments.conversations, arguments.attempts, say=print)
        return attempts_table(arguments.runs, arguments.out, arguments.conversations, arguments.attempts)
    if not arguments.table:
        MISSING[command](arguments)
    return TABLES[command](arguments)


TABLES: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "learn": lambda given: learning_table(read_runs(given.out, given.seeds), given.seeds),
    "baselines": lambda given: baselines_tables(given.out, given.seeds),
    "ablation": lambda given: ablation_table(given.out, given.seeds),
    "signals": lambda given: signals_table(given.runs, given.out),
    **{name: lambda given, table=table: table(given.runs, given.out) for name, (_, table) in REFERENCES.items()},
}
"""Makes the table of what is finished of an experiment."""
MISSING: dict[str, Callable[[argparse.Namespace], None]] = {
    "learn": lambda given: run_learning(given.out, given.seeds, say=print),
    "baselines": lambda given: run_baselines(given.out, given.seeds, given.only, say=print),
    "ablation": lambda given: run_ablation(given.out, given.seeds, given.only),
    "signals": lambda given: run_signals(given.runs, given.out, given.only, say=print),
    **{
        name: lambda given, kinds=kinds: run_references(given.runs, given.out, kinds, given.seeds, say=print)
        for name, (kinds, _) in REFERENCES.items()
    },
}
"""Runs what is missing of an experiment."""


if __name__ == "__main__":
    try:
        sys.stdout.write("\n".join(tables(parsed())) + "\n")
    except (RxrlError, OSError) as error:
        sys.exit(f"Error: {error}")
    except Interrupted as stop:
        # Not with --resume, as the sentence of a training would have it: the same command goes on.
        sys.stderr.write("Interrupted: the same command goes on where this one stopped.\n")
        sys.exit(stop.exit_code)
