"""Forward passes over a rollout: the memory that each turn reads, the policy and the reference on what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rxrl.algorithms import AlgorithmConfig
from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import EXACT, GradientFlow, answer_hidden, memory_trajectory, written
from rxrl.training.rollout import Rollout
from rxrl.training.token_statistics import LazyLogits, token_log_probs

T = TypeVar("T")


def trajectory(model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig | None = None, stm0: Tensor | None = None) -> Tensor:
    """Memory that each turn reads, all turns at once.

    Args:
        model: Current weights.
        rollout: What was written.
        config: Says where gradients through memory end; None: nowhere.
        stm0: Memory to start from; None: the rollout's.

    Returns:
        `[layers, turns, batch, slots, dim]`.
    """
    start = rollout.stm0 if stm0 is None else stm0
    flow = EXACT if config is None else GradientFlow(config.bptt_turns, config.gradient_growth)
    parts = []
    for first, last, trained in chains(rollout, config):
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            ids, mask = rollout.writes.ids[first:last], rollout.writes.mask[first:last]
            parts.append(memory_trajectory(model, start, ids, mask, flow))
        start = parts[-1][:, -1].detach()
    written = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return written[:, -len(rollout.real) :]


def chains(rollout: Rollout, config: AlgorithmConfig | None) -> Iterator[tuple[int, int, bool]]:
    """Ranges of writes (first, behind the last) that gradients do not cross, and whether they are trained."""
    writes, lead = len(rollout.writes.ids), warm_ups(rollout)
    burn_in, detach_every = (0, None) if config is None else (config.experimental.burn_in, config.experimental.detach_every)
    burnt = lead + burn_in + 1 if burn_in else 0
    every = detach_every or writes
    edges = sorted({0, min(burnt, writes), *range(lead + every, writes, every), writes})
    for first, last in pairwise(edges):
        yield first, last, first >= burnt


def warm_ups(rollout: Rollout) -> int:
    """Writes before the one that precedes the first turn."""
    return len(rollout.writes.ids) - len(rollout.real)


def turn_by_turn(
    model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig, visit: Callable[[int, Tensor, Tensor], T], look_back: bool = True
) -> list[T]:
    """Replays a rollout turn by turn and recomputes each turn in the backward pass, so that only one memory a turn is kept.

    Args:
        model: Current weights.
        rollout: What was written.
        config: Says where gradients through memory end.
        visit: Called with the index of a turn, the memory that the turn before read (for the first turn: its own) and the memory that it
            reads, both `[layers, batch, slots, dim]`; called once more in the backward pass, so it must not have side effects.
        look_back: Whether gradients of the memory that the turn before read are needed.

    Returns:
        What `visit` returned for each turn.
    """
    lead, window = warm_ups(rollout), config.bptt_turns
    flow = GradientFlow(window, config.gradient_growth)
    chain_of = {write: (first, trained) for first, last, trained in chains(rollout, config) for write in range(first, last)}
    values = None if window is None else _values(model, rollout)

    def write(stm: Tensor, first: int, last: int) -> Tensor:
        for index in range(first, last):
            told = partial(model.write_memory, ids=rollout.writes.ids[index], mask=rollout.writes.mask[index])
            stm = written(told, stm, flow)
        return stm

    def memory_of(turn: int, before: Tensor) -> Tensor:
        """What a turn reads, from what the turn before read, or, where there is a window, from a constant `window` writes back."""
        here = lead + turn
        begin, trained = chain_of[here]
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            if values is not None and window is not None:
                first = max(begin, here + 1 - window)
                return write(values[first], first, here + 1)
            return write(before.detach() if begin == here else before, 0 if turn == 0 else here, here + 1)

    def step(before: Tensor, turn: int) -> tuple[Tensor, T]:
        if values is not None and turn > 0:
            before = memory_of(turn - 1, before) if look_back else values[lead + turn]
        memory = memory_of(turn, before)
        return memory, visit(turn, memory if turn == 0 else before, memory)

    results, stm = [], rollout.stm0
    for turn in range(len(rollout.real)):
        if torch.is_grad_enabled():
            stm, result = checkpoint(step, stm, turn, use_reentrant=False, preserve_rng_state=False)
        else:
            stm, result = step(stm, turn)
        results.append(result)
    return results


@torch.no_grad()
def _values(model: ReactiveTransformer, rollout: Rollout) -> list[Tensor]:
    """Memory before each write, `[layers, batch, slots, dim]`."""
    states = [rollout.stm0]
    for ids, mask in zip(rollout.writes.ids, rollout.writes.mask, strict=True):
        states.append(model.write_memory(states[-1], ids, mask))
    return states


def policy_passes(model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig) -> list[tuple[Rollout, LazyLogits]]:
    """The policy at the answer tokens in the passes of the update: all turns at once or, where they are recomputed, each turn alone."""
    if not config.checkpoint_turns:
        whole = answer_hidden(model, trajectory(model, rollout, config), rollout.turns, rollout.answer)
        return [(rollout, LazyLogits.of(model.decoder.head, whole))]

    def visit(turn: int, _: Tensor, memory: Tensor) -> Tensor:
        part = rollout.at(turn)
        return answer_hidden(model, memory.unsqueeze(1), part.turns, part.answer)

    turns = turn_by_turn(model, rollout, config, visit, look_back=False)
    return [(rollout.at(turn), LazyLogits.of(model.decoder.head, hidden)) for turn, hidden in enumerate(turns)]


def policy_log_probs(model: ReactiveTransformer, rollout: Rollout, config: AlgorithmConfig) -> Tensor:
    """Log-probabilities of the sampled tokens as the update computes them, `[turns, batch, time]`, 0 elsewhere."""
    passes = policy_passes(model, rollout, config)
    found = [
        token_log_probs(policy, (ids := part.turns.ids)[part.answer], config.temperature, policy.thoughts(ids, part.answer))
        for part, policy in passes
    ]
    return scatter(torch.cat(found), rollout)


def reference_memory(reference: ReactiveTransformer, rollout: Rollout, left: Tensor | None = None) -> Tensor:
    """Memory of the reference before each turn, `[layers, turns, batch, slots, dim]`; arguments as in `reference_pass`."""
    stm0 = rollout.stm0
    if left is not None:
        carried = (rollout.carried >= 0)[None, :, None, None]
        stm0 = torch.where(carried, left[:, rollout.carried.clamp(min=0)], stm0)
    return trajectory(reference, rollout, stm0=stm0)


@torch.no_grad()
def reference_pass(reference: ReactiveTransformer, rollout: Rollout, left: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The reference on the same tokens; it runs its own memory.

    Args:
        reference: The frozen reference.
        rollout: What was collected.
        left: Memory that the reference ended the last rollout with; where an episode carries memory over, the reference carries its own.

    Returns:
        Hidden states `[turns, batch, time, dim]`, and the memory that it ends with, `[layers, batch, slots, dim]`.
    """
    stms = reference_memory(reference, rollout, left)
    last = rollout.real.sum(0) - 1
    hidden = scatter(answer_hidden(reference, stms, rollout.turns, rollout.answer), rollout)
    return hidden, stms[:, last, torch.arange(rollout.batch, device=last.device)]


def scatter(values: Tensor, rollout: Rollout) -> Tensor:
    """`[tokens, ...]` back to `[turns, batch, time, ...]`, 0 where there is no answer token."""
    out = values.new_zeros(*rollout.answer.shape, *values.shape[1:])
    out[rollout.answer] = values
    return out
