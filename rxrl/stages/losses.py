"""Losses of the supervised stages as pure functions: they return a loss and metrics, and neither print nor log."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.algorithms import LossResult
from rxrl.data.batches import EpisodeBatch, next_tokens, texts_apart
from rxrl.models import ReactiveTransformer
from rxrl.models.experts import RouterStatistics, load_balance_loss
from rxrl.models.memory_tokens import MemoryTokenDecoder
from rxrl.models.trajectory import EXACT, GradientFlow, answer_hidden, memory_trajectory
from rxrl.models.transformer import Decoder, Encoder
from rxrl.stages.batches import RowDraws, Whole
from rxrl.template import INTERNAL, RESULT, THINK
from rxrl.types import ANSWER, MASK, QUERY, SPECIAL_TOKENS, TokenBatch


def mask_tokens(
    batch: TokenBatch, vocab_size: int, share: float, draws: torch.Generator | RowDraws, special: int = len(SPECIAL_TOKENS)
) -> tuple[Tensor, Tensor]:
    """Masked language modelling: of the chosen tokens 80 % become `[MASK]`, 10 % random, 10 % stay (Devlin et al. 2019).

    Args:
        batch: Right-padded tokens.
        vocab_size: Random tokens are drawn from the ids behind the special ones.
        share: Share of the real, non-special tokens that is chosen; at least one of each row that has any.
        draws: Of the rows, or a CPU generator.
        special: Special tokens of the vocabulary.

    Returns:
        Masked ids int64 `[batch, time]` and chosen positions, bool `[batch, time]`.
    """
    columns, device = batch.ids.shape[1], batch.ids.device
    drawn = RowDraws.of(draws, len(batch.ids))
    eligible = batch.mask & (batch.ids >= special)
    draw = drawn.uniform(columns).to(device).masked_fill(~eligible, 2.0)
    chosen = (draw < share) | ((draw == draw.amin(1, keepdim=True)) & eligible)
    how = drawn.uniform(columns).to(device)
    random_ids = drawn.rows(lambda rows, each: torch.randint(special, vocab_size, (rows, columns), generator=each)).to(device)
    masked = torch.where(chosen & (how < 0.8), torch.full_like(batch.ids, MASK), batch.ids)
    return torch.where(chosen & (how >= 0.8) & (how < 0.9), random_ids, masked), chosen


def token_cross_entropy(logits: Tensor, targets: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy of `logits` `[tokens, vocab]` for `targets` `[tokens]`.

    Args:
        logits: Of the next token.
        targets: The tokens.
        total: Tokens of the whole batch, of which these are a part; None: these are all.
    """
    loss = F.cross_entropy(logits.float() if logits.dtype != torch.float64 else logits, targets, reduction="sum")
    right = (logits.detach().argmax(-1) == targets).float().sum()
    count = loss.new_tensor(len(targets)) if total is None else total.to(loss.dtype)
    return loss / count, right / count.to(right.dtype)


def total_of(whole: Whole | None, name: str) -> Tensor | None:
    """A count of the whole batch; None where the rows at hand are the whole."""
    return None if whole is None else whole.totals[name]


def joint_loss(
    model: ReactiveTransformer,
    batch: TokenBatch,
    draws: torch.Generator | RowDraws,
    *,
    mask_share: float = 0.15,
    mlm_weight: float = 1.0,
    ar_weight: float = 1.0,
    noise: float = 0.1,
    slot_dropout: float = 0.5,
    balance_weight: float = 0.01,
    reset_positions: bool = True,
    whole: Whole | None = None,
) -> LossResult:
    """Joint pre-training: the batch goes masked through the encoder and plain through the decoder.

    The encoder's hidden states, detached, with noise and with random slots hidden, serve as the memory that the decoder reads.

    Args:
        model: The Reactive Transformer.
        batch: Texts or interactions, right-padded. A row may hold several, each from its `[BOS]` on, which do not see each other.
        draws: Of masks and noise.
        mask_share: Share of tokens to be predicted by the encoder.
        mlm_weight: Weight of the masked loss.
        ar_weight: Weight of the autoregressive loss.
        noise: Standard deviation of the noise on encoded data.
        slot_dropout: Probability of hiding a slot of the encoded data.
        balance_weight: Weight of the load-balancing loss.
        reset_positions: Whether positions begin anew at each text of a row.
        whole: The batch that these rows are a part of; None: they are all of it.
    """
    drawn = RowDraws.of(draws, len(batch.ids))
    masked_ids, chosen = mask_tokens(batch, model.config.vocab_size, mask_share, drawn, model.config.special_tokens)
    reads, positions = texts_apart(batch, reset_positions)
    encoded = model.encode(masked_ids, reads)
    mlm, mlm_accuracy = _masked(model, encoded, batch, chosen, whole)
    memory = encoded.detach()
    memory = memory + noise * drawn.normal(memory)
    kept = drawn.uniform(batch.ids.shape[1]).to(batch.mask.device) >= slot_dropout
    slots = reads & (kept if reads.ndim == 2 else kept.unsqueeze(1))
    ar, ar_accuracy, balance = _autoregressive(model, batch, memory, slots, (reads, positions), whole)
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


def encoder_loss(
    model: ReactiveTransformer,
    batch: TokenBatch,
    draws: torch.Generator | RowDraws,
    *,
    mask_share: float = 0.15,
    whole: Whole | None = None,
) -> LossResult:
    """Masked language modelling of the encoder with the MLM head; arguments as in `joint_loss`."""
    drawn = RowDraws.of(draws, len(batch.ids))
    masked_ids, chosen = mask_tokens(batch, model.config.vocab_size, mask_share, drawn, model.config.special_tokens)
    stm = None if silent(model.encoder) else drawn.memory(model)
    loss, accuracy = _masked(model, model.encode(masked_ids, texts_apart(batch)[0], stm), batch, chosen, whole)
    return LossResult(loss, {"mlm_loss": loss.detach(), "mlm_accuracy": accuracy})


def decoder_loss(
    model: ReactiveTransformer,
    batch: TokenBatch,
    draws: torch.Generator | RowDraws,
    *,
    balance_weight: float = 0.01,
    reset_positions: bool = True,
    whole: Whole | None = None,
) -> LossResult:
    """Autoregressive language modelling of the decoder, memory in its initial state; arguments as in `joint_loss`."""
    drawn = RowDraws.of(draws, len(batch.ids))
    c = model.config
    # What nothing is read from may be small.
    memory = torch.zeros(c.layers, len(batch.ids), 1, c.dim).to(model.decoder.head.weight) if silent(model.decoder) else drawn.memory(model)
    loss, accuracy, balance = _autoregressive(model, batch, memory, None, texts_apart(batch, reset_positions), whole)
    metrics = {"ar_loss": loss.detach(), "ar_accuracy": accuracy, "balance": balance.detach()}
    return LossResult(loss + balance_weight * balance, metrics)


def silent(part: Encoder | Decoder) -> bool:
    """Whether nothing that memory holds reaches the hidden states: there is no memory cross-attention, or its output is zero."""
    if isinstance(part, MemoryTokenDecoder):
        return False
    reads = [layer.memory_cross_attention for layer in part.layers]
    return not any(bool(each.out_proj.weight.any()) or bool(each.out_proj.bias.any()) for each in reads if each is not None)


def masked_counts(model: ReactiveTransformer, batch: TokenBatch, draws: RowDraws, share: float) -> dict[str, Tensor]:
    """What the losses of language modelling divide by: tokens that the encoder and that the decoder predict."""
    chosen = mask_tokens(batch, model.config.vocab_size, share, draws, model.config.special_tokens)[1]
    return {"mlm": chosen.sum(), "ar": predicted(model, batch).sum()}


def predicted(model: ReactiveTransformer, batch: TokenBatch) -> Tensor:
    """Tokens that the decoder learns to predict from those before them, bool `[batch, time - 1]`.

    All real ones; in the interaction template, those of an interaction that the model itself says, behind the first `[T]` or `[A]`.
    """
    real = next_tokens(batch)
    if not model.config.template:
        return real
    told = ~torch.isin(batch.ids[:, 1:2], batch.ids.new_tensor((QUERY, INTERNAL, RESULT)))
    begun = torch.isin(batch.ids, batch.ids.new_tensor((THINK, ANSWER))).cumsum(1) > 0
    return real & (told | begun[:, :-1])


def _masked(model: ReactiveTransformer, encoded: Tensor, batch: TokenBatch, chosen: Tensor, whole: Whole | None) -> tuple[Tensor, Tensor]:
    """Loss and accuracy at the chosen tokens."""
    return token_cross_entropy(model.mlm_head(encoded[-1][chosen]), batch.ids[chosen], total_of(whole, "mlm"))


def _autoregressive(
    model: ReactiveTransformer,
    batch: TokenBatch,
    memory: Tensor,
    memory_mask: Tensor | None,
    apart: tuple[Tensor, Tensor | None],
    whole: Whole | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and accuracy of the next token, and the balance of the experts."""
    statistics = RouterStatistics(batch.mask)
    hidden = model.decode_hidden(batch.ids, apart[0], memory, memory_mask, statistics, apart[1])
    real = predicted(model, batch)
    logits = model.decoder.head(hidden[:, :-1][real])
    loss, accuracy = token_cross_entropy(logits, batch.ids[:, 1:][real], total_of(whole, "ar"))
    return loss, accuracy, _balance(statistics, loss, whole)


def reading_loss(
    model: ReactiveTransformer, batch: EpisodeBatch, *, balance_weight: float = 0.01, whole: Whole | None = None
) -> tuple[LossResult, Tensor]:
    """Reading: the encoded interaction before each turn, whole and undetached, is the memory that the decoder answers from.

    What joint training cannot teach, because there the decoder is shown the very tokens it predicts: to encode who has what, so that a
    question finds it. Memory attention is not touched.

    Args:
        model: The Reactive Transformer; an encoder that reads memory goes without here.
        batch: Episodes; what a turn asks should stand in the interaction before.
        balance_weight: Weight of the load-balancing loss.
        whole: The batch that these rows are a part of; None: they are all of it.

    Returns:
        Loss with metrics, and the likeliest tokens `[tokens]` at the answers, in the order of `batch.turns.ids[batch.answer]`.
    """
    written, turns = _flat(batch.writes), _flat(batch.turns)
    answer = batch.answer.flatten(0, 1)
    statistics = RouterStatistics(turns.mask)
    encoded = model.encode(written.ids, written.mask)
    hidden = model.decode_hidden(turns.ids, turns.mask, encoded, written.mask, statistics)
    logits = model.decoder.head(hidden[:, :-1][answer[:, 1:]])
    loss, accuracy = token_cross_entropy(logits, turns.ids[answer], total_of(whole, "answer"))
    balance = _balance(statistics, loss, whole)
    metrics = {"loss": loss.detach(), "accuracy": accuracy, "balance": balance.detach()}
    return LossResult(loss + balance_weight * balance, metrics), logits.detach().argmax(-1)


def answer_counts(batch: EpisodeBatch) -> dict[str, Tensor]:
    """What the losses on answers divide by."""
    return {"answer": batch.answer.sum()}


def _flat(batch: TokenBatch) -> TokenBatch:
    return TokenBatch(batch.ids.flatten(0, 1), batch.mask.flatten(0, 1))


def memory_mix(turn: int, draws: torch.Generator | RowDraws) -> float:
    """Weight of the new interaction in the target memory: 0.9 on the first write, then falling, varied by up to 15 %.

    Args:
        turn: 0 for the first write, n for the n-th follow-up.
        draws: One number is drawn.
    """
    base = 0.9 if turn == 0 else max(0.05, 0.5 - 0.05 * turn)
    return base * (1 + 0.15 * (2 * RowDraws.of(draws, 1).number() - 1))


def memory_attention_loss(
    model: ReactiveTransformer,
    stm0: Tensor,
    writes: TokenBatch,
    draws: torch.Generator | RowDraws,
    *,
    noise: float = 0.02,
    whole: Whole | None = None,
) -> LossResult:
    """Self-supervised memory attention: each write should give a mix of the old memory and the new interaction.

    Slot i belongs to token i; slots beyond an interaction's length keep the old memory as their target. The encoder is frozen.

    Args:
        model: The Reactive Transformer.
        stm0: `[layers, batch, slots, dim]`.
        writes: Interactions in order, ids and mask `[turns, batch, time]`.
        draws: Of weights and noise.
        noise: Standard deviation of the noise on inputs and targets.
        whole: The batch that these rows are a part of; None: they are all of it.
    """
    turns, slots = writes.ids.shape[0], stm0.shape[2]
    drawn = RowDraws.of(draws, stm0.shape[1])
    written = write_counts(writes)["written"] if whole is None else whole.totals["written"]
    # Drawn first, so that neither noise nor padding shifts them.
    weights = [memory_mix(turn, drawn) for turn in range(turns)]
    stm, similarities, drifts = stm0, [], []
    for turn in range(turns):
        ids, mask = writes.ids[turn], writes.mask[turn]
        there = mask.any(1)
        with torch.no_grad():
            data = model.encode(ids, mask, stm if model.encoder.reads_memory else None)
            target = _memory_target(stm, data, mask, weights[turn], slots)
            target = target + noise * drawn.normal(target)
            data = data + noise * drawn.normal(data)
        updated = model.update_memory(stm, data, mask)
        similarities.append(_share_of_mean(F.cosine_similarity(updated, target, dim=-1)[:, there], written[turn]))
        drifts.append(_share_of_mean((updated - stm).detach()[:, there].pow(2), written[turn]))
        stm = updated.detach()
    similarity = torch.stack(similarities).mean()
    return LossResult(-similarity, {"cosine": similarity.detach(), "drift": torch.stack(drifts).mean()})


def write_counts(writes: TokenBatch) -> dict[str, Tensor]:
    """What the loss of memory attention divides by: conversations that write something in each turn, `[turns]`."""
    return {"written": writes.mask.any(-1).sum(1)}


def _share_of_mean(values: Tensor, rows: Tensor) -> Tensor:
    """What `values` `[layers, rows, ...]` add to a mean over `rows` rows."""
    return values.sum() / (rows * (values[:, :1].numel() if values.shape[1] else 1)).to(values.dtype)


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
    flow: GradientFlow = EXACT,
    balance_weight: float = 0.01,
    memory: str = "true",
    whole: Whole | None = None,
) -> LossResult:
    """Supervised memory-aware training: the real cycle, teacher-forced, cross-entropy on the answers' tokens.

    Args:
        model: The Reactive Transformer.
        stm0: `[layers, batch, slots, dim]`.
        batch: Episodes.
        flow: How gradients flow back through memory.
        balance_weight: Weight of the load-balancing loss.
        memory: `true`; or, to measure what memory contributes, `empty` (stm0 at every turn) or `other` (that of the next conversation).
        whole: The batch that these rows are a part of; None: they are all of it.
    """
    stms = memory_trajectory(model, stm0, batch.writes.ids, batch.writes.mask, flow)
    if memory == "empty":
        stms = stm0.unsqueeze(1).expand_as(stms)
    elif memory == "other":
        stms = stms.roll(1, dims=2)
    statistics = RouterStatistics(batch.turns.mask)
    hidden = answer_hidden(model, stms, batch.turns, batch.answer, statistics)
    loss, accuracy = token_cross_entropy(model.decoder.head(hidden), batch.turns.ids[batch.answer], total_of(whole, "answer"))
    balance = _balance(statistics, loss, whole)
    return LossResult(loss + balance_weight * balance, {"loss": loss.detach(), "accuracy": accuracy, "balance": balance.detach()})


def _balance(statistics: RouterStatistics, like: Tensor, whole: Whole | None) -> Tensor:
    if not statistics.loads:
        return like.new_zeros(())
    loads, probabilities, tokens = statistics.sums()
    if whole is not None:
        loads, tokens = whole.reduce(loads), whole.reduce(tokens.to(loads.dtype))
    return load_balance_loss(loads, probabilities, tokens)
