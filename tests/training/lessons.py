"""Signals on toy rollouts."""

from __future__ import annotations

from dataclasses import replace

from rxrl.training.config import MRLConfig
from rxrl.training.signals import REWARD_ONLY, Material, active_signals
from rxrl.training.signals.questions import phrasings
from rxrl.training.update import actor_loss
from scripts.learning import CODEC
from tests.training.toy import conversations, play


def signals_of(**given):
    """Signals by their settings, as in YAML."""
    return active_signals(MRLConfig(signals=given).signals)


def with_lessons(rollout, scenarios, signals, model):
    """The rollout with what signals teach of it."""
    material = Material(rollout, rollout.turn_grid(), scenarios, CODEC, model.config.max_length, 0, lambda: phrasings(conversations(64, 4)))
    return replace(rollout, lessons=signals.lessons(material))


def taught(model, scenarios, signals, **options):
    """A rollout of some conversations, with lessons."""
    rollout = play(model, scenarios, **options)
    rows = [each for each in scenarios for _ in range(options.get("group_size", 1))]
    return with_lessons(rollout, rows, signals, model)


def signal_step(model, rollout, targets, config, reference, signals=REWARD_ONLY):
    """Loss and gradients of one step."""
    model.zero_grad()
    result, _ = actor_loss(model, rollout, targets, config, reference.decoder.head, signals=signals)
    result.loss.backward()
    return result, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
