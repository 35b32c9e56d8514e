"""KL divergence to the reference: estimates on the sampled tokens, and a coefficient that adapts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig


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


def adapted_coefficient(coefficient: float, kl: float, config: AlgorithmConfig) -> float:
    """The coefficient after an update whose KL to the reference was `kl`: larger where that is above `config.adaptive_kl`.

    One update changes it by a factor of at most 1 +- 0.2 * `config.adaptive_rate`.

    Source: Ziegler et al. 2019, section 2.2.
    """
    if config.adaptive_kl is None:
        return coefficient
    error = max(-0.2, min(0.2, kl / config.adaptive_kl - 1))
    return coefficient * (1 + config.adaptive_rate * error)
