"""The baseline that re-reads: a causal decoder with the whole conversation in front of it, in place of a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rxrl.algorithms import LossResult
from rxrl.data.batches import EpisodeBatch
from rxrl.models import ReactiveTransformer
from rxrl.runs.processes import Share
from rxrl.stages.batches import StageBatch, Whole, Widest
from rxrl.stages.losses import answer_counts, token_cross_entropy, total_of
from rxrl.stages.tasks import SmatTask, asking_accuracy
from rxrl.types import TokenBatch


@dataclass(frozen=True, slots=True)
class Transcript:
    """Whole conversations, one sequence a row.

    Attributes:
        tokens: `[batch, time]`, right-padded.
        answer: bool `[batch, time]`, true for tokens of answers.
        place: int64 `[batch, time]`: where each token stands in the turns of the episodes laid end to end.
    """

    tokens: TokenBatch
    answer: Tensor
    place: Tensor

    @classmethod
    def of(cls, batch: EpisodeBatch) -> Transcript:
        """The first interaction and all turns behind one another, padding taken out."""
        first = TokenBatch(batch.writes.ids[0], batch.writes.mask[0])
        ids = torch.cat([first.ids, _in_rows(batch.turns.ids)], dim=1)
        mask = torch.cat([first.mask, _in_rows(batch.turns.mask)], dim=1)
        answer = torch.cat([torch.zeros_like(first.mask), _in_rows(batch.answer)], dim=1)
        place = torch.argsort((~mask).to(torch.int8), dim=1, stable=True)[:, : int(mask.sum(1).max())]
        kept = mask.gather(1, place)
        return cls(TokenBatch(ids.gather(1, place), kept), answer.gather(1, place) & kept, place)

    def in_turns(self, values: Tensor, batch: EpisodeBatch) -> Tensor:
        """Values of tokens `[batch, time]` where the turns have theirs, `[turns, batch, time]`."""
        width, (turns, rows, time) = batch.writes.ids.shape[-1], batch.turns.ids.shape
        laid = values.new_zeros(rows, width + turns * time).scatter(1, self.place, values)
        return laid[:, width:].view(rows, turns, time).transpose(0, 1)


def _in_rows(turns: Tensor) -> Tensor:
    """`[turns, batch, time]` to `[batch, turns * time]`."""
    return turns.transpose(0, 1).flatten(1)


def rereading_loss(model: ReactiveTransformer, batch: EpisodeBatch, *, whole: Whole | None = None) -> tuple[LossResult, Tensor]:
    """Cross-entropy on the answers' tokens, each read with all that was said before.

    Args:
        model: Its decoder; what it reads as memory is empty.
        batch: Episodes.
        whole: The batch that these rows are a part of; None: they are all of it.

    Returns:
        Loss, and the likeliest token at each token of the answers, in the order of `batch.answer`.

    Raises:
        ModelError: A conversation is longer than the model's context.
    """
    told = Transcript.of(batch)
    tokens, answer = told.tokens, told.answer[:, 1:]
    hidden = model.decode_hidden(tokens.ids[:, :-1], tokens.mask[:, :-1], model.init_memory(len(tokens.ids)))
    logits = model.decoder.head(hidden[answer])
    loss, accuracy = token_cross_entropy(logits, tokens.ids[:, 1:][answer], total_of(whole, "answer"))
    chosen = torch.zeros_like(tokens.ids)
    chosen[:, 1:][answer] = logits.detach().argmax(-1)
    likeliest = told.in_turns(chosen, batch)[batch.answer]
    return LossResult(loss, {"loss": loss.detach(), "accuracy": accuracy}), likeliest


@dataclass(slots=True)
class RereadingTask(SmatTask):
    """The conversations and phases of memory-aware training, for a model without memory."""

    def groups(self, progress: float) -> frozenset[Any]:
        """All that the model has."""
        return frozenset({"embedding", "decoder", "decoder_memory"})

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Cross-entropy on the answers' tokens."""
        start, self.position = self.position + share.start, self.position + share.total
        batch = self.batch(self.source, self._current.steps, self._strategy, start, share.stop - share.start)

        def loss(model: ReactiveTransformer, own: EpisodeBatch, rows: Share, whole: Whole | None) -> LossResult:
            return rereading_loss(model, own, whole=whole)[0]

        return self.rows_of(batch, share, loss, answer_counts)

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out loss and the share of asking turns answered right, every token."""
        batch = self.held_out_batch(self._current.steps, self._strategy).to(model.device)
        result, likeliest = rereading_loss(model, batch)
        metrics: dict[str, Any] = {name: float(value) for name, value in result.metrics.items()}
        return metrics | {"steps": self._current.steps} | asking_accuracy(batch, likeliest)
