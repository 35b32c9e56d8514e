"""Small rewards to shape with: exact match, token overlap, length and repetition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from rxrl.facts import value_words, words
from rxrl.rewards.bleu import WEIGHTS, Smoothing, bleu
from rxrl.rewards.classic import length_ratio
from rxrl.rewards.shape import repetition_shape
from rxrl.types import Score, Turn


class _Reward(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def references_of(turn: Turn) -> tuple[str, ...]:
    """Everything that is right as a whole answer: the reference, its aliases, and the value where one fact is asked."""
    whole = (turn.reference, *turn.aliases.get("*", ()))
    if len(turn.expected) != 1:
        return whole
    [(key, value)] = turn.expected.items()
    return (*whole, value, *turn.aliases.get(key, ()))


class Exact(_Reward):
    """10 where the answer is, word by word, a right answer (reference, alias, or the one value asked for), else 0."""

    name: ClassVar[str] = "exact"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * any(value_words(turn.answer) == value_words(right) for right in references_of(turn))) for turn in turns]


class TokenF1(_Reward):
    """10 * F1 between the words of the answer and those of the reference, repetitions counted; the best alias counts."""

    name: ClassVar[str] = "token_f1"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * self._best(turn)) for turn in turns]

    @staticmethod
    def _best(turn: Turn) -> float:
        answer = Counter(words(turn.answer))
        return max(_f1(answer, Counter(words(right))) for right in (turn.reference, *turn.aliases.get("*", ())))


class Bleu(_Reward):
    """10 * BLEU on tokens against the reference; None where the turn has no reference."""

    name: ClassVar[str] = "bleu"

    ngram_weights: tuple[float, ...] = Field(WEIGHTS, min_length=1, max_length=4, description="Weights of 1-grams to 4-grams.")
    smoothing: Smoothing = Field("method4", description="How orders without a match are smoothed.")
    brevity: bool = Field(True, description="Whether short answers are penalised.")

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        answers, references = [turn.answer_ids for turn in turns], [turn.reference_ids for turn in turns]
        scores = bleu(answers, references, weights=self.ngram_weights, smoothing=self.smoothing, brevity=self.brevity)
        pairs = zip(references, scores.tolist(), strict=True)
        return [Score(min(10.0, 10.0 * score) if reference else None) for reference, score in pairs]


class Length(_Reward):
    """10 * the length of the answer over that of the reference (or the other way round where it is longer), in tokens."""

    name: ClassVar[str] = "length"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [Score(10.0 * length_ratio(len(turn.answer_ids), len(turn.reference_ids))) for turn in turns]


class Repetition(_Reward):
    """10 where the answer repeats itself no more than the reference does, falling to 0 for a loop; 0 when empty."""

    name: ClassVar[str] = "repetition"

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        pairs = [(words(turn.answer), words(turn.reference)) for turn in turns]
        return [Score(10.0 * repetition_shape(answer, reference) if answer else 0.0) for answer, reference in pairs]


def _f1(answer: Counter[str], reference: Counter[str]) -> float:
    total = answer.total() + reference.total()
    return 2 * (answer & reference).total() / total if total else 1.0
