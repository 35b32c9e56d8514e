"""Terms that every algorithm shares: entropy bonus, KL to the frozen reference, self-imitation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rxrl.algorithms.kl import estimated_kl, exact_kl
from rxrl.algorithms.losses import LossResult, PolicyInputs, entropy, weighted_mean

if TYPE_CHECKING:
    from rxrl.algorithms.config import AlgorithmConfig


def with_shared_terms(policy: LossResult, inputs: PolicyInputs, config: AlgorithmConfig) -> LossResult:
    """A policy loss with the shared terms added; coefficient 0 turns a term off.

    Args:
        policy: What the algorithm itself minimises.
        inputs: Its inputs.
        config: Coefficients.

    Source: KL penalty of Ziegler et al. 2019, in the loss by default; self-imitation after Oh et al. 2018, without their value baseline.
    """
    spread = inputs.mean(entropy(inputs.distribution))
    loss = policy.loss - config.entropy * spread
    metrics = {"policy_loss": policy.loss.detach(), "entropy": spread.detach(), **policy.metrics}
    if (distances := kl_to_reference(inputs, config.kl_estimator)) is not None:
        kl = inputs.mean(distances)
        metrics["kl"] = kl.detach()
        if config.kl_in == "loss":
            loss = loss + config.kl * kl
    if inputs.imitate is not None:
        surprise = weighted_mean(-inputs.log_probs, inputs.imitate, None if inputs.totals is None else inputs.totals.imitate)
        metrics["self_imitation"] = surprise.detach()
        loss = loss + config.self_imitation * surprise
    return LossResult(loss, metrics)


def kl_to_reference(inputs: PolicyInputs, estimator: str) -> Tensor | None:
    """KL to the reference at each token, `[tokens]`; None without a reference."""
    if estimator == "exact":
        return None if inputs.reference is None else exact_kl(inputs.distribution, inputs.reference)
    if inputs.reference_log_probs is None:
        return None
    return estimated_kl(inputs.log_probs, inputs.reference_log_probs, estimator)
