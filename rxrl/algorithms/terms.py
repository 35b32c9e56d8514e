"""Terms that every algorithm shares: entropy bonus, KL to the frozen reference, self-imitation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rxrl.algorithms.losses import LossResult, PolicyInputs, weighted_mean

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
    spread = inputs.mean(inputs.entropy)
    loss = policy.loss - config.entropy * spread
    metrics = {"policy_loss": policy.loss.detach(), "entropy": spread.detach(), **policy.metrics}
    if inputs.reference_kl is not None:
        kl = inputs.mean(inputs.reference_kl)
        metrics["kl"] = kl.detach()
        if config.kl_in == "loss":
            loss = loss + config.kl * kl
    if inputs.imitate is not None:
        surprise = weighted_mean(-inputs.log_probs, inputs.imitate, None if inputs.totals is None else inputs.totals.imitate)
        metrics["self_imitation"] = surprise.detach()
        loss = loss + config.self_imitation * surprise
    return LossResult(loss, metrics)
