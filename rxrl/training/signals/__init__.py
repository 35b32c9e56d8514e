"""Signals: all that an update of Memory Reinforcement Learning can learn from, each a loss over one replay of a rollout."""

from rxrl.training.signals.registry import SIGNALS, SignalConfig, active_signals, checked_signals, with_coefficients
from rxrl.training.signals.signal import REWARD, REWARD_ONLY, ActiveSignal, Material, Signal, SignalInputs, Signals

__all__ = [
    "REWARD",
    "REWARD_ONLY",
    "SIGNALS",
    "ActiveSignal",
    "Material",
    "Signal",
    "SignalConfig",
    "SignalInputs",
    "Signals",
    "active_signals",
    "checked_signals",
    "with_coefficients",
]
