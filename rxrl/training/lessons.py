"""What signals teach in each turn of a rollout, as tensors that are cut into minibatches with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rxrl.data.batches import answer_positions
from rxrl.types import EOS, TokenBatch

Item = tuple[Sequence[int], Sequence[int]]
"""Ids of a prompt, markers included, and of an answer to it, without markers."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one signal teaches in each turn of a rollout; it is never observed.

    Attributes:
        tokens: Token sequences of each turn, ids and mask `[turns, batch, items, time]`.
        answer: bool `[turns, batch, items, time]`, tokens whose probability matters.
        weights: What each turn counts in the mean of the signal, `[turns, batch]`; 0 where there is nothing to teach.
        values: A number for each item, `[turns, batch, items]`, or None.
        replaces: The loss of the algorithm leaves the turns that count here to this lesson.
    """

    tokens: TokenBatch
    answer: Tensor
    weights: Tensor
    values: Tensor | None = None
    replaces: bool = False

    @classmethod
    def of(cls, items: Sequence[Sequence[Sequence[Item]]], max_length: int, like: Tensor) -> Lesson:
        """A lesson of prompts with answers, in which every token of an answer counts the same.

        Args:
            items: For each turn and row the items that it has.
            max_length: Longest sequence in tokens, prompt, answer and `[EOS]`; what is longer is cut.
            like: Gives device and precision.
        """
        count = max((len(row) for turn in items for row in turn), default=0) or 1
        flat = [pair for turn in items for row in turn for pair in [*row, *[None] * (count - len(row))]]
        rows = [[] if pair is None else [*pair[0], *pair[1], EOS][:max_length] for pair in flat]
        prompts = torch.tensor([0 if pair is None else len(pair[0]) for pair in flat], dtype=torch.int64)
        batch = TokenBatch.pad(rows)
        shape = (len(items), len(items[0]), count, -1)
        answer = answer_positions(prompts, batch.mask).view(shape).to(like.device)
        tokens = TokenBatch(batch.ids.view(shape), batch.mask.view(shape)).to(like.device)
        return cls(tokens, answer, answer.sum((2, 3)).to(like.dtype))

    @classmethod
    def without_text(cls, weights: Tensor) -> Lesson:
        """A lesson that holds no tokens, only what each turn counts, `[turns, batch]`."""
        nothing = torch.zeros(*weights.shape, 1, 1, dtype=torch.bool, device=weights.device)
        return cls(TokenBatch(nothing.long(), nothing), nothing, weights)

    def rows(self, rows: Tensor) -> Lesson:
        """The lesson of some conversations."""
        return self._cut((slice(None), rows))

    def at(self, turn: int) -> Lesson:
        """The lesson of one turn, index from 0."""
        return self._cut((slice(turn, turn + 1),))

    def where(self, flags: Tensor) -> Lesson:
        """The same with nothing to teach but where `flags`, bool `[turns, batch]`."""
        return replace(self, weights=self.weights * flags)

    def _cut(self, index: tuple[slice | Tensor, ...]) -> Lesson:
        tokens = TokenBatch(self.tokens.ids[index], self.tokens.mask[index])
        values = None if self.values is None else self.values[index]
        return Lesson(tokens, self.answer[index], self.weights[index], values, self.replaces)
