"""Speed of the model: generation, memory update, training step, latency of a turn as a conversation grows, peak memory."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import answer_hidden, memory_trajectory
from rxrl.types import EOS, INTERACTION_MARKERS, SPECIAL_TOKENS, TokenBatch, prompt_ids
from tests.benchmarks.bounds import decode_work
from tests.benchmarks.measure import Bench, Row, Usage

QUERY, ROWS, TURNS = 32, 16, 64
"""`[BOS] [Q] [A]` of a prompt and `[EOS]` behind what is written."""
USER_ANSWER = 63
ENDING_ROWS, ENDS = 64, 50
"""Rows of which, at each token, one in fifty ends."""


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures each preset."""
    for preset in presets:
        subject = _Subject.of(preset, bench.device, bench.dtype)
        yield from _generation(bench, subject)
        yield _wasted(bench, subject)
        yield from _memory(bench, subject)
        yield from _one_user(bench, subject)
        yield from _peaks(bench, subject)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A model with random weights whose answers never end, so that the same work is measured whatever the weights say.

    Queries and memories of the rows differ, and memory is read, so that the rows go to different experts, as those of a trained model do.
    """

    preset: str
    model: ReactiveTransformer
    draws: torch.Generator

    @classmethod
    def of(cls, preset: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> _Subject:
        """A preset on a device."""
        draws = torch.Generator().manual_seed(0)
        return cls(preset, endless(ReactiveTransformer.from_preset(preset), draws).to(device, dtype), draws)

    @property
    def longest(self) -> int:
        """Tokens of the longest interaction that is measured."""
        return min(256, self.model.config.max_length)

    @property
    def query(self) -> int:
        """Tokens of a query; fewer where the model is small."""
        return min(QUERY, self.longest // 3)

    def prompts(self, batch: int) -> TokenBatch:
        """Prompts of random queries."""
        return TokenBatch.pad([prompt_ids(row) for row in self._ids(batch, self.query).tolist()], self.model.device)

    def interactions(self, batch: int) -> TokenBatch:
        """Random interactions of full length."""
        ids = self._ids(batch, self.longest)
        return TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool))

    def memory(self, batch: int) -> Tensor:
        """Fresh memory."""
        return self.model.init_memory(batch, self.draws).detach()

    def _ids(self, batch: int, length: int) -> Tensor:
        return torch.randint(len(SPECIAL_TOKENS), self.model.config.vocab_size, (batch, length), generator=self.draws).to(self.model.device)


@torch.no_grad()
def endless(model: ReactiveTransformer, draws: torch.Generator) -> ReactiveTransformer:
    """The model with answers that never end and reads of memory that are not nothing; changed in place."""
    model.decoder.head.bias[EOS] = -1e4
    for layer in model.decoder.layers:
        weight = layer.memory_cross_attention.out_proj.weight
        weight.copy_(torch.randn(weight.shape, generator=draws) * weight.shape[1] ** -0.5)
    return model


def _generation(bench: Bench, subject: _Subject) -> Iterator[Row]:
    """Answers of up to 64 tokens, and of all that an interaction of 256 leaves."""
    whole = subject.longest - subject.query - INTERACTION_MARKERS
    for batch in (1, ROWS) if bench.quick else (1, ROWS, 128):
        prompts, stm = subject.prompts(batch), subject.memory(batch)
        for limit, name in ((min(64, whole), "up to 64 tokens"), (whole, "up to 256 tokens")):
            tokens = 8 if bench.quick else limit
            bar = 2700.0 if (subject.preset, batch, limit) == ("nano", ROWS, whole) and bench.judges else None
            work = _generate(subject, prompts, stm, tokens)
            row = bench.rate(subject.preset, f"generation, {batch} rows, {name}", work, batch * tokens, bar=bar)
            yield _with_bound(bench, subject, row, batch, tokens)
    draws = [torch.Generator().manual_seed(row) for row in range(ROWS)]
    prompts, stm = subject.prompts(ROWS), subject.memory(ROWS)
    tokens = 8 if bench.quick else whole
    sampled = _generate(subject, prompts, stm, tokens, generators=draws, temperature=0.7, top_k=50, top_p=0.9)
    yield bench.rate(subject.preset, f"generation, {ROWS} rows, sampled (top-k, top-p)", sampled, ROWS * tokens)


def _generate(subject: _Subject, prompts: TokenBatch, stm: Tensor, tokens: int, **options: Any) -> Callable[[], Any]:
    return lambda: subject.model.generate(prompts, stm, max_new_tokens=tokens, **options)


def _with_bound(bench: Bench, subject: _Subject, row: Row, batch: int, tokens: int) -> Row:
    """Says what the machine would need at least for the bytes and for the operations of a step."""
    work = decode_work(subject.model.config, batch, subject.query + 3 + tokens / 2)
    probe = row.probe or bench.probe
    by_bytes, by_operations = work.bytes / (2e6 * probe.copy), work.flop / (1e6 * probe.gflops)
    step = 1000 * batch / row.value if row.value else 0.0
    bound, name = max((by_bytes, "bytes"), (by_operations, "operations"))
    note = f"step {step:.2f} ms; bounds: {work.bytes / 1e6:.0f} MB {by_bytes:.2f} ms, {work.flop / 1e6:.0f} MFLOP {by_operations:.2f} ms"
    return replace(row, note=note, details={"step_ms": step, "bound_ms": bound, "bound_by": name})


def _wasted(bench: Bench, subject: _Subject) -> Row:
    """Decoder tokens that are computed for each one that is kept, where one row in fifty ends at each token."""
    model = ReactiveTransformer.from_config(subject.model.config).to(subject.model.device, subject.model.dtype)
    with torch.no_grad():
        model.decoder.head.weight.zero_()
        model.decoder.head.bias.zero_()
        model.decoder.head.bias[EOS] = math.log((model.config.vocab_size - len(SPECIAL_TOKENS)) / (ENDS - 1))
    prompts, stm = subject.prompts(ENDING_ROWS), subject.memory(ENDING_ROWS)
    draws = [torch.Generator().manual_seed(row) for row in range(ENDING_ROWS)]
    limit = subject.longest - subject.query - INTERACTION_MARKERS
    found = model.generate(prompts, stm, max_new_tokens=limit, generators=draws)
    useful = int(found.mask.sum()) - ENDING_ROWS  # the first token of each row comes from the prompt
    # On a GPU so few finished rows cost less than to drop them.
    bar = 1.2 if bench.device == "cpu" else None
    row = bench.value(subject.preset, "decoder tokens computed for a useful one", found.computed_tokens / useful, "tokens", bar=bar)
    return replace(row, note=f"{ENDING_ROWS} rows, 1 in {ENDS} ends: {found.computed_tokens:,} computed, {useful:,} useful")


def _memory(bench: Bench, subject: _Subject) -> Iterator[Row]:
    """Writes, and gradients through them and through the turn that reads them."""
    model, written, stm = subject.model, subject.interactions(ROWS), subject.memory(ROWS)
    name = f"{ROWS} x {subject.longest}"
    bar = 194 * 2 / 3 if subject.preset == "nano" and bench.judges else None
    yield bench.time(subject.preset, f"memory update, {name}", _write(subject, stm, written), bar=bar)
    yield bench.time(subject.preset, f"encoder alone, {name}", torch.no_grad()(lambda: model.encode(written.ids, written.mask, stm)))
    yield bench.time(subject.preset, f"memory update with gradients, {name}", lambda: _write_backward(model, stm, written))
    turn = subject.interactions(ROWS)
    yield bench.rate(
        subject.preset,
        f"one turn with gradients, {name}",
        lambda: _turn_backward(subject, stm, written, turn),
        2 * ROWS * subject.longest,
    )


def _write(subject: _Subject, stm: Tensor, written: TokenBatch) -> Callable[[], Any]:
    return torch.no_grad()(lambda: subject.model.write_memory(stm, written.ids, written.mask))


def _write_backward(model: ReactiveTransformer, stm: Tensor, written: TokenBatch) -> None:
    model.write_memory(stm, written.ids, written.mask).square().mean().backward()
    model.zero_grad()


def _turn_backward(subject: _Subject, stm0: Tensor, written: TokenBatch, turn: TokenBatch) -> None:
    """One write, then one turn decoded from it, forward and backward through both."""
    model, answer = subject.model, turn.mask.clone()
    answer[:, : subject.query + 3] = False
    stms = memory_trajectory(model, stm0, written.ids[None], written.mask[None])
    hidden = answer_hidden(model, stms, TokenBatch(turn.ids[None], turn.mask[None]), answer[None])
    F.cross_entropy(model.decoder.head(hidden), turn.ids[answer]).backward()
    model.zero_grad()


def _one_user(bench: Bench, subject: _Subject) -> Iterator[Row]:
    """What somebody at a terminal waits for."""
    prompts, stm = subject.prompts(1), subject.memory(1)
    bar = 50.0 if subject.preset == "nano" and bench.device == "cpu" else None
    yield bench.time(subject.preset, "first token, one user", _generate(subject, prompts, stm, 1), bar=bar)
    turns, states = 4 if bench.quick else TURNS, [stm]
    times = [_seconds(lambda: states.append(_turn(subject, prompts, states[-1]))) for _ in range(turns)]
    yield bench.time(subject.preset, "one turn with its write, one user", _turns(subject, prompts, stm))
    first, last = (_turns(subject, prompts, state) for state in (states[0], states[-2]))
    ratio, medians = _alternating(first, last, 2 if bench.quick else 15)
    row = bench.value(subject.preset, f"CPU time of turn {TURNS} against turn 1", ratio, "times", bar=1.05)
    yield replace(row, details={"turn_ms": [1000 * each for each in times], "first_and_last_ms": [1000 * each for each in medians]})


def _turn(subject: _Subject, prompts: TokenBatch, stm: Tensor) -> Tensor:
    """Memory after a query, its answer and their write."""
    limit = min(USER_ANSWER, subject.longest - subject.query - INTERACTION_MARKERS)
    answer = subject.model.generate(prompts, stm, max_new_tokens=limit)
    ids = torch.cat([prompts.ids, answer.ids, torch.full_like(answer.ids[:, :1], EOS)], dim=1)
    with torch.no_grad():
        return subject.model.write_memory(stm, ids, torch.ones_like(ids, dtype=torch.bool))


def _turns(subject: _Subject, prompts: TokenBatch, stm: Tensor) -> Callable[[], Any]:
    return lambda: _turn(subject, prompts, stm)


def _seconds(work: Callable[[], Any]) -> float:
    start = Usage.now()
    work()
    return Usage.now().own - start.own


def _alternating(first: Callable[[], Any], last: Callable[[], Any], runs: int) -> tuple[float, tuple[float, float]]:
    """Median CPU time of one against that of the other, measured in turns, so that what drifts in the machine touches both alike."""
    pairs = [(_seconds(first), _seconds(last)) for _ in range(runs)]
    before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
    return after / before, (before, after)


def _peaks(bench: Bench, subject: _Subject) -> Iterator[Row]:
    """Memory that the heaviest pieces of work need besides the weights."""
    written, stm, name = subject.interactions(ROWS), subject.memory(ROWS), f"{ROWS} x {subject.longest}"
    whole = 8 if bench.quick else subject.longest - subject.query - INTERACTION_MARKERS
    yield bench.peak(subject.preset, f"peak memory, generation, {name}", _generate(subject, subject.prompts(ROWS), stm, whole))
    yield bench.peak(subject.preset, f"peak memory, memory update, {name}", _write(subject, stm, written))
    turn = subject.interactions(ROWS)
    yield bench.peak(subject.preset, f"peak memory, one turn with gradients, {name}", lambda: _turn_backward(subject, stm, written, turn))
