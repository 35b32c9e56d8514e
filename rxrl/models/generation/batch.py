"""Batched generation with a KV cache: the prefix is computed once, memory is projected once, rows that end stop costing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rxrl.errors import ModelError
from rxrl.models.generation.decoding import Decoding, begin
from rxrl.models.generation.sampling import Markers, Sampling, answer_logits, check_finite, draw
from rxrl.models.layers import wide
from rxrl.models.network import ReactiveNetwork
from rxrl.models.transformer import Decoder
from rxrl.types import EOS, PAD, Action, TokenBatch

_AS_THEY_ARE = Sampling()


@dataclass(frozen=True, slots=True)
class Generation(Action):
    """Generated answers; an action with more to it.

    Attributes:
        ids: int64 `[batch, time]`, each row ended by `[EOS]` unless it reached the token limit; `PAD` after it.
        mask: bool `[batch, time]`, true for generated tokens, `[EOS]` included.
        log_probs: `[batch, time]`, of the tokens under the distribution they were drawn from; 0 where masked.
        raw_log_probs: `[batch, time]`, under temperature 1 without truncation.
        computed_tokens: Decoder tokens computed one by one, the padding of finished rows included.
    """

    log_probs: Tensor
    raw_log_probs: Tensor
    computed_tokens: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One new token for each row that still runs.

    Attributes:
        rows: int64 `[running]`, rows of the batch.
        tokens: int64 `[running]`.
        log_probs: `[running]`, under the distribution that the tokens were drawn from.
        raw_log_probs: `[running]`, under temperature 1 without truncation.
        ended: bool `[running]`, true where this token is the row's last.
        computed_tokens: Decoder tokens that were computed for this step, rows included that had ended before.
    """

    rows: Tensor
    tokens: Tensor
    log_probs: Tensor
    raw_log_probs: Tensor
    ended: Tensor
    computed_tokens: int


@dataclass(frozen=True, slots=True)
class _Computed:
    """A step of all rows that were computed, and which of them had finished before, bool `[rows]`; None: none of them."""

    step: Step
    finished: Tensor | None

    def of_running(self) -> Step:
        """The step of the others."""
        if self.finished is None:
            return self.step
        running, step = (~self.finished).nonzero().squeeze(1), self.step
        rows, tokens, log_probs, raw, ended = (
            each[running] for each in (step.rows, step.tokens, step.log_probs, step.raw_log_probs, step.ended)
        )
        return Step(rows, tokens, log_probs, raw, ended, step.computed_tokens)


@torch.no_grad()
def generate(
    model: ReactiveNetwork,
    prompts: TokenBatch,
    stm: Tensor,
    *,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None = None,
    sampling: Sampling = _AS_THEY_ARE,
    calls: bool = False,
) -> Generation:
    """Continues prompts until `[EOS]` or the token limit.

    Args:
        model: The Reactive Transformer.
        prompts: `[BOS] [Q] query [A]` of each row, right-padded, of any lengths. A row without tokens gets no answer. Behind `[T]` of the
            template a row thinks, then says `[A]` and its answer.
        stm: Memory that is read, `[layers, batch, slots, dim]`.
        max_new_tokens: Limit of generated tokens, `[EOS]` included; cut for each row to what the model's length leaves
            for the interaction as it is written.
        generators: One CPU generator a row; each row's draws depend on its own alone. None: greedy.
        sampling: Distribution of the draws.
        calls: Whether an answer may be followed by `[C]` and a tool call, in the template.

    Returns:
        Generated tokens with log-probabilities.

    Raises:
        ModelError: A prompt fills the model's length limit, or an option is out of range.
        PolicyError: The model's logits are not finite.
    """
    steps = _checked_steps(model, prompts, stm, max_new_tokens, generators, sampling, calls)
    return _gathered(list(steps), len(prompts.ids), stm)


def _gathered(computed: Sequence[_Computed], batch: int, like: Tensor) -> Generation:
    """Answers of a batch, put together from what each step brought."""
    steps = [each.step for each in computed]
    ids = torch.full((batch, max(1, len(steps))), PAD, device=like.device)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    log_probs, raw = (like.new_zeros(ids.shape, dtype=wide(like.dtype)) for _ in range(2))
    if steps:
        at = torch.cat([step.rows.new_full(step.rows.shape, index) for index, step in enumerate(steps)])
        finished = torch.cat([torch.zeros_like(each.step.ended) if each.finished is None else each.finished for each in computed])
        running = (~finished).nonzero().squeeze(1)
        where = torch.cat([step.rows for step in steps])[running], at[running]
        mask[where] = True
        for whole, parts in (
            (ids, [step.tokens for step in steps]),
            (log_probs, [step.log_probs for step in steps]),
            (raw, [step.raw_log_probs for step in steps]),
        ):
            whole[where] = torch.cat(parts)[running]
    return Generation(ids, mask, log_probs, raw, sum(step.computed_tokens for step in steps))


def generate_steps(
    model: ReactiveNetwork,
    prompts: TokenBatch,
    stm: Tensor,
    *,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None,
    sampling: Sampling,
    calls: bool = False,
) -> Iterator[Step]:
    """The same token by token, as a stream; arguments as in `generate`, which are checked at once."""
    return (each.of_running() for each in _checked_steps(model, prompts, stm, max_new_tokens, generators, sampling, calls))


def _checked_steps(
    model: ReactiveNetwork,
    prompts: TokenBatch,
    stm: Tensor,
    max_new_tokens: int,
    generators: Sequence[torch.Generator] | None,
    sampling: Sampling,
    calls: bool,
) -> Iterator[_Computed]:
    if calls and not model.config.template:
        raise ModelError("Tool calls need a model whose tokenizer has the markers of the interaction template: leave them out.")
    if not len(prompts.ids):
        raise ModelError("There are no prompts: give at least one.")
    if len(prompts.ids) != stm.shape[1]:
        raise ModelError(f"Memory has {stm.shape[1]} rows, the prompts have {len(prompts.ids)}: both need the same batch.")
    if generators is not None and len(generators) != len(prompts.ids):
        raise ModelError(f"{len(prompts.ids)} prompts need a generator each, got {len(generators)}.")
    # Room for one more token: an answer that is cut at its limit is written with [EOS] behind it.
    room = model.config.max_length - 1 - prompts.lengths
    if int(room.min()) < 1:
        raise ModelError(
            f"A prompt of {int(prompts.lengths.max())} tokens leaves no room for an answer: query and answer together may have "
            f"{model.config.max_length} tokens, markers included; shorten the query."
        )
    if max_new_tokens < 1:
        raise ModelError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    uniform = None
    if generators is not None:
        draws = _draws_per_row(model, max_new_tokens)
        uniform = torch.stack([torch.rand(draws, generator=generator, dtype=torch.float64) for generator in generators])
    return _steps(model, prompts.to(model.device), stm, room.clamp(max=max_new_tokens), uniform, sampling, calls)


def _draws_per_row(model: ReactiveNetwork, max_new_tokens: int) -> int:
    """Uniform numbers drawn for each row; they must not depend on the batch that it stands in."""
    return min(max_new_tokens, model.config.max_length)


# No autograd bookkeeping at all: a step is many small kernels, and what each costs besides its work is a good part of it.
@torch.inference_mode()
def _steps(
    model: ReactiveNetwork, prompts: TokenBatch, stm: Tensor, limits: Tensor, uniform: Tensor | None, sampling: Sampling, calls: bool
) -> Iterator[_Computed]:
    rows = prompts.mask.any(1).nonzero().squeeze(1)
    if not len(rows):
        return
    limits = limits.to(model.device)[rows]
    longest = int(limits.max())
    uniform = None if uniform is None else uniform.to(model.device)[rows]
    markers = Markers.of(_last(prompts)[rows], calls) if model.config.template else None
    state, head = _Running.begin(model, prompts, stm, rows, longest), _AnswerHead.of(model.decoder, len(rows), markers)
    for step in range(longest):
        raw = head.log_probs(state.last)
        drawn_from = sampling.distribution(raw)
        token = raw.max(-1).indices if uniform is None else draw(drawn_from, uniform.narrow(1, step, 1))
        raw_log_probs = _at(raw, token)
        log_probs = raw_log_probs if drawn_from is raw else _at(drawn_from, token)
        if markers is not None:
            markers.note(token)
        ended = (token == EOS) | (limits == step + 1)
        computed = state.take(Step(state.rows, token, log_probs, raw_log_probs, ended, len(token) if step else 0))
        # Where finished rows cost nothing, the next token is on its way before it is known whether anybody needs it.
        ahead = step + 1 < longest and state.decoding.is_free(len(token))
        if ahead:
            state.advance(model, token, step)
        state.count()
        yield computed
        if not state.running:
            return
        if not ahead:
            kept = state.compact()
            if kept is not None:
                token, limits, uniform = token[kept], limits[kept], None if uniform is None else uniform[kept]
                if markers is not None:
                    markers.keep(kept)
            state.advance(model, token, step)


def _last(prompts: TokenBatch) -> Tensor:
    """Last token of every prompt, int64 `[batch]`."""
    return prompts.ids.gather(1, (prompts.lengths - 1).clamp(min=0).unsqueeze(1)).squeeze(1)


def _at(log_probs: Tensor, token: Tensor) -> Tensor:
    """Of one token a row, `[batch]`."""
    return log_probs.gather(1, token.unsqueeze(1)).squeeze(1)


@dataclass(frozen=True, slots=True)
class _AnswerHead:
    """The decoder's output head with the special tokens other than `[EOS]` made impossible by its bias."""

    weight: Tensor
    bias: Tensor
    markers: Markers | None = None

    @classmethod
    def of(cls, decoder: Decoder, rows: int, markers: Markers | None) -> _AnswerHead:
        weight = decoder.head.weight.t()
        # Read row by row a product takes two thirds of the time, which pays for the copy except where somebody waits for a first token.
        allowed = (EOS,) if markers is None else markers.SAID
        bias = answer_logits(decoder.head.bias, decoder.head.special_tokens, allowed)
        return cls(weight if rows == 1 else weight.contiguous(), bias, markers)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """`[batch, dim]` to log-probabilities `[batch, vocab]` under temperature 1, in float32 or wider."""
        logits = torch.addmm(self.bias, hidden, self.weight)
        log_probs = logits.log_softmax(-1, dtype=wide(logits.dtype))
        return log_probs if self.markers is None else self.markers.allow(log_probs)


class _Awaited:
    """Numbers that a device computes, on their way here while the device goes on."""

    def __init__(self, *numbers: Tensor) -> None:
        # Only CUDA is asked not to wait: elsewhere nothing would tell when the numbers are there.
        device, self._arrived = numbers[0].device, None
        self._numbers = [each.to("cpu", non_blocking=each.is_cuda) for each in numbers]
        if device.type == "cuda":
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(device))

    def arrived(self) -> list[float]:
        """The numbers, as soon as they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [each.item() for each in self._numbers]


@dataclass(slots=True)
class _Running:
    """What generation carries from token to token: the rows that still run, and for a while those that have finished.

    Attributes:
        rows: Rows of the batch, int64 `[rows]`.
        finished: bool `[rows]`.
        sums: How many of them that is, and the sum of the log-probabilities of the last tokens.
        running: How many are not, so that a step waits for the device only once.
        last: Last hidden states, `[rows, dim]`.
        lengths: Tokens of the prompts, int64 `[rows]`.
        decoding: What computes the next ones.
    """

    rows: Tensor
    finished: Tensor
    sums: _Awaited | None
    running: int
    last: Tensor
    lengths: Tensor
    decoding: Decoding

    @classmethod
    def begin(cls, model: ReactiveNetwork, prompts: TokenBatch, stm: Tensor, rows: Tensor, limit: int) -> _Running:
        mask = prompts.mask[rows]
        lengths = mask.sum(1)
        width = int(lengths.max())
        embedded = model.embedding(prompts.ids[rows, :width])
        read = stm if len(rows) == stm.shape[1] else stm[:, rows]
        last, decoding = begin(model.decoder, embedded, mask[:, :width], read, limit, model.graphs)
        return cls(rows, torch.zeros_like(rows, dtype=torch.bool), None, len(rows), last, lengths, decoding)

    def take(self, step: Step) -> _Computed:
        """Notes what has ended."""
        before = None if self.running == len(self.rows) else self.finished
        self.finished = self.finished | step.ended
        self.sums = _Awaited(self.finished.sum(), step.raw_log_probs.sum())
        return _Computed(step, before)

    def count(self) -> None:
        """Waits until it is known how many rows still run, and that what was sampled from was finite."""
        assert self.sums is not None, "a step is taken before its rows are counted"
        finished, log_probs = self.sums.arrived()
        check_finite(log_probs)
        self.running = len(self.rows) - int(finished)

    def compact(self) -> Tensor | None:
        """Drops finished rows once they are more than a sixth, so that at most 1.2 tokens are computed per useful one; which it keeps."""
        if self.running * 6 > len(self.rows) * 5:
            return None
        kept = (~self.finished).nonzero().squeeze(1)
        self.rows, self.lengths, self.finished = self.rows[kept], self.lengths[kept], self.finished[kept]
        self.decoding.keep(kept)
        return kept

    def advance(self, model: ReactiveNetwork, token: Tensor, step: int) -> None:
        self.last = self.decoding.step(model.embedding(token), self.lengths + step)
