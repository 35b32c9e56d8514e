"""How tokens are chosen: which of them may stand in an answer, and the distribution that they are drawn from."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from rxrl.errors import ModelError, PolicyError
from rxrl.template import CALL, THINK
from rxrl.types import ANSWER, EOS, SPECIAL_TOKENS

FORBIDDEN = tuple(token for token in range(len(SPECIAL_TOKENS)) if token != EOS)
"""Special tokens that cannot stand in an answer: all but `[EOS]`."""
LEAST_TEMPERATURE = 1e-6
"""Below it logits would leave the range of float32."""
_CANDIDATES = 128


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: Above 0; divides the logits.
        top_k: Keep this many of the likeliest tokens, at least 1.
        top_p: Keep the smallest set of tokens with at least this probability, in (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise ModelError(
                f"temperature must be a number of at least {LEAST_TEMPERATURE}, got {self.temperature}; "
                "for the likeliest tokens give no generators."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ModelError(f"top_k must be at least 1, got {self.top_k}; None keeps all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ModelError(f"top_p must be above 0 and at most 1, got {self.top_p}; None keeps all tokens.")

    def distribution(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities that tokens are drawn from, `[batch, vocab]` in and out."""
        tempered = log_probs if self.temperature == 1 else (log_probs / self.temperature).log_softmax(-1)
        return truncate_distribution(tempered, self.top_k, self.top_p)


def chosen_sampling(temperature: float | None, top_k: int | None, top_p: float | None) -> tuple[bool, Sampling]:
    """Whether the likeliest tokens are taken, and otherwise how they are drawn.

    Args:
        temperature: 0 takes the likeliest tokens; None: 1 with `top_k` or `top_p`, else 0.
        top_k: As in `Sampling`.
        top_p: As in `Sampling`.

    Raises:
        ModelError: An option is out of range, or tokens are to be left out where none is drawn.
    """
    truncated = top_k is not None or top_p is not None
    if temperature is None:
        temperature = 1.0 if truncated else 0.0
    if temperature == 0 and truncated:
        raise ModelError("temperature 0 takes the likeliest token each time, so it goes with neither top_k nor top_p: leave one out.")
    return temperature == 0, Sampling(temperature or 1.0, top_k, top_p)


def answer_logits(logits: Tensor, special_tokens: int = len(SPECIAL_TOKENS), allowed: Collection[int] = (EOS,)) -> Tensor:
    """Logits with special tokens other than `[EOS]` made impossible; the policy's distribution everywhere.

    Args:
        logits: `[..., vocab]`.
        special_tokens: Special tokens of the vocabulary, the markers of the template included.
        allowed: Those of them that are possible.
    """
    banned = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    banned[[token for token in range(special_tokens) if token not in allowed]] = True
    return logits.masked_fill(banned, float("-inf"))


def thinking(ids: Tensor) -> Tensor:
    """Whether each token is said in a thought, the `[A]` that ends it included; bool, `[..., time]` as `ids`."""
    ends = (ids == ANSWER).long()
    return ((ids == THINK).cumsum(-1) > 0) & (ends.cumsum(-1) - ends == 0)


class Markers:
    """Which markers each row of a template may say next: `[A]` ends what it thinks, `[C]` begins a tool call, `[EOS]` ends the rest.

    Args:
        thinking: Whether a row is still thinking, bool `[rows]`.
        calls: Whether tools may be called.
    """

    SAID = (EOS, ANSWER, CALL)

    def __init__(self, thinking: Tensor, calls: bool) -> None:
        self._thinking = thinking
        self._may_call = torch.full_like(thinking, calls)

    @classmethod
    def of(cls, last: Tensor, calls: bool) -> Markers | None:
        """Those of prompts with these last tokens, int64 `[rows]`; None where only `[EOS]` is possible."""
        thinking = last == THINK
        return cls(thinking, calls) if calls or bool(thinking.any()) else None

    def allow(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities `[rows, vocab]` of what each row may say."""
        possible = torch.stack([~self._thinking, self._thinking, ~self._thinking & self._may_call], dim=1)
        columns = log_probs.new_tensor(self.SAID, dtype=torch.int64)
        kept = log_probs[:, columns].masked_fill(~possible, float("-inf"))
        return log_probs.index_copy(1, columns, kept).log_softmax(-1)

    def note(self, token: Tensor) -> None:
        """Takes note of what each row has said, int64 `[rows]`."""
        self._thinking = self._thinking & (token != ANSWER)
        self._may_call = self._may_call & (token != CALL)

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only, int64 `[kept]`."""
        self._thinking, self._may_call = self._thinking[rows], self._may_call[rows]


def truncate_distribution(log_probs: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Keeps the `top_k` likeliest tokens and of these the smallest set that reaches `top_p`, the crossing token included."""
    nucleus = top_p if top_p is not None and top_p < 1 else None
    if top_k is not None and top_k < log_probs.shape[-1]:
        kept, tokens = log_probs.topk(top_k, dim=-1)
        kept = kept.log_softmax(-1)
    elif nucleus is not None:
        kept, tokens = _likeliest(log_probs, nucleus)
    else:
        return log_probs
    if nucleus is not None:
        before = kept.exp().cumsum(-1) - kept.exp()
        kept = kept.masked_fill(before >= nucleus, float("-inf")).log_softmax(-1)
    return torch.full_like(log_probs, float("-inf")).scatter(-1, tokens, kept)


def _likeliest(log_probs: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and ids of so many of the likeliest tokens, in order, that they have `mass` in every row."""
    vocab = log_probs.shape[-1]
    found = log_probs.topk(min(_CANDIDATES, vocab), dim=-1)
    # To sort a whole vocabulary can cost as much as the step that made it.
    enough = bool((found.values.exp().sum(-1) >= mass).all())
    values, tokens = found if enough else log_probs.sort(dim=-1, descending=True)
    return values, tokens


def draw(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-transform sampling: far cheaper than `torch.multinomial` on large vocabularies; never draws what is impossible.

    A row that is not finite gets some token, which `check_finite` has to keep from being used.
    """
    cumulative = log_probs.exp().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    target = torch.minimum(uniform * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_(max=log_probs.shape[-1] - 1)


def check_finite(total: Tensor | float) -> None:
    """Refuses to sample from logits that are not finite.

    Args:
        total: A sum or maximum that is not finite where one of the logits (or of the log-probabilities made of them) is not.

    Raises:
        PolicyError: It is not finite.
    """
    if not math.isfinite(float(total)):
        raise PolicyError(
            "The policy's logits are not finite (NaN or infinity), so it cannot answer: go back to an earlier checkpoint and, if training "
            "led here, lower the learning rate."
        )
