"""New ability or sharper answers: pass@k before and after MRL, on conversations of finished runs of the main job.

Each test conversation is played several times with sampled answers, which memory holds, as the model says them. pass@k is the share of
questions that at least one of k attempts answers right, without bias from the number of attempts (Chen et al., 2021, arXiv:2107.03374).
If MRL only made likelier what could be sampled before, the difference to the start would vanish for large k.
`python scripts/results.py attempts RUN...` plays what is missing, and prints the table.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import comb
from pathlib import Path

import torch

from rxrl.config import load_config
from rxrl.errors import DataError
from rxrl.evaluation.evaluate import evaluate
from rxrl.evaluation.metrics import bootstrap
from rxrl.evaluation.records import TurnRecord
from rxrl.factory import load_checkpoint
from rxrl.pipeline import PipelineConfig
from rxrl.players import model_play
from rxrl.rewards import load_reward
from rxrl.supply import open_configured
from rxrl.writing import write_text

PLAYERS = {"supervised": "checkpoints/smat", "after MRL": "checkpoint", "SMAT continued": "checkpoints/smat-continued"}
TRIES = (1, 8, 32)
Attempts = Mapping[tuple[str, int], int]
"""Right attempts by question: conversation and turn."""


def pass_at(right: int, attempts: int, tries: int) -> float:
    """Probability that at least one of `tries` attempts is right, drawn without repetition from `attempts` of which `right` are right."""
    return 1 - comb(attempts - right, tries) / comb(attempts, tries)


def right_attempts(played: Sequence[Sequence[TurnRecord]]) -> dict[tuple[str, int], int]:
    """How often each question was answered right, every asked fact and no other value."""
    found: Counter[tuple[str, int]] = Counter()
    for records in played:
        found.update({record.key: int(bool(record.exact)) for record in records if record.exact is not None})
    return dict(found)


def play_attempts(run: Path, out: Path, conversations: int, attempts: int, say: Callable[[str], None]) -> None:
    """Plays the test conversations of a run so many times with each of its models; what was played is not played again.

    Raises:
        DataError: The run is not finished.
    """
    config = load_config(run / "config.yaml", PipelineConfig)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    sources = open_configured(config.data, config.seed)
    chosen, known = sources.test[:conversations], sources.train.take(steps=1, strategy="multi-step", start=0, count=500)
    for name, checkpoint in PLAYERS.items():
        file = _file(run, out, name, conversations, attempts)
        if file.exists():
            continue
        if not (run / checkpoint).exists():
            raise DataError(f"{run} has no {checkpoint}: give the folder of a finished `rxrl quickstart`.")
        model, tokenizer = load_checkpoint(run / checkpoint)
        limits = {each: getattr(config.mrl, each) for each in ("max_answer_tokens", "max_think_tokens")}
        play = model_play(model, tokenizer, chosen, reward=load_reward("retention"), known=known, **limits)
        played = [evaluate(*play, chosen, seed=number, greedy=False, resamples=1).records for number in range(attempts)]
        rows = [[*question, count] for question, count in right_attempts(played).items()]
        write_text(file, json.dumps(rows))
        say(f"{run.name}, {name}: played {len(chosen)} conversations {attempts} times.")


def _file(run: Path, out: Path, name: str, conversations: int, attempts: int) -> Path:
    return out / f"{run.name}-{name.replace(' ', '-')}-{conversations}x{attempts}.json"


def attempts_table(runs: Sequence[Path], out: Path, conversations: int, attempts: int) -> list[str]:
    """Markdown rows: pass@k of each model over all runs, and the paired difference of MRL to the other two."""
    found = {name: [_read(_file(run, out, name, conversations, attempts)) for run in runs] for name in PLAYERS}
    shown = [tries for tries in TRIES if tries <= attempts]
    rows = ["| | " + " | ".join(f"pass@{tries}" for tries in shown) + " |", "|---" * (len(shown) + 1) + "|"]
    rates = {name: {tries: _rates(read, attempts, tries) for tries in shown} for name, read in found.items()}
    for name, own in rates.items():
        rows.append(f"| {name} | " + " | ".join(_cell(own[tries], ".3f") for tries in shown) + " |")
    for name in PLAYERS:
        if name != "after MRL":
            gaps = (_minus(rates["after MRL"][tries], rates[name][tries]) for tries in shown)
            rows.append(f"| after MRL - {name} | " + " | ".join(_cell(each, "+.3f") for each in gaps) + " |")
    return rows


def _read(file: Path) -> Attempts:
    return {(conversation, turn): count for conversation, turn, count in json.loads(file.read_text(encoding="utf-8"))}


Rated = Sequence[tuple[str, float]]
"""Run and conversation of each question, and a number."""


def _rates(read: Sequence[Attempts], attempts: int, tries: int) -> Rated:
    return [
        (f"{run}/{conversation}", pass_at(right, attempts, tries))
        for run, questions in enumerate(read)
        for (conversation, _), right in sorted(questions.items())
    ]


def _minus(first: Rated, second: Rated) -> Rated:
    return [(place, one - other) for (place, one), (_, other) in zip(first, second, strict=True)]


def _cell(rated: Rated, form: str) -> str:
    places, values = zip(*rated, strict=True)
    mean, low, high = bootstrap(values, places)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
