"""`classic`, the published reward: resemblance to the reference and to what was saved.

    reward = 10 * (0.4 BLEU + 0.5 cosine + 0.1 length)

It has three modes. *multi-step*: BLEU and cosine against the reference and the saved data. *topic-change* (first turn
of a long-range episode): likeness to the saved data counts against the answer. *long-range* (the turns after it): as
multi-step, but likeness to the running mean of the earlier turns counts against the answer.
It measures resemblance: an answer that names the wrong entity in the right sentence scores high.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from rxrl.rewards.bleu import WEIGHTS, bleu
from rxrl.rewards.embedding import Embed, HashedEmbedding, cosines
from rxrl.rewards.options import Options, saved_ids, ten
from rxrl.types import Score, Turn

Mode = Literal["multi-step", "topic-change", "long-range"]


class Parts(Options):
    """Weights of the three parts of the score."""

    bleu: float = Field(0.4, ge=0, description="Weight of BLEU.")
    cosine: float = Field(0.5, ge=0, description="Weight of the cosine of mean token embeddings.")
    length: float = Field(0.1, ge=0, description="Weight of the length ratio.")

    @cached_property
    def shares(self) -> dict[str, float]:
        """Normalised weights; empty where all are 0."""
        total = self.bleu + self.cosine + self.length
        return {name: weight / total for name, weight in self.model_dump().items() if weight}


class Against(Options):
    """Weights of what an answer is compared with."""

    reference: float = Field(ge=0, description="Weight of the reference.")
    saved: float = Field(ge=0, description="Weight of the saved data.")
    mean: float = Field(0.0, ge=0, description="Weight of the running mean of the earlier turns.")

    @cached_property
    def shares(self) -> dict[str, float]:
        """Normalised weights of what is compared with; empty where all are 0."""
        total = self.reference + self.saved + self.mean
        return {name: weight / total for name, weight in self.model_dump().items() if weight}


class Classic(Options):
    """The published reward: 10 * (0.4 BLEU + 0.5 cosine + 0.1 length), likeness to the reference and to what was saved.

    Terms: `bleu`, `cosine` and `length`, each from 0 to 10.
    """

    name: ClassVar[str] = "classic"
    needs_reference: ClassVar[bool] = True

    parts: Parts = Field(Parts(), description="Weights of BLEU, cosine and length.")
    topic_change_parts: Parts = Field(Parts(bleu=0.45, cosine=0.45, length=0.1), description="The same on the turn that changes the topic.")
    bleu_against: Against = Field(Against(reference=0.4, saved=0.6), description="What BLEU compares with.")
    cosine_first: Against = Field(Against(reference=0.35, saved=0.65), description="What cosine compares with on the first turn.")
    cosine_later: Against = Field(Against(reference=0.3, saved=0.5, mean=0.2), description="What cosine compares with on later turns.")
    topic_change: Against = Field(
        Against(reference=0.3, saved=0.7), description="What both compare with on the turn that changes the topic; saved counts as 1 - x."
    )
    ngram_weights: tuple[float, ...] = Field(WEIGHTS, min_length=1, max_length=4, description="BLEU weights of 1-grams to 4-grams.")
    decay: float = Field(0.2, ge=0, lt=1, description="Share of the old running mean that stays when a turn is added.")
    embed: Any = Field(default_factory=HashedEmbedding, exclude=True, description="Mean token embeddings: rows of ids -> [batch, dim].")

    @field_validator("embed", mode="before")
    @classmethod
    def _default_embedding(cls, embed: Embed | None) -> Embed:
        return HashedEmbedding() if embed is None else embed

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        answers = [turn.answer_ids for turn in turns]
        references = [turn.reference_ids for turn in turns]
        saved = [saved_ids(turn.saved) for turn in turns]
        bleus = bleu([*answers, *answers], [*references, *saved], weights=self.ngram_weights).tolist()
        cosines = self._cosines(turns, answers, references, saved)
        scores = []
        for i, turn in enumerate(turns):
            similar = {"reference": bleus[i], "saved": bleus[len(turns) + i]}
            scores.append(self._score(turn, similar, {name: values[i] for name, values in cosines.items()}))
        return scores

    def _score(self, turn: Turn, bleus: dict[str, float], cosines: dict[str, float]) -> Score:
        mode = mode_of(turn)
        parts = self.topic_change_parts if mode == "topic-change" else self.parts
        if mode == "topic-change":
            flipped = frozenset({"saved"})
            by_bleu, by_cosine = self.topic_change, self.topic_change
        else:
            flipped = frozenset({"mean"}) if mode == "long-range" else frozenset()
            by_bleu = self.bleu_against
            by_cosine = self.cosine_first if turn.index == 1 else self.cosine_later
        terms = {
            "bleu": _weighted(by_bleu, bleus, flipped),
            "cosine": _weighted(by_cosine, cosines, flipped),
            "length": length_ratio(len(turn.answer_ids), len(turn.reference_ids)),
        }
        value = sum(share * terms[name] for name, share in parts.shares.items())
        return Score(ten(value), {name: ten(term) for name, term in terms.items()})

    def _cosines(
        self, turns: Sequence[Turn], answers: list[tuple[int, ...]], references: list[tuple[int, ...]], saved: list[tuple[int, ...]]
    ) -> dict[str, list[float]]:
        """Cosine of each answer with its reference, its saved data and the running mean of the earlier turns."""
        earlier = [turn.history if turn.index > 1 else () for turn in turns]
        rows = [*answers, *references, *saved, *(saved_ids([each]) for history in earlier for each in history)]
        vectors = self._embedded(rows)
        count = len(turns)
        own, by_reference, by_saved = vectors[: 3 * count].view(3, count, -1)
        rest = vectors[3 * count :]
        means = self._running_means(rest, [len(history) for history in earlier], own)
        return {
            "reference": cosines(own, by_reference),
            "saved": cosines(own, by_saved),
            "mean": cosines(own, means),
        }

    def _embedded(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """Embeddings `[batch, dim]`; rows that occur often (saved data is part of the history) are embedded once."""
        places = {row: place for place, row in enumerate(dict.fromkeys(rows))}
        vectors: Tensor = self.embed(list(places)).float()
        return vectors[[places[row] for row in rows]]

    def _running_means(self, vectors: Tensor, counts: list[int], like: Tensor) -> Tensor:
        """`mean <- decay * mean + (1 - decay) * turn` over the earlier turns of each row, started at the first, `[batch, dim]`."""
        shares = [share for count in counts for share in self._shares(count)]
        rows = [row for row, count in enumerate(counts) for _ in range(count)]
        weighted = vectors * torch.tensor(shares, dtype=vectors.dtype, device=vectors.device)[:, None]
        return torch.zeros_like(like).index_add_(0, torch.tensor(rows, dtype=torch.int64, device=vectors.device), weighted)

    def _shares(self, count: int) -> list[float]:
        """Weight of each of `count` turns in their running mean, oldest first."""
        shares = [(1.0 - self.decay) * self.decay**age for age in range(count - 1, -1, -1)]
        return [self.decay ** (count - 1), *shares[1:]] if count else []


def mode_of(turn: Turn) -> Mode:
    """The mode in which a turn is scored."""
    if turn.strategy != "long-range":
        return "multi-step"
    return "topic-change" if turn.index == 1 else "long-range"


def length_ratio(answer: int, reference: int) -> float:
    """Returns answer / reference up to the length of the reference, reference / answer above it; in [0, 1]."""
    longer = max(answer, reference)
    return min(answer, reference) / longer if longer else 1.0


def _weighted(against: Against, similar: dict[str, float], flipped: frozenset[str]) -> float:
    """Weighted mean of similarities; those in `flipped` count as 1 - x."""
    return sum(share * (1.0 - similar[name] if name in flipped else similar[name]) for name, share in against.shares.items())
