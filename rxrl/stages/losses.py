"""Losses of the supervised stages as pure functions: they return a loss and metrics, and neither print nor log."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.algorithms import LossResult
from rxrl.data.batches import EpisodeBatch
from rxrl.models import ReactiveTransformer
from rxrl.models.experts import RouterStatistics, load_balance_loss
from rxrl.models.trajectory import answer_hidden, memory_trajectory
from rxrl.types import MASK, SPECIAL_TOKENS, TokenBatch


def mask_tokens(batch: TokenBatch, vocab_size: int, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masked language modelling: of the chosen tokens 80 % become `[MASK]`, 10 % random, 10 % stay (Devlin et al. 2019).

    Args:
        batch: Right-padded tokens.
        vocab_size: Random tokens are drawn from the ids behind the special ones.
        share: Share of the real, non-special tokens that is chosen; at least one of each row that has any.
        generator: CPU generator.

    Returns:
        Masked ids int64 `[batch, time]` and chosen positions, bool `[batch, time]`.
    """
    shape = batch.ids.shape
    eligible = batch.mask & (batch.ids >= len(SPECIAL_TOKENS))
    draw = torch.rand(shape, generator=generator).to(batch.ids.device).masked_fill(~eligible, 2.0)
    chosen = (draw < share) | ((draw == draw.amin(1, keepdim=True)) & eligible)
    how = torch.rand(shape, generator=generator).to(batch.ids.device)
    random_ids = torch.randint(len(SPECIAL_TOKENS), vocab_size, shape, generator=generator).to(batch.ids.device)
    masked = torch.where(chosen & (how < 0.8), torch.full_like(batch.ids, MASK), batch.ids)
    return torch.where(chosen & (how >= 0.8) & (how < 0.9), random_ids, masked), chosen


def token_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of `logits` `[tokens, vocab]` for `targets` `[tokens]`."""
    loss = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, targets)
    return loss, (logits.detach().argmax(-1) == targets).float().mean()


def joint_loss(
    model: ReactiveTransformer,
    batch: TokenBatch,
    generator: torch.Generator,
    *,
    mask_share: float = 0.15,
    mlm_weight: float = 1.0,
    ar_weight: float = 1.0,
    noise: float = 0.1,
    slot_dropout: float = 0.5,
    balance_weight: float = 0.01,
) -> LossResult:
    """Joint pre-training: the batch goes masked through the encoder and plain through the decoder.

    The encoder's hidden states, detached, with noise and with random slots hidden, serve as the memory that the decoder reads.

    Args:
        model: The Reactive Transformer.
        batch: Texts or interactions, right-padded.
        generator: CPU generator of masks and noise.
        mask_share: Share of tokens to be predicted by the encoder.
        mlm_weight: Weight of the masked loss.
        ar_weight: Weight of the autoregressive loss.
        noise: Standard deviation of the noise on encoded data.
        slot_dropout: Probability of hiding a slot of the encoded data.
        balance_weight: Weight of the load-balancing loss.
    """
    masked_ids, chosen = mask_tokens(batch, model.config.vocab_size, mask_share, generator)
    encoded = model.encode(masked_ids, batch.mask)
    mlm, mlm_accuracy = token_cross_entropy(model.mlm_head(encoded[-1][chosen]), batch.ids[chosen])
    memory = encoded.detach()
    memory = memory + noise * torch.randn(memory.shape, generator=generator).to(memory)
    kept = torch.rand(batch.mask.shape, generator=generator).to(batch.mask.device) >= slot_dropout
    statistics = RouterStatistics(batch.mask)
    hidden = model.decode_hidden(batch.ids, batch.mask, memory, batch.mask & kept, statistics)
    real = batch.mask[:, 1:]
    ar, ar_accuracy = token_cross_entropy(model.decoder.head(hidden[:, :-1][real]), batch.ids[:, 1:][real])
    balance = _balance(statistics, ar)
    return LossResult(
        ar_weight * ar + mlm_weight * mlm + balance_weight * balance,
        {
            "ar_loss": ar.detach(),
            "ar_accuracy": ar_accuracy,
            "mlm_loss": mlm.detach(),
            "mlm_accuracy": mlm_accuracy,
            "balance": balance.detach(),
        },
    )


def reading_loss(model: ReactiveTransformer, batch: EpisodeBatch, *, balance_weight: float = 0.01) -> tuple[LossResult, Tensor]:
    """Reading: the encoded interaction before each turn, whole and undetached, is the memory that the decoder answers from.

    What joint training cannot teach, because there the decoder is shown the very tokens it predicts: to encode who has what, so that a
    question finds it. Memory attention is not touched.

    Args:
        model: The Reactive Transformer; an encoder that reads memory goes without here.
        batch: Episodes; what a turn asks should stand in the interaction before.
        balance_weight: Weight of the load-balancing loss.

    Returns:
        Loss with metrics, and the likeliest tokens `[tokens]` at the answers, in the order of `batch.turns.ids[batch.answer]`.
    """
    written, turns = _flat(batch.writes), _flat(batch.turns)
    answer = batch.answer.flatten(0, 1)
    statistics = RouterStatistics(turns.mask)
    encoded = model.encode(written.ids, written.mask)
    hidden = model.decode_hidden(turns.ids, turns.mask, encoded, written.mask, statistics)
    logits = model.decoder.head(hidden[:, :-1][answer[:, 1:]])
    loss, accuracy = token_cross_entropy(logits, turns.ids[answer])
    balance = _balance(statistics, loss)
    metrics = {"loss": loss.detach(), "accuracy": accuracy, "balance": balance.detach()}
    return LossResult(loss + balance_weight * balance, metrics), logits.detach().argmax(-1)


def _flat(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(batch.ids.flatten(0, 1), batch.mask.flatten(0, 1))


def memory_mix(turn: int, generator: torch.Generator) -> float:
    """Weight of the new interaction in the target memory: 0.9 on the first write, then falling, varied by up to 15 %.

    Args:
        turn: 0 for the first write, n for the n-th follow-up.
        generator: CPU generator.
    """
    base = 0.9 if turn == 0 else max(0.05, 0.5 - 0.05 * turn)
    return base * (1 + 0.15 * (2 * float(torch.rand((), generator=generator)) - 1))


def memory_attention_loss(
    model: ReactiveTransformer, stm0: Tensor, writes: TokenBatch, generator: torch.Generator, *, noise: float = 0.02
) -> LossResult:
    """Self-supervised memory attention: each write should give a mix of the old memory and the new interaction.

    Slot i belongs to token i; slots beyond an interaction's length keep the old memory as their target. The encoder is frozen.

    Args:
        model: The Reactive Transformer.
        stm0: `[layers, batch, slots, dim]`.
        writes: Interactions in order, ids and mask `[turns, batch, time]`.
        generator: CPU generator of weights and noise.
        noise: Standard deviation of the noise on inputs and targets.
    """
    turns, slots = writes.ids.shape[0], stm0.shape[2]
    # Drawn first, so that neither noise nor padding shifts them.
    weights = [memory_mix(turn, generator) for turn in range(turns)]
    stm, similarities, drifts = stm0, [], []
    for turn in range(turns):
        ids, mask = writes.ids[turn], writes.mask[turn]
        there = mask.any(1)
        with torch.no_grad():
            data = model.encode(ids, mask, stm if model.encoder.reads_memory else None)
            target = _memory_target(stm, data, mask, weights[turn], slots)
            target = target + noise * torch.randn(target.shape, generator=generator).to(target)
            data = data + noise * torch.randn(data.shape, generator=generator).to(data)
        updated = model.update_memory(stm, data, mask)
        similarities.append(F.cosine_similarity(updated, target, dim=-1)[:, there].mean())
        drifts.append((updated - stm).detach()[:, there].pow(2).mean())
        stm = updated.detach()
    similarity = torch.stack(similarities).mean()
    return LossResult(-similarity, {"cosine": similarity.detach(), "drift": torch.stack(drifts).mean()})


def _memory_target(stm: Tensor, encoded: Tensor, mask: Tensor, weight: float, slots: int) -> Tensor:
    width = min(slots, encoded.shape[2])
    target = stm.clone()
    mixed = torch.lerp(stm[:, :, :width], encoded[:, :, :width], weight)
    target[:, :, :width] = torch.where(mask[None, :, :width, None], mixed, stm[:, :, :width])
    return target


def smat_loss(
    model: ReactiveTransformer,
    stm0: Tensor,
    batch: EpisodeBatch,
    *,
    bptt_turns: int | None = None,
    balance_weight: float = 0.01,
    memory: str = "true",
) -> LossResult:
    """Supervised memory-aware training: the real cycle, teacher-forced, cross-entropy on the answers' tokens.

    Args:
        model: The Reactive Transformer.
        stm0: `[layers, batch, slots, dim]`.
        batch: Episodes.
        bptt_turns: Gradient window through memory; None: the whole conversation.
        balance_weight: Weight of the load-balancing loss.
        memory: `true`; or, to measure what memory contributes, `empty` (stm0 at every turn) or `other` (that of the next conversation).
    """
    stms = memory_trajectory(model, stm0, batch.writes.ids, batch.writes.mask, bptt_turns)
    if memory == "empty":
        stms = stm0.unsqueeze(1).expand_as(stms)
    elif memory == "other":
        stms = stms.roll(1, dims=2)
    statistics = RouterStatistics(batch.turns.mask)
    hidden = answer_hidden(model, stms, batch.turns, batch.answer, statistics)
    loss, accuracy = token_cross_entropy(model.decoder.head(hidden), batch.turns.ids[batch.answer])
    balance = _balance(statistics, loss)
    return LossResult(loss + balance_weight * balance, {"loss": loss.detach(), "accuracy": accuracy, "balance": balance.detach()})


def _balance(statistics: RouterStatistics, like: Tensor) -> Tensor:
    return load_balance_loss(*statistics.sums()) if statistics.loads else like.new_zeros(())
