"""One step of the update on toy rollouts."""

from __future__ import annotations

import torch

from rxrl.training.update import actor_loss, critic_loss
from tests.training.toy import tiny_model

ALL_ON = {"entropy": 0.05, "kl": 0.1, "balance": 0.1, "memory_difference": 0.1, "memory_cosine": 0.1, "consistency": 0.1}


def moved(model, by=0.05):
    """A copy with other weights: the actor after some updates."""
    other = tiny_model(double=model.dtype == torch.float64, layers=model.config.layers, dim=model.config.dim)
    generator = torch.Generator().manual_seed(77)
    with torch.no_grad():
        for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs + by * torch.randn(theirs.shape, generator=generator, dtype=theirs.dtype))
    return other


def loss_and_gradients(model, rollout, targets, config, reference, first=False):
    model.zero_grad()
    result, log_probs = actor_loss(model, rollout, targets, config, reference.decoder.head, first)
    result.loss.backward()
    return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, log_probs


def full_update(model, rollout, targets, config, reference, critic):
    """Loss, gradients of the actor and of the critic."""
    result, gradients, _ = loss_and_gradients(model, rollout, targets, config, reference)
    critic.zero_grad()
    value = critic_loss(critic, rollout, targets, config, model)
    value.loss.backward()
    gradients |= {f"critic.{name}": p.grad.clone() for name, p in critic.named_parameters() if p.grad is not None}
    return result, value, gradients


def assert_same(one, two):
    for a, b in zip(one[:2], two[:2], strict=True):
        assert torch.allclose(a.loss, b.loss, rtol=1e-10, atol=1e-12)
        assert a.metrics.keys() == b.metrics.keys()
        for name in a.metrics:
            assert torch.allclose(a.metrics[name], b.metrics[name], rtol=1e-9, atol=1e-12), name
    assert one[2].keys() == two[2].keys()
    for name, gradient in one[2].items():
        assert torch.allclose(gradient, two[2][name], rtol=1e-8, atol=1e-12), name
