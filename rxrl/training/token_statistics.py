"""What the losses need of the policy at each sampled token: log-probability, entropy, KL to other policies.

Each is a sum over the vocabulary. It is taken over a few hundred tokens at a time, and again in the backward pass, so that numbers
`[tokens, vocab]` never exist for all tokens at once: they would be most of the memory of an update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rxrl.algorithms.losses import estimated_kl
from rxrl.models import answer_logits, thinking
from rxrl.models.layers import wide
from rxrl.types import ANSWER, SPECIAL_TOKENS

CHUNK = 1 << 22
"""Logits that are computed at a time. Of the sizes that were measured, those from half to twice this one are the fastest on CPUs."""
GPU_CHUNK = 1 << 25
"""The same on GPUs, which start fewer and larger pieces of work."""


@dataclass(frozen=True, slots=True)
class LazyLogits:
    """Logits of answer tokens, `[tokens, vocab]`, that are computed where they are needed and not kept.

    Attributes:
        hidden: Hidden states as the output head takes them, `[tokens, dim]`.
        weight: Of the head, `[vocab, dim]`.
        bias: Of the head, -inf for what no answer holds, `[vocab]`.
        thought_bias: The same for what no thought holds; None where the vocabulary has no markers of the interaction template.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    thought_bias: Tensor | None = None

    @classmethod
    def of(cls, head: nn.Linear, hidden: Tensor) -> LazyLogits:
        """What an output head makes of hidden states `[tokens, dim]`, in the precision that it computes in."""
        dtype, device = hidden.dtype, hidden.device.type
        if torch.is_autocast_enabled(device) and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        special = getattr(head, "special_tokens", len(SPECIAL_TOKENS))
        in_thoughts = answer_logits(head.bias, special, (ANSWER,)).to(dtype) if special > len(SPECIAL_TOKENS) else None
        return cls(hidden.to(dtype), head.weight.to(dtype), answer_logits(head.bias, special).to(dtype), in_thoughts)

    def split(self, counts: list[int]) -> list[LazyLogits]:
        """The same in parts of so many tokens."""
        return [replace(self, hidden=hidden) for hidden in torch.split(self.hidden, counts)]

    def thoughts(self, ids: Tensor, answer: Tensor) -> Tensor | None:
        """Which of the tokens `ids[answer]` are thoughts or the `[A]` that ends them, bool `[tokens]`; None where there are no markers."""
        return None if self.thought_bias is None else thinking(ids)[answer]

    def part(self, rows: Tensor, thoughts: bool) -> LazyLogits:
        """The same for some tokens, all of them thoughts or none."""
        bias = self.thought_bias if thoughts and self.thought_bias is not None else self.bias
        return LazyLogits(self.hidden[rows], self.weight, bias)


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """Numbers of each token, all `[tokens]`, in float32 or wider; gradients go to the policy alone.

    Attributes:
        log_probs: Of the sampled tokens.
        entropy: Of the policy.
        reference_kl: KL(policy || reference), exact or an estimate of it, or None.
        reference_log_probs: Of the sampled tokens under the reference, or None.
        previous_kl: KL(policy || the policy with the memory of the turn before), or None.
    """

    log_probs: Tensor
    entropy: Tensor
    reference_kl: Tensor | None = None
    reference_log_probs: Tensor | None = None
    previous_kl: Tensor | None = None


def token_statistics(
    policy: LazyLogits,
    ids: Tensor,
    temperature: float,
    reference: LazyLogits | None = None,
    previous: LazyLogits | None = None,
    estimator: str = "exact",
    thoughts: Tensor | None = None,
) -> TokenStatistics:
    """Statistics of the policy at each sampled token.

    Args:
        policy: Of which gradients are taken.
        ids: Sampled tokens, int64 `[tokens]`.
        temperature: Of all softmaxes, above 0.
        reference: The frozen reference, or None.
        previous: The policy with the memory of the turn before, or None; no gradients either.
        estimator: How the KL to the reference is computed: exactly, or as `estimated_kl` does on the sampled tokens.
        thoughts: Which tokens are thoughts, see `LazyLogits.thoughts`: `[A]` can end them, as `[EOS]` can end an answer.
    """
    if reference is not None and estimator != "exact":
        found = token_statistics(policy, ids, temperature, None, previous, thoughts=thoughts)
        with torch.no_grad():
            theirs = token_log_probs(reference, ids, temperature, thoughts)
        return replace(found, reference_kl=estimated_kl(found.log_probs, theirs, estimator), reference_log_probs=theirs)
    others = [each for each in (reference, previous) if each is not None]
    log_probs, entropy, *rest = _statistics(ids, temperature, True, thoughts, policy, *others)
    kls, sampled = rest[: len(others)], rest[len(others) :]
    return TokenStatistics(
        log_probs,
        entropy,
        reference_kl=None if reference is None else kls[0],
        reference_log_probs=None if reference is None else sampled[0],
        previous_kl=None if previous is None else kls[-1],
    )


def token_log_probs(policy: LazyLogits, ids: Tensor, temperature: float, thoughts: Tensor | None = None) -> Tensor:
    """Log-probabilities of the sampled tokens alone, `[tokens]`, bit for bit those of `token_statistics`."""
    return _statistics(ids, temperature, False, thoughts, policy)[0]


def _statistics(
    ids: Tensor, temperature: float, spread: bool, thoughts: Tensor | None, policy: LazyLogits, *others: LazyLogits
) -> Sequence[Tensor]:
    if thoughts is not None:
        # What thoughts may hold answers may not, and the other way round.
        places = [(~thoughts).nonzero().squeeze(1), thoughts.nonzero().squeeze(1)]
        parts = [
            _statistics(ids[rows], temperature, spread, None, *(each.part(rows, bool(number)) for each in (policy, *others)))
            for number, rows in enumerate(places)
        ]
        order = torch.cat(places).argsort()
        return [torch.cat(each)[order] for each in zip(*parts, strict=True)]
    held = [tensor.detach() for each in others for tensor in (each.hidden, each.weight, each.bias)]
    found: tuple[Tensor, ...] = _Statistics.apply(ids, temperature, spread, policy.hidden, policy.weight, policy.bias, *held)  # type: ignore[no-untyped-call]
    return found


class _Statistics(torch.autograd.Function):
    """Log-probabilities; then, where `spread`, entropy, KL to each other policy, and log-probabilities under each other policy."""

    @staticmethod
    def forward(ctx: Any, ids: Tensor, temperature: float, spread: bool, *heads: Tensor) -> tuple[Tensor, ...]:
        policy, *others = _grouped(heads)
        impossible, index = _impossible(policy), ids.unsqueeze(1)
        count = 2 + 2 * len(others) if spread else 1
        out = tuple(policy.hidden.new_empty(len(ids), dtype=wide(policy.hidden.dtype)) for _ in range(count))
        for rows in _chunks(policy):
            log_probs = _log_probs(policy, rows, temperature)
            out[0][rows] = log_probs.gather(1, index[rows]).squeeze(1)
            if not spread:
                continue
            probs = log_probs.exp()
            for number, other in enumerate(others, 2):
                theirs = _log_probs(other, rows, temperature)
                out[number + len(others)][rows] = theirs.gather(1, index[rows]).squeeze(1)
                parts = torch.sub(log_probs, theirs, out=theirs).mul_(probs)
                out[number][rows] = parts.index_fill_(1, impossible, 0).sum(1)
            out[1][rows] = -log_probs.mul_(probs).index_fill_(1, impossible, 0).sum(1)
        ctx.temperature, ctx.count = temperature, count
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*out[2 + len(others) :])
        ctx.save_for_backward(ids, *out, *heads)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Recomputes the logits of a chunk.

        At a tempered logit of probability p, a gradient g of the log-probability is g (sampled - p), one of the entropy H is
        -g p (log p + H), and one of the KL to a policy q is g p (log p - log q - KL).
        """
        ids, *saved = ctx.saved_tensors
        out, (policy, *others) = saved[: ctx.count], _grouped(saved[ctx.count :])
        impossible, index = _impossible(policy), ids.unsqueeze(1)
        per_token = [None if each is None else (each / ctx.temperature).unsqueeze(1) for each in gradients]
        nothing = torch.zeros_like(out[0]).unsqueeze(1)
        to_log_probs, to_entropy = (nothing if each is None else each for each in (*per_token, None)[:2])
        constant = -to_log_probs
        for to, value in zip(per_token[1:], out[1:], strict=True):
            constant = constant if to is None else constant - to * value.unsqueeze(1)
        compared = [(other, to) for other, to in zip(others, per_token[2:], strict=False) if to is not None]
        found = _HeadGradients(policy, *ctx.needs_input_grad[3:6])
        for rows in _chunks(policy):
            log_probs = _log_probs(policy, rows, ctx.temperature)
            slopes = torch.addcmul(constant[rows], log_probs, to_entropy[rows], value=-1)
            for other, to in compared:
                theirs = _log_probs(other, rows, ctx.temperature)
                slopes += torch.sub(log_probs, theirs, out=theirs).mul_(to[rows])
            slopes.mul_(log_probs.exp_()).scatter_add_(1, index[rows], to_log_probs[rows])
            found.add(rows, slopes.index_fill_(1, impossible, 0))
        return (None, None, None, *found.all(), *[None] * (3 * len(others)))


class _HeadGradients:
    """Gradients of hidden states, weight and bias of a head (None where not `needed`), summed in float32 or wider."""

    def __init__(self, inputs: LazyLogits, *needed: bool) -> None:
        self.inputs = inputs
        tensors = (inputs.hidden, inputs.weight, inputs.bias)
        self.sums = [
            torch.zeros_like(each, dtype=wide(each.dtype)) if wanted else None for each, wanted in zip(tensors, needed, strict=True)
        ]

    def add(self, rows: slice, logits: Tensor) -> None:
        """Takes in the gradients of the logits of some tokens, `[rows, vocab]`."""
        hidden, weight, bias = self.sums
        narrow = logits.to(self.inputs.weight.dtype)
        if hidden is not None:
            hidden[rows] = narrow @ self.inputs.weight
        if weight is not None:
            weight += narrow.T @ self.inputs.hidden[rows]
        if bias is not None:
            bias += logits.sum(0)

    def all(self) -> list[Tensor | None]:
        """The sums, in the precision of what they are gradients of."""
        return [None if each is None else each.to(self.inputs.weight.dtype) for each in self.sums]


def _grouped(heads: Sequence[Tensor]) -> list[LazyLogits]:
    return [LazyLogits(*heads[at : at + 3]) for at in range(0, len(heads), 3)]


def _impossible(policy: LazyLogits) -> Tensor:
    """Tokens of probability 0: what is multiplied with them is not a number."""
    return policy.bias.isneginf().nonzero().squeeze(1)


def _chunks(policy: LazyLogits) -> Iterator[slice]:
    """Tokens that are computed together: a matter of their number alone, so that the same tokens get the same bits in every pass."""
    chunk = CHUNK if policy.hidden.device.type == "cpu" else GPU_CHUNK
    tokens, size = len(policy.hidden), max(1, chunk // len(policy.weight))
    return (slice(first, first + size) for first in range(0, tokens, size))


def _log_probs(logits: LazyLogits, rows: slice, temperature: float) -> Tensor:
    """Log-probabilities of some tokens over the vocabulary, `[rows, vocab]`."""
    narrow = F.linear(logits.hidden[rows], logits.weight, logits.bias)
    # In float32 or wider also where the head computes in less: ratios are small differences.
    tempered = narrow.to(wide(narrow.dtype))
    return (tempered if temperature == 1 else tempered.div_(temperature)).log_softmax(-1)
