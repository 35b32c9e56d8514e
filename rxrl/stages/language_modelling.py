"""Language modelling: what pre-training and interaction fine-tuning train on, with which loss, and how they are validated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rxrl.algorithms import LossResult
from rxrl.data.batches import checked_ids
from rxrl.data.sources import ConversationSource
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.seeding import generator
from rxrl.stages.config import JointConfig
from rxrl.stages.losses import joint_loss
from rxrl.stages.tasks import ALL_GROUPS
from rxrl.types import BOS, EOS, TokenBatch

Texts = Callable[[int, int], Sequence[str]]
"""`(start, count)` to that many texts of an endless sequence."""


@dataclass(slots=True)
class JointTask:
    """Joint training on texts (`pretrain`) or on single interactions (`sft`)."""

    config: JointConfig
    rows: Callable[[int, int], TokenBatch]
    held_out: TokenBatch
    rows_per_batch: int

    @classmethod
    def on_texts(cls, config: JointConfig, texts: Texts, held_out: Texts, tokenizer: Tokenizer, max_length: int) -> JointTask:
        """Texts as `[BOS] text [EOS]`, without what is beyond the model's length: a text that must be whole is to be short enough."""

        def batch(source: Texts, start: int, count: int) -> TokenBatch:
            return TokenBatch.pad([[BOS, *tokenizer.encode(text)[: max_length - 2], EOS] for text in source(start, count)])

        return cls._sized(config, lambda start, count: batch(texts, start, count), batch(held_out, 0, config.validation_rows))

    @classmethod
    def on_interactions(
        cls,
        config: JointConfig,
        source: ConversationSource,
        held_out: ConversationSource,
        steps: int,
        tokenizer: Tokenizer,
        max_length: int,
    ) -> JointTask:
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
    def _sized(cls, config: JointConfig, rows: Callable[[int, int], TokenBatch], held_out: TokenBatch) -> JointTask:
        mean = float(held_out.mask.sum()) / len(held_out.ids)
        return cls(config, rows, held_out, max(1, round(config.batch_tokens / mean)))

    def groups(self, progress: float) -> frozenset[str]:
        """Everything but memory attention, which joint training does not touch."""
        return ALL_GROUPS - {"memory_attention"}

    def loss(self, model: ReactiveTransformer, step: int) -> tuple[LossResult, int]:
        """Masked and autoregressive loss of one batch."""
        batch = self.rows(step * self.rows_per_batch, self.rows_per_batch).to(model.device)
        return self._loss(model, batch, generator(self.config.seed, "joint", step)), int(batch.mask.sum())

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer) -> dict[str, Any]:
        """Held-out losses; accuracy with the encoded data (not skill: it shows the tokens themselves) and with an empty memory."""
        batch = self.held_out.to(model.device)
        result = self._loss(model, batch, generator(self.config.seed, "joint validation"))
        stm = model.init_memory(len(batch.ids), generator(self.config.seed, "empty memory"))
        logits = model.decode(batch.ids, batch.mask, stm)[:, :-1]
        right = logits.argmax(-1) == batch.ids[:, 1:]
        metrics = {name: float(value) for name, value in result.metrics.items()}
        return metrics | {"loss": float(result.loss), "ar_accuracy_empty_memory": float(right[batch.mask[:, 1:]].float().mean())}

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Runs to its end."""
        return False

    def fingerprints(self) -> list[str]:
        """Hashes of the first rows."""
        return [hashlib.sha256(str(each.ids[:4].tolist()).encode()).hexdigest()[:16] for each in (self.rows(0, 4), self.held_out)]

    def _loss(self, model: ReactiveTransformer, batch: TokenBatch, draws: torch.Generator) -> LossResult:
        c = self.config
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
        )
