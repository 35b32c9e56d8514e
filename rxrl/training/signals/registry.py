"""Signals by name, and their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from rxrl.config import BaseConfig, parse_config
from rxrl.errors import ConfigError
from rxrl.registry import Registry, absolute, first_paragraph
from rxrl.training.signals.imitation import IMITATION
from rxrl.training.signals.keep import KEEP
from rxrl.training.signals.preference import PREFERENCE
from rxrl.training.signals.probes import PROBES
from rxrl.training.signals.reference import REFERENCE
from rxrl.training.signals.signal import REWARD, ActiveSignal, Signal, Signals
from rxrl.training.signals.teacher import TEACHER


def _no_loss(inputs: Any) -> Any:
    raise AssertionError("the loss of the reward is that of the algorithm")


_REWARD = Signal(REWARD, _no_loss, summary="The algorithm's own loss, with all its terms.")
BUILT_IN = {each.name: each for each in (_REWARD, REFERENCE, TEACHER, PROBES, KEEP, PREFERENCE, IMITATION)}


def _checked(name: str, found: Any) -> Signal:
    if isinstance(found, Signal):
        return found
    if not callable(found) or isinstance(found, type):
        raise ConfigError(f"The signal {name!r} must be an rxrl.training.signals.Signal or a function, but is {type(found).__name__}.")
    return Signal(name.rpartition(":")[2], found, summary=first_paragraph(found))


SIGNALS = Registry(
    "signal", "signals", BUILT_IN, check=_checked, describe=lambda found: getattr(found, "summary", "") or first_paragraph(found)
)
"""Signals by name."""


class SignalConfig(BaseConfig):
    """How much a signal counts, and its options; a number alone is a coefficient."""

    coefficient: float = Field(1.0, ge=0, description="Factor of its loss; 0 turns it off.")
    final: float | None = Field(None, ge=0, description="Coefficient at the end of the run, reached in a straight line; null: constant.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the signal.")
    optional: bool = Field(False, description="Leave it out where the data has nothing for it; false: refuse such data.")

    def at(self, progress: float) -> float:
        """Coefficient after a share of the run, in [0, 1]."""
        return self.coefficient if self.final is None else self.coefficient + (self.final - self.coefficient) * progress


def with_coefficients(given: Any) -> Any:
    """Settings of signals with each number written as a coefficient."""
    if not isinstance(given, Mapping):
        return given
    return {name: value if isinstance(value, Mapping | SignalConfig) else {"coefficient": value} for name, value in given.items()}


def options_of(name: str, config: SignalConfig) -> Any:
    """The options of a signal, checked.

    Raises:
        ConfigError: The signal is unknown, or an option is.
    """
    model = SIGNALS.find(name).options
    if model is None:
        if config.options and name in BUILT_IN:
            raise ConfigError(f"The signal {name!r} has no options: leave them out.")
        return config.options
    return parse_config(config.options, model, source=f"options of signal {name!r}")


def checked_signals(settings: Mapping[str, SignalConfig]) -> dict[str, SignalConfig]:
    """Settings of signals that exist, with options that they have; files are named by their whole path.

    Raises:
        ConfigError: A signal is unknown or an option is, or nothing is learned from.
    """
    for name, config in settings.items():
        options_of(name, config)
    if not any(config.coefficient or config.final for config in settings.values()):
        raise ConfigError("Every signal has coefficient 0, so nothing would be learned: give one of them a coefficient above 0.")
    return {absolute(name): config for name, config in settings.items()}


def active_signals(settings: Mapping[str, SignalConfig], progress: float = 0.0) -> Signals:
    """What an update learns from after a share of the run, in [0, 1]."""
    coefficients = {name: config.at(progress) for name, config in settings.items()}
    others = tuple(
        ActiveSignal(SIGNALS.find(name), coefficients[name], options_of(name, config))
        for name, config in settings.items()
        if name != REWARD and coefficients[name] > 0
    )
    replayed = next((each for each in others if each.signal is IMITATION), None)
    return Signals(coefficients.get(REWARD, 0.0), tuple(each for each in others if each.signal is not IMITATION), replayed)
