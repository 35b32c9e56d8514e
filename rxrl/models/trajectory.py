"""Replays conversations from stm0 with current weights, gradients flowing through memory over a chosen window of turns.

The encoder runs over all interactions at once and the decoder over all turns at once; only what reads memory is a chain. Conversations
of a batch differ in length, so what stands behind their ends is left out everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from rxrl.models.experts import RouterStatistics
from rxrl.models.memory_attention import Told
from rxrl.models.network import ReactiveNetwork
from rxrl.types import TokenBatch


@dataclass(frozen=True, slots=True)
class GradientFlow:
    """How gradients flow back through writes.

    Attributes:
        turns: Each memory differentiates through this many last writes, exactly; None: through all.
        growth: Without `turns`, a write hands on a gradient at most this many times as large as the one that it receives, for each
            conversation; None: as large as it is. Dozens of writes that each enlarge it a little make a gradient thousands of times as
            large as that of the loss, whose direction says nothing any more.
    """

    turns: int | None = None
    growth: float | None = None


EXACT = GradientFlow()
"""Gradients through all writes, as they are."""


def written(write: Callable[[Tensor], Tensor], stm: Tensor, flow: GradientFlow) -> Tensor:
    """Memory after a write, through which gradients flow back as `flow` says.

    Args:
        write: Memory before to memory after, `[layers, batch, slots, dim]` both.
        stm: Memory before.
        flow: How gradients flow back.
    """
    if flow.growth is None or flow.turns is not None or not (torch.is_grad_enabled() and stm.requires_grad):
        return write(stm)
    # A tensor of its own, so that its gradient is what this write hands on, and nothing of what was read from the same memory.
    before, growth, received = stm.view_as(stm), flow.growth, torch.empty(0)

    def receive(gradient: Tensor) -> None:
        nonlocal received
        received = _norms(gradient)

    def hand_on(gradient: Tensor) -> Tensor:
        norms, bound = _norms(gradient), received * growth
        # Not the quotient alone: a conversation without a gradient would get 0 / 0.
        scale = torch.where(norms > bound, bound / norms, 1.0)
        return gradient * scale[:, None, None].to(gradient.dtype)

    memory = write(before)
    memory.register_hook(receive)  # type: ignore[no-untyped-call]
    before.register_hook(hand_on)  # type: ignore[no-untyped-call]
    return memory


def _norms(gradient: Tensor) -> Tensor:
    """Norm of each conversation's part, `[batch]`, in float32 or wider."""
    norms: Tensor = torch.linalg.vector_norm(gradient, dim=(0, 2, 3), dtype=torch.promote_types(gradient.dtype, torch.float32))
    return norms


def memory_trajectory(model: ReactiveNetwork, stm0: Tensor, ids: Tensor, mask: Tensor, flow: GradientFlow = EXACT) -> Tensor:
    """Memory after each of a row of writes.

    Args:
        model: The Reactive Transformer.
        stm0: Memory before the first write, `[layers, batch, slots, dim]`.
        ids: Written interactions, int64 `[turns, batch, time]`.
        mask: bool `[turns, batch, time]`, true for real tokens.
        flow: How gradients flow back.

    Returns:
        `[layers, turns, batch, slots, dim]`: entry t is the memory after writes 0 .. t. Behind the last write of a conversation its memory
        stays as it is.
    """
    if model.writes_read_memory:
        return _write_by_write(model, stm0, ids, mask, flow)
    writes = _Writes.of(ids, mask)
    told = model.memory_attention.told(model.encode(writes.ids, writes.mask), writes.mask)
    if flow.turns is None or flow.turns >= len(ids):
        return _chain(model, stm0, told, writes, flow)
    with torch.no_grad():
        values = _chain(model, stm0, told, writes, EXACT)
    return _windows(model, torch.cat([stm0.unsqueeze(1), values], dim=1), told, writes, flow.turns)


@dataclass(frozen=True, slots=True)
class _Writes:
    """What some conversations of different lengths write, one write behind the other, without what is behind the end of a conversation.

    Attributes:
        ids: `[writes, time]`: the first write of each conversation, the longest conversation first, then the second of each that has one.
        mask: Of the same shape.
        counts: How many conversations have a first write, a second, ...
        order: Conversations by length, `[batch]`.
        place: Where each conversation stands in that order, `[batch]`.
        last: Number of writes of each conversation, `[batch]`.
        turns: Writes of the longest conversation that there is room for.
    """

    ids: Tensor
    mask: Tensor
    counts: list[int]
    order: Tensor
    place: Tensor
    last: Tensor
    turns: int

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor) -> _Writes:
        """From what stands turn by turn, `[turns, batch, time]`."""
        turns, batch = mask.shape[:2]
        numbers = torch.arange(1, turns + 1, device=mask.device).unsqueeze(1)
        last = (mask.any(-1) * numbers).amax(0)
        order = last.argsort(descending=True, stable=True)
        going = last[order] >= numbers
        # One row of padding where nobody writes, so that there is a pass, and gradients of 0, for whoever adds them up over processes.
        going[0, 0] |= ~going.any()
        counts = [count for count in going.sum(1).tolist() if count]
        place = torch.empty_like(order).scatter_(0, order, torch.arange(batch, device=mask.device))
        return cls(ids[:, order][going], mask[:, order][going], counts, order, place, last, turns)

    def rows(self, number: Tensor, first: int) -> Tensor:
        """Where a write of each conversation stands among all, `[turns, batch]`; its last one, where it has no more.

        Args:
            number: Which write, `[turns, 1]`.
            first: The number of the writes that stand first: 0, where what was before the first write is there for every conversation.
        """
        sizes = [len(self.order)] * (1 - first) + self.counts
        begins = torch.tensor([0, *accumulate(sizes[:-1])], device=number.device)
        return begins[(number.minimum(self.last) - first).clamp(min=0)] + self.place


def _chain(model: ReactiveNetwork, stm0: Tensor, told: Told, writes: _Writes, flow: GradientFlow) -> Tensor:
    stm = stm0[:, writes.order]
    states = [stm]
    for count, each in zip(writes.counts, told.split(writes.counts), strict=True):
        stm = written(partial(_take_in, model, each), stm[:, :count], flow)
        states.append(stm)
    after = torch.arange(1, writes.turns + 1, device=stm.device).unsqueeze(1)
    return _by_turn(torch.cat(states, dim=1).index_select(1, writes.rows(after, 0).flatten()), writes.turns)


def _take_in(model: ReactiveNetwork, told: Told, stm: Tensor) -> Tensor:
    after: Tensor = model.memory_attention(stm, told)
    return after


def _windows(model: ReactiveNetwork, states: Tensor, told: Told, writes: _Writes, window: int) -> Tensor:
    """For every turn a chain of its own that starts `window` writes back, all turns as one batch.

    `states` `[layers, 1 + turns, batch, slots, dim]`: stm0, then values without gradient. Turns nearer to the start than
    the window keep their first state until their chain begins, and those behind the end of a conversation keep its last.
    """
    turns = writes.turns
    last = torch.arange(turns, device=states.device)
    stm = states[:, (last + 1 - window).clamp(min=0)].flatten(1, 2)
    for back in range(window - 1, -1, -1):
        number = (last - back + 1).unsqueeze(1)
        # Whoever writes nothing at all has no place here; what is computed for it is not taken.
        rows = writes.rows(number, 1).flatten().clamp(max=len(writes.ids) - 1)
        updated = model.memory_attention(stm, told.rows(rows))
        here = ((number >= 1) & (number <= writes.last)).flatten()
        stm = torch.where(here[None, :, None, None], updated, stm)
    return _by_turn(stm, turns)


def _by_turn(rows: Tensor, turns: int) -> Tensor:
    """`[layers, turns * batch, ...]` to `[layers, turns, batch, ...]`."""
    return rows.view(rows.shape[0], turns, -1, *rows.shape[2:])


def _write_by_write(model: ReactiveNetwork, stm0: Tensor, ids: Tensor, mask: Tensor, flow: GradientFlow) -> Tensor:
    """For models that read the memory they will write: turn by turn, one chain for each window."""
    turns = ids.shape[0]
    window = turns if flow.turns is None else min(flow.turns, turns)
    values, stm = [stm0], stm0
    results = []

    def write(stm: Tensor, index: int) -> Tensor:
        told = mask[index].any(-1)[None, :, None, None]
        return torch.where(told, model.write_memory(stm, ids[index], mask[index]), stm)

    for turn in range(turns):
        if window < turns:
            first = max(0, turn + 1 - window)
            stm = values[first]
            for index in range(first, turn):
                stm = write(stm, index)
        stm = written(partial(write, index=turn), stm, flow)
        values.append(stm.detach())
        results.append(stm)
    return torch.stack(results, dim=1)


def answer_hidden(
    model: ReactiveNetwork, stms: Tensor, turns: TokenBatch, answer: Tensor, statistics: RouterStatistics | None = None
) -> Tensor:
    """Hidden states that predict the answer tokens, all turns at once.

    Args:
        model: The Reactive Transformer.
        stms: Memory that each turn reads, `[layers, turns, batch, slots, dim]`.
        turns: `[BOS] [Q] query [A] answer [EOS]`, ids and mask `[turns, batch, time]`.
        answer: bool `[turns, batch, time]`, true for tokens of the answer, `[EOS]` included.
        statistics: Collects router counts; made with the mask of `turns`.

    Returns:
        `[tokens, dim]` in the order of `turns.ids[answer]`.
    """
    there = answer.any(-1).flatten()
    there[0] |= ~there.any()  # As with what is written.
    rows = there.nonzero().squeeze(1)
    ids, mask, said = (each.flatten(0, 1)[rows] for each in (turns.ids, turns.mask, answer))
    if statistics is not None:
        statistics.keep_rows(rows)
    hidden = model.decode_hidden(ids, mask, stms.flatten(1, 2).index_select(1, rows), None, statistics)
    return hidden[:, :-1][said[:, 1:]]
