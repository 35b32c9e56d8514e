"""The batch of a step, divided among processes and passes: neither its draws nor its loss nor its gradients depend on how."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.algorithms import LossResult
from rxrl.algorithms.advantages import Reduce
from rxrl.errors import ConfigError
from rxrl.models import ReactiveTransformer
from rxrl.runs.processes import Processes, Share
from rxrl.seeding import generator
from rxrl.types import PAD, TokenBatch

BLOCK = 16_384
"""Positions of a batch, about, whose draws come from one generator, so that a process need not make the draws of the whole batch."""

Widest = Callable[[int], int]
"""Columns of the whole batch, given those of the rows that this process has."""


class RowDraws:
    """Draws for some rows of a batch; they do not depend on which other rows are drawn with them.

    Args:
        share: The rows.
        generators: CPU generator of each block of rows, by number; that of block 0 is always there.
        block: Rows of a block.
    """

    def __init__(self, share: Share, generators: Mapping[int, torch.Generator], block: int) -> None:
        self.share, self._generators, self._block = share, generators, block

    @classmethod
    def keyed(cls, share: Share, columns: int, *key: int | str) -> RowDraws:
        """Draws for the purpose that `key` names, for example `(seed, "joint", step)`; `columns` are those of the whole batch."""
        rows = max(1, BLOCK // columns)
        blocks = {0, *range(share.start // rows, -(-share.stop // rows))}
        return cls(share, {block: generator(*key, *(("rows", block) if block else ())) for block in blocks}, rows)

    @classmethod
    def of(cls, draws: torch.Generator | RowDraws, rows: int) -> RowDraws:
        """Draws from one generator for a batch of `rows`; draws stay as they are."""
        return draws if isinstance(draws, RowDraws) else cls(Share(0, rows, rows), {0: draws}, max(1, rows))

    def number(self) -> float:
        """One number in [0, 1) that all rows share."""
        return float(torch.rand((), generator=self._generators[0]))

    def rows(self, make: Callable[[int, torch.Generator], Tensor], dim: int = 0) -> Tensor:
        """The share's rows, along `dim`, of what `make(rows, generator)` draws for whole blocks."""
        found = []
        for block in range(self.share.start // self._block, -(-self.share.stop // self._block)):
            first = block * self._block
            rows = min(self._block, self.share.total - first)
            start, stop = max(self.share.start - first, 0), min(self.share.stop - first, rows)
            found.append(make(rows, self._generators[block]).narrow(dim, start, stop - start))
        return found[0] if len(found) == 1 else torch.cat(found, dim)

    def uniform(self, columns: int) -> Tensor:
        """Numbers in [0, 1), `[rows, columns]`."""
        return self.rows(lambda rows, draws: torch.rand(rows, columns, generator=draws))

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of `like` `[layers, rows, ...]`."""
        layers, _, *rest = like.shape
        return self.rows(lambda rows, draws: torch.randn(layers, rows, *rest, generator=draws), dim=1).to(like)

    def memory(self, model: ReactiveTransformer) -> Tensor:
        """Fresh memory of the rows, `[layers, rows, slots, dim]`."""
        return self.rows(model.init_memory, dim=1)


def _as_it_is(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True, slots=True)
class Whole:
    """What a loss on some rows of a batch is told of the whole, so that the losses of all parts add up to that of the whole.

    Attributes:
        totals: Counts that sums are divided by, by name: means over processes, because gradients are averaged over them.
        reduce: What the experts got in these rows to what they got in all of them.
    """

    totals: Mapping[str, Tensor]
    reduce: Reduce = _as_it_is


@dataclass(frozen=True, slots=True)
class StageBatch:
    """The rows of a batch that one process has.

    Attributes:
        share: Which rows of the whole batch they are.
        tokens: Real tokens.
        positions: Tokens and padding.
        counts: What the loss on some of the rows divides by, before it is computed.
        loss: Of some of the rows; without `Whole` they are all of the batch.
    """

    share: Share
    tokens: int
    positions: int
    counts: Callable[[ReactiveTransformer, Share], Mapping[str, Tensor]]
    loss: Callable[[ReactiveTransformer, Share, Whole | None], LossResult]

    def parts(self, count: int) -> list[Share]:
        """The rows in `count` parts of about equal size, at most one for each row."""
        size, total = self.share.stop - self.share.start, self.share.total
        count = min(count, size)
        edges = [self.share.start + size * number // count for number in range(count + 1)]
        return [Share(start, stop, total) for start, stop in pairwise(edges)]


def share_of(rows: int, processes: Processes) -> Share:
    """The rows of a batch that this process has: neighbours, about equally many each.

    Raises:
        ConfigError: There are more processes than rows.
    """
    count, rank = processes.count, processes.rank
    if rows < count:
        raise ConfigError(f"{count} processes cannot share a batch of {rows} rows: raise batch_tokens, or use fewer processes.")
    return Share(rows * rank // count, rows * (rank + 1) // count, rows)


def widened(batch: TokenBatch, columns: int) -> TokenBatch:
    """The same batch `[..., time]` with padding up to `columns`."""
    missing = columns - batch.ids.shape[-1]
    return TokenBatch(F.pad(batch.ids, (0, missing), value=PAD), F.pad(batch.mask, (0, missing))) if missing else batch


@dataclass(slots=True)
class RouterCounts:
    """Takes what the router counted in each part of a batch, and gives back the counts of the whole."""

    summed: dict[int, Tensor] = field(default_factory=dict)

    def count(self, value: Tensor) -> Tensor:
        """Adds the counts of one part; a batch has one tensor of each number of axes."""
        self.summed[value.ndim] = self.summed.get(value.ndim, torch.zeros_like(value)) + value
        return value

    def reduced(self, reduce: Reduce) -> Reduce:
        """Looks up the counts of all parts and processes."""
        whole = {ndim: reduce(value) for ndim, value in sorted(self.summed.items())}
        return lambda value: whole[value.ndim]


def sum_of_parts(results: Sequence[LossResult]) -> LossResult:
    """The loss and the metrics of a batch from those of its parts."""
    if len(results) == 1:
        return results[0]
    metrics = {name: torch.stack([each.metrics[name] for each in results]).sum() for name in results[0].metrics}
    return LossResult(torch.stack([each.loss for each in results]).sum(), metrics)
