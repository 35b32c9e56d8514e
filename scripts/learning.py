"""Does it learn: the smallest task that only memory can solve, the settings that each algorithm learns it with, and the table of its runs.

The tests train with one seed of the first task; `python scripts/results.py learn` adds seeds, a task that needs credit through many
writes, and gradients through one write alone.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from rxrl.curricula import Curriculum
from rxrl.evaluation import TurnRecord
from rxrl.models import ReactiveTransformer
from rxrl.runs.optim import OptimizerConfig
from rxrl.seeding import derive_seed
from rxrl.training.callbacks import Callback, Progress
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer
from rxrl.types import SPECIAL_TOKENS, Conversation, Interaction, Turn
from rxrl.writing import write_json, write_text

PEOPLE = ("ann", "bob", "cid")
PETS = ("cat", "dog", "fox", "owl")
WORDS = (*PEOPLE, *PETS, "has", "?", "ok", "and")
LENGTH = 16
"""Longest interaction in tokens."""
LEARNED, EVERY = 0.95, 5
"""Accuracy that counts as learned, and after how many iterations each it is measured."""


class WordCodec:
    """Every word is a token."""

    vocab_size = len(SPECIAL_TOKENS) + len(WORDS)

    def encode(self, text: str) -> list[int]:
        """Ids of words."""
        return [len(SPECIAL_TOKENS) + WORDS.index(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Words of ids, without special tokens."""
        return " ".join(WORDS[i - len(SPECIAL_TOKENS)] for i in ids if i >= len(SPECIAL_TOKENS))

    def save(self, directory: str | Path) -> None:
        """Writes the words, in order."""
        write_text(Path(directory) / "words.txt", " ".join(WORDS))


CODEC = WordCodec()


class RecallSource:
    """One pet is told; after `quiet` turns of small talk, every further turn asks for it."""

    def __init__(self, pets: int, quiet: int = 0) -> None:
        self.pets, self.quiet = pets, quiet

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Conversations number `start` to `start + count - 1`."""
        return [self._conversation(index, steps) for index in range(start, start + count)]

    def _conversation(self, index: int, steps: int) -> Conversation:
        pet = PETS[derive_seed("recall", index) % self.pets]
        told = Interaction(f"ann has {pet}", "ok", facts=(("ann.pet", pet),))
        talk, ask = Interaction("and", "ok", asks=()), Interaction("ann ?", pet, asks=("ann.pet",))
        return Conversation(f"r{index}", told, (talk,) * self.quiet + (ask,) * (steps - self.quiet))


class Task(NamedTuple):
    """How long after it was told a fact is asked for."""

    about: str
    steps: int
    quiet: int = 0
    iterations: int = 50


TASKS = {
    "at once": Task("told, then asked in both of the next two turns", 2),
    "later": Task("told, then two turns of small talk, then asked once", 3, quiet=2),
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"epochs": 2},
    "impo": {"epochs": 2},
    "a2c": {"entropy": 0.05},
    "grpo": {"epochs": 2, "entropy": 0.05},
    # Advantages in units of the reward, up to 10, so the bonus is larger too.
    "rloo": {"entropy": 0.5},
    "reinforce": {"entropy": 0.05},
}
"""What each algorithm needs beside its defaults to learn the tasks."""
CREDIT: dict[str, int | None] = {"all": None, "1": 1}
"""Values of `bptt_turns` that are compared."""


def small_model(seed: int = 0) -> ReactiveTransformer:
    """An untrained model of one layer and four slots."""
    return ReactiveTransformer.from_preset("pico", seed, vocab_size=CODEC.vocab_size, dim=32, layers=1, slots=4, max_length=LENGTH)


def asked_word(turns: Sequence[Turn]) -> list[float | None]:
    """10 for the asked word alone, else 0; None where nothing is asked."""
    return [10.0 * (turn.answer == turn.reference) if turn.asking else None for turn in turns]


def accuracy(records: Sequence[TurnRecord]) -> float:
    """Share of asking turns with the right answer."""
    rewards = [record.reward for record in records if record.reward is not None]
    return sum(rewards) / (10 * len(rewards))


def recall_trainer(
    name: str, folder: Path, task: Task, seed: int = 0, every: int | None = None, callbacks: Sequence[Callback] = (), **changes: Any
) -> MRLTrainer:
    """A training from scratch in which reward alone teaches to recall one of two words.

    Args:
        name: One of `ALGORITHMS`.
        folder: For metrics and checkpoints.
        task: One of `TASKS`.
        seed: Of the model and of every draw.
        every: Iterations between two evaluations; None: one, at the end.
        callbacks: Of the trainer.
        changes: Options of the algorithm beside those of `ALGORITHMS`.
    """
    return MRLTrainer(
        small_model(seed),
        CODEC,
        curriculum=Curriculum.custom([{"steps": task.steps, "iterations": task.iterations}]),
        source=RecallSource(2, task.quiet),
        held_out=RecallSource(2, task.quiet),
        config=MRLConfig(
            seed=seed,
            episodes=32,
            max_answer_tokens=1,
            algorithm={"name": name, "kl": 0.0, **ALGORITHMS[name], **changes},
            optimizer=OptimizerConfig(learning_rate=0.01, warmup=0.0),
            evaluation={"every": every or task.iterations, "conversations": 64},
        ),
        folder=folder,
        reward=asked_word,
        callbacks=callbacks,
    )


class Run(NamedTuple):
    """One training: which, and how many iterations it had when its held-out accuracy first was `LEARNED`."""

    task: str
    name: str
    bptt_turns: str
    seed: int
    start: float
    end: float
    empty_memory: float
    reached: int | None

    @property
    def learned(self) -> bool:
        """Whether the training ended with the task learned."""
        return self.end >= LEARNED


class Curve(Callback):
    """Held-out accuracy by iteration."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_iteration(self, progress: Progress) -> None:
        """Keeps what was evaluated."""
        if "held_out_reward" in progress.metrics:
            self.points.append((progress.iteration, progress.metrics["held_out_reward"] / 10))


def wanted(seeds: Sequence[int]) -> Iterator[tuple[str, str, str, int]]:
    """Every run of the tables: task, algorithm, `bptt_turns`, seed."""
    return ((task, name, credit, seed) for task in TASKS for seed in seeds for name in ALGORITHMS for credit in CREDIT)


def run_learning(out: Path, seeds: Sequence[int], say: Callable[[str], None]) -> None:
    """Trains what is not finished yet; one JSON file for each run."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for key in wanted(seeds):
        if not (path := path_of(out, *key)).exists():
            with TemporaryDirectory() as folder:
                run = train(*key, folder=Path(folder))
            write_json(path, run._asdict())
            say(f"{path.stem}: {shown(run)}")


def path_of(out: Path, task: str, name: str, credit: str, seed: int) -> Path:
    """Where a run is kept."""
    return out / f"{task}-{name}-bptt-{credit}-seed{seed}.json".replace(" ", "-")


def train(task: str, name: str, credit: str, seed: int, folder: Path) -> Run:
    """One run, evaluated every `EVERY` iterations."""
    curve = Curve()
    trainer = recall_trainer(name, folder, TASKS[task], seed, every=EVERY, callbacks=[curve], bptt_turns=CREDIT[credit])
    stage = trainer.scheduler.stage
    start = accuracy(trainer.evaluate(stage).records)
    trainer.train()
    after = trainer.evaluate(stage, controls=["empty_memory"])
    reached = next((iteration for iteration, share in curve.points if share >= LEARNED), None)
    return Run(task, name, credit, seed, start, accuracy(after.records), accuracy(after.control_records["empty_memory"]), reached)


def read_runs(out: Path, seeds: Sequence[int]) -> list[Run]:
    """What is finished."""
    paths = [path_of(out, *key) for key in wanted(seeds)]
    return [Run(**json.loads(path.read_text(encoding="utf-8"))) for path in paths if path.exists()]


def learning_table(runs: Sequence[Run], seeds: Sequence[int]) -> list[str]:
    """Markdown: for each task a row an algorithm; accuracy before and after, and the iterations that it took."""
    found = {(run.task, run.name, run.bptt_turns, run.seed): run for run in runs}
    lines = []
    for task, about in TASKS.items():
        lines += [f"Asked {task} ({about.about}), {about.iterations} iterations:", "", *_task_table(task, found, seeds), ""]
    return lines


def _task_table(task: str, found: Mapping[tuple[str, str, str, int], Run], seeds: Sequence[int]) -> list[str]:
    columns = [(credit, seed) for credit in CREDIT for seed in seeds]
    titles = [f"bptt_turns {credit}: seed {seed}" for credit, seed in columns]
    rows = [f"| | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    for name in ALGORITHMS:
        rows.append(f"| {name} | {' | '.join(shown(found.get((task, name, *column))) for column in columns)} |")
    learned = {credit: [found[key].learned for key in found if key[0] == task and key[2] == credit] for credit in CREDIT}
    totals = [f"{sum(learned[credit])} of {len(learned[credit])}" if seed == seeds[0] else "" for credit, seed in columns]
    return [*rows, f"| learned | {' | '.join(totals)} |"]


def shown(run: Run | None) -> str:
    """A cell: accuracy before and after, and where it first was enough; nothing for a run that is missing."""
    if run is None:
        return ""
    reached = "never" if run.reached is None else f"{run.reached}"
    change = f"{run.start:.2f} to {run.end:.2f}"
    return f"{change if run.learned else f'**{change}**'} ({reached})"
