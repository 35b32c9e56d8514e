"""KL to the reference: expected value and gradient of each estimator over a vocabulary that can be counted, the coefficient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.algorithms.losses import adapted_coefficient, estimated_kl
from tests.algorithms.minibatch import VOCAB, log_probs
from tests.distributions import exact_kl

SEEDS = st.integers(0, 50)


def expectation(estimator, policy, reference):
    """Mean of an estimate over all tokens, each as often as the policy samples it; the sampling itself has no gradient."""
    return (policy.detach().exp() * estimated_kl(policy, reference, estimator)).sum()


def gradient_of(function, logits):
    leaf = logits.clone().requires_grad_()
    function(leaf.log_softmax(-1)).backward()
    return leaf.grad


@given(SEEDS)
def test_expected_values_of_the_estimators(seed):
    policy, reference = (log_probs(VOCAB, seed=each, impossible=()) for each in (seed, seed + 100))
    exact = exact_kl(policy, reference)
    assert torch.allclose(expectation("k1", policy, reference), exact)
    assert torch.allclose(expectation("k3", policy, reference), exact)
    assert estimated_kl(policy, reference, "k2").min() >= 0
    assert estimated_kl(policy, reference, "k3").min() >= -1e-12
    for estimator in ("k1", "k2", "k3"):
        assert estimated_kl(policy, policy, estimator).abs().max() < 1e-12


@given(SEEDS)
def test_expected_gradients_of_the_estimators(seed):
    """k1: none; k2: that of KL(policy || reference), as the exact one; k3: that of KL(reference || policy)."""
    logits = torch.randn(VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    reference = log_probs(VOCAB, seed=seed + 100, impossible=())
    found = {name: gradient_of(lambda p, name=name: expectation(name, p, reference), logits) for name in ("k1", "k2", "k3")}
    reverse = gradient_of(lambda p: exact_kl(p, reference), logits)
    forward = gradient_of(lambda p: exact_kl(reference, p), logits)
    assert found["k1"].abs().max() < 1e-12
    assert torch.allclose(found["k2"], reverse)
    assert torch.allclose(found["k3"], forward)
    probabilities = logits.softmax(-1)
    by_hand = probabilities * (logits.log_softmax(-1) - reference - exact_kl(logits.log_softmax(-1), reference))
    assert torch.allclose(reverse, by_hand)


@given(SEEDS)
def test_k1_in_the_reward_has_the_gradient_of_the_kl(seed):
    """What a policy gradient makes of k1 as a cost is the gradient that k1 lacks in the loss."""
    logits = torch.randn(VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    reference = log_probs(VOCAB, seed=seed + 100, impossible=())
    cost = estimated_kl(logits.log_softmax(-1), reference, "k1")
    score = gradient_of(lambda p: (p.detach().exp() * cost * p).sum(), logits)
    assert torch.allclose(score, gradient_of(lambda p: exact_kl(p, reference), logits))


def test_the_coefficient_follows_the_kl():
    assert adapted_coefficient(0.2, 0.1, target=0.1, rate=0.5) == pytest.approx(0.2)
    assert adapted_coefficient(0.2, 0.11, target=0.1, rate=0.5) == pytest.approx(0.2 * 1.05)
    assert adapted_coefficient(0.2, 9.0, target=0.1, rate=0.5) == pytest.approx(0.2 * 1.1)
    assert adapted_coefficient(0.2, 0.0, target=0.1, rate=0.5) == pytest.approx(0.2 * 0.9)
