"""Speed of one iteration of MRL, phase by phase: collect, critic, reference, update, evaluate; answers of full length.

The work is that of the comparison: 2 minibatches of 16 conversations x 4 turns, 32 tokens a query, 256 an answer, one update epoch, PPO
with a critic and a reference. Times of the comparison are those of two threads on the reference machine, bars are shares of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rxrl.curricula import Curriculum
from rxrl.models import ReactiveTransformer
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer
from rxrl.types import SPECIAL_TOKENS, Conversation, Interaction
from tests.benchmarks.measure import Bench, Row, scale
from tests.benchmarks.model import endless

BATCHES, BATCH, TURNS, QUERY, ANSWER, MARKERS = 2, 16, 4, 32, 256, 4
QUICK = {"batch": 4, "turns": 2, "answer": 16}
THEIRS = {"collect": 56.0, "generation": 55.0, "critic values": 2.0, "reference": 5.5, "update": 54.0, "iteration": 117.0}
"""Seconds of the comparison; its update trains on half of the turns in 27 s."""
SHARES = {"collect": 1 / 3, "generation": 1 / 5, "critic values": 1 / 3, "reference": 1 / 3, "update": 1 / 3, "iteration": 1 / 4}
"""What we may take of them at most."""


class NumberCodec:
    """Every word is the number of a token."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        return " ".join(str(token) for token in ids if token >= len(SPECIAL_TOKENS))


class NumberSource:
    """Conversations of random tokens, all of one length."""

    def __init__(self, vocab_size: int, answer: int) -> None:
        self.vocab_size, self.answer = vocab_size, answer

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Conversations `start` to `start + count`."""
        return [self._conversation(index, steps) for index in range(start, start + count)]

    def _conversation(self, index: int, steps: int) -> Conversation:
        draws = torch.Generator().manual_seed(index)

        def words(count: int) -> str:
            return " ".join(map(str, torch.randint(len(SPECIAL_TOKENS), self.vocab_size, (count,), generator=draws).tolist()))

        first, *rest = (Interaction(words(QUERY), words(self.answer), asks=()) for _ in range(steps + 1))
        return Conversation(f"n{index}", first, tuple(rest))


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures each preset."""
    for name in presets:
        with TemporaryDirectory() as folder:
            yield from _phases(bench, name, Path(folder))


def _phases(bench: Bench, preset: str, folder: Path) -> Iterator[Row]:
    batch, turns = (QUICK["batch"], QUICK["turns"]) if bench.quick else (BATCH, TURNS)
    trainer = trainer_of(preset, folder, BATCHES * batch, turns, QUICK["answer"] if bench.quick else ANSWER)
    stage = trainer.scheduler.stage
    algorithm = trainer.begin(stage)
    rollout = trainer.collect(stage, algorithm)
    targets, _ = trainer.learner.estimate(rollout, algorithm)
    timed = _Phases(bench, preset, trainer)
    yield from timed.measure("collect", lambda: trainer.collect(stage, algorithm), {"collect/generate": "generation"})
    parts = {"estimate/critic": "critic values", "estimate/reference": "reference"}
    yield from timed.measure("estimate", lambda: trainer.learner.estimate(rollout, algorithm), parts)
    yield from timed.measure("update", lambda: trainer.learner.update(rollout, targets, algorithm), {})
    yield timed.sum("iteration", ("collect", "estimate", "update"))
    whole = timed.milliseconds["iteration"]
    episodes = BATCHES * batch
    answers = int(rollout.answer.sum())
    for name, amount in (("episodes", episodes), ("answer tokens", answers)):
        yield bench.value(preset, f"{name}, whole iteration", 1000 * amount / whole, f"{name}/s", more_is_better=True)
    generation = 1000 * answers / timed.milliseconds["generation"]
    yield bench.value(preset, "answer tokens, generation alone", generation, "tokens/s", more_is_better=True)
    yield from timed.measure("evaluate", lambda: trainer.evaluate(stage), {})


def trainer_of(preset: str, folder: Path, episodes: int, turns: int, answer: int, **settings: Any) -> MRLTrainer:
    """A trainer whose answers all have full length; further settings are those of `MRLConfig`."""
    # Answers of full length, and memory that is read: gradients of a memory that nobody reads are so small that they cost more.
    model = endless(ReactiveTransformer.from_preset(preset, max_length=QUERY + answer + MARKERS), torch.Generator().manual_seed(0))
    source: Any = NumberSource(model.config.vocab_size, answer)
    codec: Any = NumberCodec(model.config.vocab_size)
    standing = {"learning_rate": 1e-12}
    config = MRLConfig(
        episodes=episodes,
        max_answer_tokens=answer - 1,
        algorithm={"name": "ppo", "minibatches": BATCHES},
        optimizer=standing,
        critic_optimizer=standing,
        evaluation={"conversations": episodes // BATCHES},
        **settings,
    )
    curriculum = Curriculum.custom([turns])
    return MRLTrainer(model, codec, curriculum=curriculum, source=source, held_out=source, config=config, folder=folder)


class _Phases:
    """Times phases of a trainer, and what its own clock says of their parts."""

    def __init__(self, bench: Bench, preset: str, trainer: MRLTrainer) -> None:
        self.bench, self.preset, self.trainer = bench, preset, trainer
        self.milliseconds: dict[str, float] = {}
        self.scales: dict[str, float] = {}

    def measure(self, name: str, work: Callable[[], Any], parts: dict[str, str]) -> Iterator[Row]:
        """A row of the phase and one of each part (key of the clock to name)."""
        seen: list[dict[str, float]] = []

        def timed() -> None:
            self.trainer.clock.take()
            work()
            seen.append(self.trainer.clock.take())

        row = self.bench.time(self.preset, name, timed, self._bar(name))
        self.milliseconds[name], self.scales[name] = row.value or 0.0, scale(row.probe or self.bench.probe)
        yield self._against_theirs(row, self.scales[name])
        for key, part in parts.items():
            yield self._row(part, 1000 * statistics.median(each[key] for each in seen[1:]), self.scales[name])

    def sum(self, name: str, phases: Sequence[str]) -> Row:
        """Several phases together, against a bar that is scaled as theirs were, each for its share of the time."""
        whole = sum(self.milliseconds[phase] for phase in phases)
        return self._row(name, whole, sum(self.milliseconds[phase] * self.scales[phase] for phase in phases) / whole)

    def _row(self, name: str, milliseconds: float, speed: float) -> Row:
        """A time that was not measured by itself, on a machine of this speed."""
        self.milliseconds[name] = milliseconds
        bar = self._bar(name)
        row = self.bench.value(self.preset, name, milliseconds, "ms", bar=None if bar is None else bar / speed)
        return self._against_theirs(row, speed)

    def _compares(self, name: str) -> bool:
        return name in THEIRS and self.preset == "nano" and self.bench.judges and self.bench.threads == 2 and not self.bench.quick

    def _bar(self, name: str) -> float | None:
        return 1000 * THEIRS[name] * SHARES[name] if self._compares(name) else None

    def _against_theirs(self, row: Row, speed: float) -> Row:
        if not self._compares(row.name) or not row.value:
            return row
        times = 1000 * THEIRS[row.name] / speed / row.value
        return replace(row, note=f"{times:.1f} times as fast as the comparison", details={"times_as_fast": times})
