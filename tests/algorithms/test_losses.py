"""Losses of policy and value, by hand, by enumeration, and with tokens that cannot occur."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rxrl.algorithms import POLICY_LOSSES, AlgorithmConfig, PolicyInputs
from rxrl.algorithms.losses import clipped_policy_loss, entropy, exact_kl, memory_change, value_loss, weighted_mean

INF = float("inf")
VOCAB = 6


def log_probs(*shape, seed=0, impossible=(0, 3)):
    """Random log-probabilities; some tokens are impossible."""
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[..., list(impossible)] = -INF
    return logits.log_softmax(-1)


def inputs(tokens=4, turns=2, **changes):
    """A minibatch in which every term of every loss has something to do; one token does not count."""
    distribution = log_probs(tokens, VOCAB)
    chosen = distribution[:, 1]
    memory = torch.randn(2, turns, 2, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    given = {
        "log_probs": chosen,
        "old_log_probs": chosen + torch.linspace(-0.5, 0.5, tokens, dtype=torch.float64),
        "advantages": torch.linspace(-1, 1, tokens, dtype=torch.float64),
        "weights": torch.tensor([1.0] * (tokens - 1) + [0.0], dtype=torch.float64),
        "distribution": distribution,
        "reference": log_probs(tokens, VOCAB, seed=1),
        "previous": log_probs(tokens, VOCAB, seed=2),
        "has_previous": torch.tensor([0.0] + [1.0] * (tokens - 1), dtype=torch.float64),
        "memory": memory,
        "real": torch.ones(turns, 2, dtype=torch.bool),
    }
    return PolicyInputs(**given | changes)


def test_clipped_loss_by_hand():
    ratios, advantages = torch.tensor([1.0, 1.5, 0.5, 1.5, 0.5]), torch.tensor([2.0, 2.0, 2.0, -2.0, -2.0])
    given_inputs = inputs(5, log_probs=ratios.log(), old_log_probs=torch.zeros(5), advantages=advantages, weights=torch.ones(5))
    result = clipped_policy_loss(given_inputs, 0.2)
    gains = [2.0, 2.4, 1.0, -3.0, -1.6]
    assert float(result.loss) == pytest.approx(-sum(gains) / 5)
    assert float(result.metrics["clip_fraction"]) == pytest.approx(4 / 5)
    assert float(result.metrics["ratio"]) == pytest.approx(1.0)
    assert float(result.metrics["ratio_deviation"]) == pytest.approx(0.5)
    assert float(result.metrics["approx_kl"]) == pytest.approx(sum(r - 1 - math.log(r) for r in ratios.tolist()) / 5, abs=1e-6)


def test_clipped_gradient_vanishes_only_where_it_would_push_further_away():
    ratios, advantages = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    current = ratios.log().requires_grad_()
    given_inputs = inputs(log_probs=current, old_log_probs=torch.zeros(4), advantages=advantages, weights=torch.ones(4))
    clipped_policy_loss(given_inputs, 0.2).loss.backward()
    assert current.grad.tolist() == pytest.approx([0.0, -0.5 / 4, 1.5 / 4, 0.0])


def test_tokens_of_unscored_turns_do_not_count():
    base = inputs()
    # The last token has weight 0.
    changed = {
        "log_probs": torch.cat([base.log_probs[:-1], base.log_probs.new_tensor([-9.0])]),
        "distribution": torch.cat([base.distribution[:-1], log_probs(1, VOCAB, seed=8)]),
        "reference": torch.cat([base.reference[:-1], log_probs(1, VOCAB, seed=9)]),
    }
    for name in POLICY_LOSSES:
        config = AlgorithmConfig(name=name)
        assert torch.equal(POLICY_LOSSES[name](base, config).loss, POLICY_LOSSES[name](inputs(**changed), config).loss)


@given(st.integers(0, 50))
def test_kl_equals_enumeration(seed):
    policy, reference = log_probs(3, VOCAB, seed=seed), log_probs(3, VOCAB, seed=seed + 100)
    expected = [
        sum(math.exp(p) * (p - r) for p, r in zip(row, other, strict=True) if p > -INF)
        for row, other in zip(policy.tolist(), reference.tolist(), strict=True)
    ]
    assert exact_kl(policy, reference).tolist() == pytest.approx(expected)
    assert exact_kl(policy, policy).abs().max() < 1e-12
    assert exact_kl(policy, reference).min() >= 0


@pytest.mark.parametrize("name", ["kl", "entropy", "clip"])
def test_gradients_are_finite_and_right_where_tokens_are_impossible(name):
    logits = torch.randn(3, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = log_probs(3, VOCAB, seed=1)
    impossible = torch.tensor([0, 3])

    def value(logits):
        distribution = logits.index_fill(1, impossible, -INF).log_softmax(-1)
        if name == "kl":
            return exact_kl(distribution, reference).sum()
        if name == "entropy":
            return entropy(distribution).sum()
        return clipped_policy_loss(inputs(3, log_probs=distribution[:, 1], old_log_probs=reference[:, 1]), 0.2).loss

    assert torch.autograd.gradcheck(value, (logits,))
    value(logits).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, impossible].eq(0).all()
    assert logits.grad.abs().max() > 0


def test_entropy_of_the_uniform_distribution_is_log_n_and_of_a_certain_one_0():
    uniform = torch.zeros(2, 8).log_softmax(-1)
    assert entropy(uniform).tolist() == pytest.approx([math.log(8)] * 2)
    narrow = uniform.clone()
    narrow[:, :4] = -INF
    assert entropy(narrow.log_softmax(-1)).tolist() == pytest.approx([math.log(4)] * 2)
    certain = torch.full((1, 8), -INF)
    certain[0, 2] = 0.0
    assert entropy(certain).item() == 0.0


def test_entropy_bonus_pulls_towards_the_uniform_distribution_with_its_full_weight():
    """The bonus is a mean over tokens, counted once: its gradient is that of -coefficient * mean entropy."""
    logits = torch.randn(4, VOCAB, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    quiet = {"advantages": torch.zeros(4, dtype=torch.float64), "weights": torch.ones(4, dtype=torch.float64), "reference": None}

    def gradient(function):
        leaf = logits.clone().requires_grad_()
        function(leaf.log_softmax(-1)).backward()
        return leaf.grad

    bonus = gradient(lambda d: POLICY_LOSSES["ppo"](inputs(distribution=d, log_probs=d[:, 1], **quiet), AlgorithmConfig(entropy=0.3)).loss)
    assert torch.allclose(bonus, gradient(lambda d: -0.3 * entropy(d).mean()))


def test_value_loss_takes_the_larger_of_clipped_and_unclipped_errors():
    values, old, returns = torch.tensor([[3.0, 0.0, 9.0]]), torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.2, 0.0]])
    valid = torch.tensor([[True, True, False]])
    assert value_loss(values, old, returns, valid, None).item() == pytest.approx(0.5 * (1.0 + 0.04) / 2)
    assert value_loss(values, old, returns, valid, 0.5).item() == pytest.approx(0.5 * (3.5**2 + 0.04) / 2)


def test_memory_change_by_hand():
    memory = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True, True], [True, True], [True, False]])
    pairs = [(turn, row) for turn in (1, 2) for row in (0, 1) if real[turn, row]]

    def mean(function):
        return sum(function(turn, memory[:, turn - 1, row], memory[:, turn, row]) for turn, row in pairs) / len(pairs)

    def read(m):
        return m / m.pow(2).mean(-1, keepdim=True).sqrt()

    raw, cosine = memory_change(memory, real, "raw")
    normalised, _ = memory_change(memory, real, "normalised")
    # Turn numbers count from 1, so index 1 is turn 2.
    assert torch.allclose(raw, mean(lambda t, a, b: math.sqrt(t + 2) * (b - a).pow(2).mean()))
    assert torch.allclose(normalised, mean(lambda t, a, b: math.sqrt(t + 2) * (read(b) - read(a)).pow(2).mean()))
    assert torch.allclose(cosine, mean(lambda t, a, b: 1 - torch.cosine_similarity(a, b, dim=-1).mean()))
    assert torch.allclose(memory_change(7 * memory, real, "normalised")[0], normalised)
    assert [float(x) for x in memory_change(memory[:, :1], real[:1], "raw")] == [0.0, 0.0]


TERMS = [
    ("ppo", {"entropy": 0.0}, None),
    ("ppo", {"kl": 0.0}, None),
    ("impo", {"memory_difference": 0.0, "memory_cosine": 0.0}, "memory_change"),
    ("impo", {"memory_cosine": 0.0}, None),
    ("impo", {"memory_difference": 0.0}, None),
    ("impo", {"consistency": 0.0}, None),
]


@pytest.mark.parametrize(("name", "off", "metric"), TERMS)
def test_every_coefficient_is_a_switch(name, off, metric):
    full = {"entropy": 0.1, "kl": 0.1, "memory_difference": 0.1, "memory_cosine": 0.1, "consistency": 0.1}
    on, without = AlgorithmConfig(name=name, **full), AlgorithmConfig(name=name, **full | off)
    function = POLICY_LOSSES[name]
    assert not torch.allclose(function(inputs(), on).loss, function(inputs(), without).loss)
    if metric:
        assert metric in function(inputs(), on).metrics
        assert metric not in function(inputs(), without).metrics


def test_impo_is_ppo_and_its_terms():
    config = AlgorithmConfig(name="impo", memory_difference=0.3, memory_cosine=0.2, consistency=0.1)
    given_inputs = inputs()
    change, cosine = memory_change(given_inputs.memory, given_inputs.real, "normalised")
    steady = weighted_mean(exact_kl(given_inputs.distribution, given_inputs.previous), given_inputs.weights * given_inputs.has_previous)
    result = POLICY_LOSSES["impo"](given_inputs, config)
    plain = POLICY_LOSSES["ppo"](given_inputs, config)
    assert torch.allclose(result.loss, plain.loss + 0.3 * change + 0.2 * cosine + 0.1 * steady)
    assert torch.allclose(result.metrics["consistency"], steady)
    assert plain.metrics.keys() < result.metrics.keys()


def test_metrics_carry_no_graph():
    base = inputs(log_probs=log_probs(4, VOCAB)[:, 1].requires_grad_())
    for name in POLICY_LOSSES:
        result = POLICY_LOSSES[name](base, AlgorithmConfig(name=name))
        assert result.loss.requires_grad
        assert not any(value.requires_grad for value in result.metrics.values())
