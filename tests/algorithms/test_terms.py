"""Terms of the losses: every coefficient is a switch, and each algorithm is made of what it says."""

import pytest
import torch

from rxrl.algorithms import BUILT_IN, AlgorithmConfig
from rxrl.algorithms.losses import memory_change, weighted_mean
from tests.algorithms.minibatch import inputs
from tests.algorithms.options import configured

TERMS = [
    ("ppo", {"entropy": 0.0}, None),
    ("ppo", {"kl": 0.0}, None),
    ("a2c", {"entropy": 0.0}, None),
    ("grpo", {"kl": 0.0}, None),
    ("impo", {"memory_difference": 0.0, "memory_cosine": 0.0}, "memory_change"),
    ("impo", {"memory_cosine": 0.0}, None),
    ("impo", {"memory_difference": 0.0}, None),
    ("impo", {"consistency": 0.0}, None),
]


@pytest.mark.parametrize(("name", "off", "metric"), TERMS)
def test_every_coefficient_is_a_switch(name, off, metric):
    full = {"entropy": 0.1, "kl": 0.1, "memory_difference": 0.1, "memory_cosine": 0.1, "consistency": 0.1}
    on, without = AlgorithmConfig(name=name, **full), AlgorithmConfig(name=name, **full | off)
    function = BUILT_IN[name].loss
    assert not torch.allclose(function(inputs(), on).loss, function(inputs(), without).loss)
    if metric:
        assert metric in function(inputs(), on).metrics
        assert metric not in function(inputs(), without).metrics


def test_impo_is_ppo_and_its_terms():
    config = AlgorithmConfig(name="impo", memory_difference=0.3, memory_cosine=0.2, consistency=0.1)
    given_inputs = inputs()
    change, cosine = memory_change(given_inputs.memory, given_inputs.real, "normalised")
    steady = weighted_mean(given_inputs.previous_kl, given_inputs.weights * given_inputs.has_previous)
    result = BUILT_IN["impo"].loss(given_inputs, config)
    plain = BUILT_IN["ppo"].loss(given_inputs, config)
    assert torch.allclose(result.loss, plain.loss + 0.3 * change + 0.2 * cosine + 0.1 * steady)
    assert torch.allclose(result.metrics["consistency"], steady)
    assert plain.metrics.keys() < result.metrics.keys()


def test_algorithms_differ_in_loss_or_advantage_alone():
    """GRPO has PPO's loss; A2C, RLOO, REINFORCE and expert iteration share the policy gradient."""
    assert BUILT_IN["expert"].loss is BUILT_IN["a2c"].loss
    assert BUILT_IN["grpo"].loss is BUILT_IN["ppo"].loss
    assert BUILT_IN["rloo"].loss is BUILT_IN["reinforce"].loss is BUILT_IN["a2c"].loss
    forms = {name: AlgorithmConfig(name=name).advantage_form for name in BUILT_IN}
    assert forms == {
        "ppo": "gae",
        "impo": "reward-value",
        "a2c": "gae",
        "grpo": "group",
        "rloo": "leave-one-out",
        "reinforce": "return",
        "expert": "best",
        "dmpo": "return",
    }
    assert {name for name in BUILT_IN if AlgorithmConfig(name=name).needs_critic} == {"ppo", "impo", "a2c"}
    assert {name for name in BUILT_IN if AlgorithmConfig(name=name).samples > 1} == {"grpo", "rloo", "expert"}
    assert {name for name in BUILT_IN if not BUILT_IN[name].plays} == {"dmpo"}
    assert {name for name in BUILT_IN if not AlgorithmConfig(name=name).whitens} == {"grpo", "rloo", "expert"}


def test_kl_in_the_reward_is_logged_and_no_term_of_the_loss():
    base = inputs()
    in_loss, in_reward = AlgorithmConfig(kl=0.3, entropy=0.0), AlgorithmConfig(kl=0.3, entropy=0.0, kl_in="reward")
    kl = weighted_mean(base.reference_kl, base.weights)
    loss = BUILT_IN["ppo"].loss
    assert torch.allclose(loss(base, in_loss).loss - loss(base, in_reward).loss, 0.3 * kl)
    assert torch.allclose(loss(base, in_reward).metrics["kl"], kl)


def test_without_a_reference_there_is_no_kl():
    with_it, without = (BUILT_IN["ppo"].loss(each, AlgorithmConfig(kl=0.5)) for each in (inputs(), inputs(reference_kl=None)))
    assert "kl" not in without.metrics
    assert torch.allclose(with_it.loss - without.loss, 0.5 * with_it.metrics["kl"])


def test_self_imitation_raises_the_likelihood_of_the_chosen_tokens_alone():
    base = inputs()
    leaf = base.log_probs.clone().requires_grad_()
    chosen = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    quiet = {"log_probs": leaf, "advantages": torch.zeros(4, dtype=torch.float64), "reference_kl": None, "imitate": chosen}
    result = BUILT_IN["ppo"].loss(inputs(**quiet), configured(self_imitation=0.4, entropy=0.0))
    result.loss.backward()
    assert torch.allclose(leaf.grad, -0.4 * chosen / 2)
    assert torch.allclose(result.metrics["self_imitation"], -base.log_probs[1:3].mean())
    assert "self_imitation" not in BUILT_IN["ppo"].loss(base, AlgorithmConfig()).metrics
