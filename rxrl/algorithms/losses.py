"""Losses of policy and value as pure tensor functions; all over real answer tokens or real turns, flattened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

NORM_EPS = 1.1920929e-07
MAXIMA = frozenset({"ratio_deviation"})
"""Metrics of which parts are joined by their maximum; all others are sums over parts, because each is divided by a total of the whole."""

OVER_ALL = frozenset({"loss", "balance", "memory_change", "memory_cosine"})
"""Metrics over all real turns; the others are means over turns that are trained on, and have no value where there are none."""


@dataclass(frozen=True, slots=True)
class LossResult:
    """A scalar loss and detached metrics; `terms` are losses of signals before their coefficients, with their graph."""

    loss: Tensor
    metrics: dict[str, Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Totals:
    """What the sums of a whole minibatch are divided by, so that losses of its parts add up to the loss of the whole.

    Over several processes each is a mean over them, because their gradients are averaged.

    Attributes:
        weights: Of `PolicyInputs.weights`.
        previous: Of those weights where `PolicyInputs.has_previous` is 1.
        memory: Real turns from the second on.
        imitate: Of `PolicyInputs.imitate`.
        turns: Turns that the critic learns from.
        signals: Weights of each signal besides the reward.
    """

    weights: Tensor
    previous: Tensor
    memory: Tensor
    imitate: Tensor
    turns: Tensor
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def teach(self) -> bool:
        """Whether a signal besides the reward has something to teach."""
        return any(bool(weight > 0) for weight in self.signals.values())


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """What the policy losses see of one minibatch, or of some turns or conversations of it.

    Attributes:
        log_probs: Log-probabilities of the sampled tokens under current weights, `[tokens]`.
        old_log_probs: The same under the weights before the update, `[tokens]`.
        advantages: Advantage of each token, `[tokens]`; 0 and weight 0 where the turn is not trained on.
        weights: Share of each token in a mean, `[tokens]`: 1 where every token counts the same, 0 for turns that are not trained on.
        entropy: Of the current policy over the vocabulary, `[tokens]`.
        reference_kl: KL(policy || frozen reference) by the configured estimator, `[tokens]`, or None.
        previous_kl: KL(policy || the policy that reads the memory of the turn before, which is held constant), `[tokens]`, or None.
        has_previous: 1 for tokens that `previous_kl` is defined for (from the second turn on), `[tokens]`.
        memory: Memory that each turn reads, `[layers, turns, batch, slots, dim]`.
        real: bool `[turns, batch]`.
        reference_log_probs: Of the sampled tokens under the frozen reference, `[tokens]`, or None.
        imitate: 1 for tokens of the best episodes, `[tokens]`, or None.
        first_turn: Number of the first turn of `memory`, from 1.
        totals: Those of the whole minibatch; None: this is the whole.
    """

    log_probs: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    weights: Tensor
    entropy: Tensor
    reference_kl: Tensor | None
    previous_kl: Tensor | None
    has_previous: Tensor
    memory: Tensor
    real: Tensor
    reference_log_probs: Tensor | None = None
    imitate: Tensor | None = None
    first_turn: int = 1
    totals: Totals | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Weighted mean of `values` `[tokens]`, or the part in it that these tokens have."""
        return weighted_mean(values, self.weights, None if self.totals is None else self.totals.weights)

    def mean_with_previous(self, values: Tensor) -> Tensor:
        """The same over the tokens that `previous_kl` is defined for."""
        return weighted_mean(values, self.weights * self.has_previous, None if self.totals is None else self.totals.previous)


def weighted_mean(values: Tensor, weights: Tensor, total: Tensor | None = None) -> Tensor:
    """Mean of `values` by `weights`, or their share in a mean whose weights sum to `total`; 0 where there is nothing."""
    whole = weights.sum() if total is None else total
    return (values * weights).sum() / whole.masked_fill(whole == 0, 1)


def sum_results(results: Sequence[LossResult]) -> LossResult:
    """The loss of the whole from those of its parts, at least one."""
    names = dict.fromkeys(name for each in results for name in each.metrics)
    joined = {name: torch.stack([each.metrics[name] for each in results if name in each.metrics]) for name in names}
    metrics = {name: values.max() if name in MAXIMA else values.sum() for name, values in joined.items()}
    terms = {name: torch.stack([each.terms[name] for each in results]).sum() for name in results[0].terms}
    return LossResult(torch.stack([each.loss for each in results]).sum(), metrics, terms)


def ratio_metrics(log_ratio: Tensor, inputs: PolicyInputs, low: float, high: float) -> dict[str, Tensor]:
    """How far the policy has moved since collection: ratios, the share of them outside `1 - low .. 1 + high`, and KL(old || new)."""
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    outside = ((ratio - 1 > high) | (1 - ratio > low)).to(ratio.dtype)
    moved = (ratio - 1).abs() * (inputs.weights > 0)
    return {
        "ratio": inputs.mean(ratio),
        "ratio_deviation": moved.max() if len(moved) else moved.sum(),
        "clip_fraction": inputs.mean(outside),
        "approx_kl": inputs.mean((ratio - 1) - log_ratio),
    }


def clipped_policy_loss(inputs: PolicyInputs, low: float, high: float, dual: float | None = None) -> LossResult:
    """PPO's clipped surrogate, ratio per token (Schulman et al. 2017, equation 7).

    Args:
        inputs: One minibatch, or a part of one.
        low: How far below 1 a ratio still counts.
        high: How far above 1.
        dual: For negative advantages the surrogate is at least `dual` times the advantage (Ye et al. 2020, equation 5); None: no bound.
    """
    log_ratio = inputs.log_probs - inputs.old_log_probs
    ratio = log_ratio.exp()
    surrogate = torch.minimum(ratio * inputs.advantages, ratio.clamp(1 - low, 1 + high) * inputs.advantages)
    if dual is not None:
        surrogate = torch.where(inputs.advantages < 0, torch.maximum(surrogate, dual * inputs.advantages), surrogate)
    return LossResult(-inputs.mean(surrogate), ratio_metrics(log_ratio, inputs, low, high))


def policy_gradient_loss(inputs: PolicyInputs) -> LossResult:
    """Log-likelihood of the sampled tokens times their advantages (Sutton et al. 2000), right for the policy that sampled them."""
    metrics = ratio_metrics(inputs.log_probs - inputs.old_log_probs, inputs, 1.0, 1.0)
    del metrics["clip_fraction"]
    return LossResult(-inputs.mean(inputs.log_probs * inputs.advantages), metrics)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, valid: Tensor, clip: float | None, total: Tensor | None = None
) -> Tensor:
    """Half the squared error over valid turns, the larger of clipped and unclipped where `clip` is given. Shapes `[turns, batch]`."""
    error = (values - returns).pow(2)
    if clip is not None:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped - returns).pow(2))
    return 0.5 * weighted_mean(error, valid.to(values.dtype), total)


def memory_change(memory: Tensor, real: Tensor, form: str, first_turn: int = 1, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How much each write changes memory, later turns weighing more.

    Args:
        memory: Memory that each turn reads, `[layers, turns, batch, slots, dim]`.
        real: bool `[turns, batch]`.
        form: `normalised` (memory as it is read: root-mean-square norm over dim) or `raw` (published).
        first_turn: Number of the first turn, from 1.
        total: Turns that the means are over; None: those that are given, without the first.

    Returns:
        Mean of sqrt(turn + 1) * mean((STM_t - STM_t-1)^2) and mean of 1 - cosine, over real turns from the second on.
    """
    if memory.shape[1] < 2:
        return memory.new_zeros(()), memory.new_zeros(())
    weights = real[1:].to(memory.dtype)
    turn = torch.arange(first_turn + 1, first_turn + memory.shape[1], device=memory.device, dtype=memory.dtype)
    before, after = memory[:, :-1], memory[:, 1:]
    norms = memory.norm(dim=-1).clamp(min=NORM_EPS)
    distance = 1 - ((before * after).sum(-1) / (norms[:, :-1] * norms[:, 1:])).mean(dim=(0, 3))
    # Vectors of unit root mean square differ by 2 (1 - cosine), so memory as it is read needs no second pass.
    squared = 2 * distance if form == "normalised" else (after - before).pow(2).mean(dim=(0, 3, 4))
    return weighted_mean((turn + 1).sqrt()[:, None] * squared, weights, total), weighted_mean(distance, weights, total)


def estimated_kl(log_probs: Tensor, reference_log_probs: Tensor, estimator: str) -> Tensor:
    """Estimate of KL(policy || reference) on each sampled token.

    Args:
        log_probs: Of the sampled tokens under the policy that sampled them, `[...]`.
        reference_log_probs: Of the same under the reference, `[...]`.
        estimator: `k1` (unbiased, noisy), `k2` (biased; its gradient is on average that of the KL) or `k3` (unbiased, never negative;
            its gradient is on average that of KL(reference || policy)). The gradient of `k1` is 0 on average: of use in the reward only.

    Source: Schulman 2020, "Approximating KL divergence".
    """
    difference = log_probs - reference_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference.pow(2)
    return (-difference).exp() - 1 + difference


def adapted_coefficient(coefficient: float, kl: float, target: float, rate: float) -> float:
    """The coefficient after an update whose KL to the reference was `kl`: larger where that is above `target`.

    One update changes it by a factor of at most 1 +- 0.2 * `rate`; a `kl` that is NaN (no turn was scored) leaves it.

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = 0.0 if math.isnan(kl) else max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + rate * error)
