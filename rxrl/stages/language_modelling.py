"""Language modelling: what pre-training and interaction fine-tuning train on, with which loss, and how they are validated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rxrl.algorithms import LossResult
from rxrl.data.batches import checked_ids, texts_apart
from rxrl.data.sources import ConversationSource
from rxrl.data.stores import PackedRows
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.runs.processes import Share
from rxrl.seeding import generator
from rxrl.stages.batches import RowDraws, StageBatch, Whole, Widest, widened
from rxrl.stages.config import LanguageConfig
from rxrl.stages.losses import decoder_loss, encoder_loss, joint_loss, masked_counts, predicted
from rxrl.stages.tasks import ALL_GROUPS
from rxrl.types import BOS, EOS, TokenBatch

Texts = Callable[[int, int], Sequence[str]]
"""`(start, count)` to that many texts of an endless sequence."""
Part = Literal["joint", "encoder", "decoder"]


@dataclass(slots=True)
class LanguageTask:
    """Language modelling on texts (`pretrain`) or on single interactions (`sft`)."""

    config: LanguageConfig
    rows: Callable[[int, int], TokenBatch]
    held_out: TokenBatch
    rows_per_batch: int

    @classmethod
    def on_texts(cls, config: LanguageConfig, texts: Texts, held_out: Texts, tokenizer: Tokenizer, max_length: int) -> LanguageTask:
        """Texts as `[BOS] text [EOS]`, without what is beyond the model's length: a text that must be whole is to be short enough."""

        def batch(source: Texts, start: int, count: int) -> TokenBatch:
            return TokenBatch.pad([[BOS, *tokenizer.encode(text)[: max_length - 2], EOS] for text in source(start, count)])

        return cls._sized(config, lambda start, count: batch(texts, start, count), batch(held_out, 0, config.validation_rows))

    @classmethod
    def on_packed(cls, config: LanguageConfig, texts: PackedRows, held_out: PackedRows) -> LanguageTask:
        """Texts of token stores, packed into rows of the model's length."""
        validated = held_out.batch(0, min(config.validation_rows, held_out.blocks)).tokens
        return cls._sized(config, lambda start, count: texts.batch(start, count).tokens, validated)

    @classmethod
    def on_interactions(
        cls,
        config: LanguageConfig,
        source: ConversationSource,
        held_out: ConversationSource,
        steps: int,
        tokenizer: Tokenizer,
        max_length: int,
    ) -> LanguageTask:
        """Single interactions as `[BOS] [Q] query [A] answer [EOS]`.

        Raises:
            DataError: An interaction is longer than `max_length`; here for the held-out ones, for others when their batch is made.
        """
        per = steps + 1

        def batch(supply: ConversationSource, start: int, count: int) -> TokenBatch:
            first, last = start // per, (start + count - 1) // per
            found = supply.take(steps=steps, strategy="multi-step", start=first, count=last - first + 1)
            flat = [(conversation, turn) for conversation in found for turn in range(per)][start - first * per :][:count]
            return TokenBatch.pad([checked_ids(conversation, turn, tokenizer, max_length)[0] for conversation, turn in flat])

        return cls._sized(config, lambda start, count: batch(source, start, count), batch(held_out, 0, config.validation_rows))

    @classmethod
    def _sized(cls, config: LanguageConfig, rows: Callable[[int, int], TokenBatch], held_out: TokenBatch) -> LanguageTask:
        mean = float(held_out.mask.sum()) / len(held_out.ids)
        return cls(config, rows, held_out, max(1, round(config.batch_tokens / mean)))

    def groups(self, progress: float) -> frozenset[str]:
        """Joint training does not touch memory attention; separate training nothing that has to do with memory."""
        if (part := self.part(progress)) == "joint":
            return ALL_GROUPS - {"memory_attention"}
        if part == "encoder":
            return frozenset({"embedding", "encoder"})
        return frozenset({"decoder"} if self.config.freeze_embedding else {"decoder", "embedding"})

    def frozen(self, model: ReactiveTransformer, progress: float) -> Iterable[nn.Parameter]:
        """Reads of memory by the encoder, in separate training."""
        if self.part(progress) != "encoder" or not model.encoder.reads_memory:
            return ()
        layers = [(layer.memory_cross_attention, layer.norm2, layer.stm_norm) for layer in model.encoder.layers]
        return (p for layer in layers for module in layer if module is not None for p in module.parameters())

    def schedule(self, progress: float) -> float:
        """Progress of the part that is trained: each has a schedule of its own."""
        share = self.config.encoder_share
        return {
            "joint": progress,
            "encoder": progress / (share or 1.0),
            "decoder": (progress - share) / ((1.0 - share) or 1.0),
        }[self.part(progress)]

    def part(self, progress: float) -> Part:
        """What is trained at `progress` in [0, 1] of the stage."""
        c = self.config
        if c.mode == "joint":
            return "joint"
        return "encoder" if progress < c.encoder_share or c.encoder_share == 1 else "decoder"

    def size(self, step: int) -> int:
        """Rows of the batch of `step`."""
        return self.rows_per_batch

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Some rows of the batch of `step`."""
        own = self.rows(step * self.rows_per_batch + share.start, share.stop - share.start)
        batch, part = widened(own, widest(own.ids.shape[1])), self.part(progress)

        def rows_of(model: ReactiveTransformer, rows: Share) -> tuple[TokenBatch, RowDraws]:
            at = slice(rows.start - share.start, rows.stop - share.start)
            chosen = TokenBatch(batch.ids[at], batch.mask[at]).to(model.device)
            return chosen, RowDraws.keyed(rows, batch.ids.shape[1], self.config.seed, "joint", step)

        def counts(model: ReactiveTransformer, rows: Share) -> Mapping[str, Tensor]:
            return masked_counts(model, *rows_of(model, rows), self.config.mask_share)

        def loss(model: ReactiveTransformer, rows: Share, whole: Whole | None) -> LossResult:
            return self._loss(part, model, *rows_of(model, rows), whole)

        return StageBatch(share, int(batch.mask.sum()), batch.mask.numel(), counts, loss)

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out losses; accuracy with the encoded data (not skill: it shows the tokens themselves) and with an empty memory."""
        batch, part = self.held_out.to(model.device), self.part(progress)
        result = self._loss(part, model, batch, generator(self.config.seed, "joint validation"), None)
        metrics = {name: float(value) for name, value in result.metrics.items()} | {"loss": float(result.loss)}
        if part == "encoder":
            return metrics
        if part == "decoder":
            # What follows the encoder is later, whatever its loss.
            return metrics | {"part": 1}
        stm = model.init_memory(len(batch.ids), generator(self.config.seed, "empty memory"))
        reads, positions = texts_apart(batch, self.config.reset_positions)
        logits = model.decode(batch.ids, reads, stm, positions=positions)[:, :-1]
        right = logits.argmax(-1) == batch.ids[:, 1:]
        return metrics | {"ar_accuracy_empty_memory": float(right[predicted(model, batch)].float().mean())}

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Runs to its end."""
        return False

    def fingerprints(self) -> list[str]:
        """Hashes of the first rows."""
        return [hashlib.sha256(str(each.ids[:4].tolist()).encode()).hexdigest()[:16] for each in (self.rows(0, 4), self.held_out)]

    def _loss(
        self, part: Part, model: ReactiveTransformer, batch: TokenBatch, draws: torch.Generator | RowDraws, whole: Whole | None
    ) -> LossResult:
        c = self.config
        if part == "encoder":
            return encoder_loss(model, batch, draws, mask_share=c.mask_share, whole=whole)
        if part == "decoder":
            return decoder_loss(model, batch, draws, balance_weight=c.balance, reset_positions=c.reset_positions, whole=whole)
        return joint_loss(
            model,
            batch,
            draws,
            mask_share=c.mask_share,
            mlm_weight=c.mlm_weight,
            ar_weight=c.ar_weight,
            noise=c.noise,
            slot_dropout=c.slot_dropout,
            balance_weight=c.balance,
            reset_positions=c.reset_positions,
            whole=whole,
        )
