"""Speed of the model: generation, memory update, training step, and the cost of a turn as a conversation grows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from rxrl.models import ReactiveTransformer
from rxrl.models.replay import answer_hidden, memory_trajectory
from rxrl.types import EOS, TokenBatch, prompt_ids
from tests.benchmarks.measure import seconds

Row = dict[str, Any]
QUERY, ANSWER = 12, 32
"""Tokens of a query and of an answer; an interaction has four markers more."""
TURNS = 64


def rows(presets: Sequence[str], repeats: int) -> list[Row]:
    """Measures each preset."""
    return [{"preset": name, **row} for name in presets for row in _preset(name, repeats)]


def _preset(name: str, repeats: int) -> Iterator[Row]:
    model = ReactiveTransformer.from_preset(name)
    with torch.no_grad():
        # Answers of full length, so that the same work is measured whatever the weights say.
        model.decoder.head.bias[EOS] = -1e4
    for batch in (1, 16):
        yield _generation(model, batch, repeats)
        yield _memory_update(model, batch, repeats)
    yield _first_token(model, repeats)
    yield _training_turn(model, 16, repeats)
    yield from _growing_conversation(model)


def _generation(model: ReactiveTransformer, batch: int, repeats: int) -> Row:
    prompts, stm = _prompts(batch), model.init_memory(batch)
    generators = [torch.Generator().manual_seed(row) for row in range(batch)]
    spent = seconds(lambda: model.generate(prompts, stm, max_new_tokens=ANSWER, generators=generators), repeats)
    return {"name": f"generation, batch {batch}", "value": batch * ANSWER / spent, "unit": "tokens/s"}


def _first_token(model: ReactiveTransformer, repeats: int) -> Row:
    prompts, stm = _prompts(1), model.init_memory(1)
    spent = seconds(lambda: model.generate(prompts, stm, max_new_tokens=1), repeats)
    return {"name": "first token", "value": 1000 * spent, "unit": "ms"}


def _memory_update(model: ReactiveTransformer, batch: int, repeats: int) -> Row:
    written, stm = _interactions(batch), model.init_memory(batch)
    with torch.no_grad():
        spent = seconds(lambda: model.write_memory(stm, written.ids, written.mask), repeats)
    return {"name": f"memory update, batch {batch}", "value": 1000 * spent, "unit": "ms"}


def _training_turn(model: ReactiveTransformer, batch: int, repeats: int) -> Row:
    """One write, then one turn decoded from it, forward and backward through both."""
    written, turn, stm0 = _interactions(batch), _interactions(batch), model.init_memory(batch)
    answer = turn.mask.clone()
    answer[:, : QUERY + 3] = False

    def step() -> None:
        stms = memory_trajectory(model, stm0, written.ids[None], written.mask[None])
        hidden = answer_hidden(model, stms, turn.ids[None], turn.mask[None], answer[None])
        F.cross_entropy(model.decoder.head(hidden), turn.ids[answer]).backward()
        model.zero_grad()

    spent = seconds(step, repeats)
    return {"name": f"one turn forward + backward, batch {batch}", "value": 2 * turn.mask.sum().item() / spent, "unit": "tokens/s"}


def _growing_conversation(model: ReactiveTransformer) -> Iterator[Row]:
    prompts, written, stm = _prompts(1), _interactions(1), model.init_memory(1)
    times = []
    for _ in range(TURNS + 1):
        start = time.perf_counter()
        model.generate(prompts, stm, max_new_tokens=ANSWER)
        with torch.no_grad():
            stm = model.write_memory(stm, written.ids, written.mask)
        times.append(1000 * (time.perf_counter() - start))
    times = times[1:]  # the first turn of a process pays for warming up
    early, late = statistics.median(times[:8]), statistics.median(times[-8:])
    yield {"name": "turn 1 to 8 (answer + write)", "value": early, "unit": "ms"}
    yield {"name": f"turn {TURNS - 7} to {TURNS} (answer + write)", "value": late, "unit": "ms", "all": times}


def _prompts(batch: int) -> TokenBatch:
    return TokenBatch.pad([prompt_ids(range(20, 20 + QUERY))] * batch)


def _interactions(batch: int) -> TokenBatch:
    return TokenBatch.pad([[*prompt_ids(range(20, 20 + QUERY)), *range(40, 40 + ANSWER), EOS]] * batch)
