"""Replays conversations from stm0 with current weights, gradients flowing through memory over a chosen window of turns.

The encoder runs over all interactions at once and the decoder over all turns at once; only the memory attention is a chain.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rxrl.models.experts import RouterStatistics
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
        `[layers, turns, batch, slots, dim]`: entry t is the memory after writes 0 .. t.
    """
    turns = ids.shape[0]
    if model.writes_read_memory:
        return _write_by_write(model, stm0, ids, mask, flow)
    encoded = _by_turn(model.encode(ids.flatten(0, 1), mask.flatten(0, 1)), turns)
    if flow.turns is None or flow.turns >= turns:
        return torch.stack(_chain(model, stm0, encoded, mask, flow), dim=1)
    with torch.no_grad():
        values = _chain(model, stm0, encoded, mask, EXACT)
    return _windows(model, torch.stack([stm0, *values], dim=1), encoded, mask, flow.turns)


def _chain(model: ReactiveNetwork, stm: Tensor, encoded: Tensor, mask: Tensor, flow: GradientFlow) -> list[Tensor]:
    states = []
    # Unbound, because each slice would have a zeroed copy of the whole as its gradient.
    for data, data_mask in zip(encoded.unbind(1), mask, strict=True):
        stm = written(partial(model.update_memory, encoded=data, mask=data_mask), stm, flow)
        states.append(stm)
    return states


def _windows(model: ReactiveNetwork, states: Tensor, encoded: Tensor, mask: Tensor, window: int) -> Tensor:
    """For every turn a chain of its own that starts `window` writes back, all turns as one batch.

    `states` `[layers, 1 + turns, batch, slots, dim]`: stm0, then values without gradient. Turns nearer to the start than
    the window keep their first state until their chain begins.
    """
    turns = mask.shape[0]
    last = torch.arange(turns, device=mask.device)
    stm = states[:, (last + 1 - window).clamp(min=0)].flatten(1, 2)
    for back in range(window - 1, -1, -1):
        write = (last - back).clamp(min=0)
        updated = model.update_memory(stm, encoded[:, write].flatten(1, 2), mask[write].flatten(0, 1))
        begun = (last - back >= 0).repeat_interleave(mask.shape[1])[None, :, None, None]
        stm = torch.where(begun, updated, stm)
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
    for turn in range(turns):
        if window < turns:
            first = max(0, turn + 1 - window)
            stm = values[first]
            for write in range(first, turn):
                stm = model.write_memory(stm, ids[write], mask[write])
        stm = written(partial(model.write_memory, ids=ids[turn], mask=mask[turn]), stm, flow)
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
    hidden = model.decode_hidden(turns.ids.flatten(0, 1), turns.mask.flatten(0, 1), stms.flatten(1, 2), None, statistics)
    return hidden[:, :-1][answer.flatten(0, 1)[:, 1:]]
