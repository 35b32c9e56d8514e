"""Suites by name: the built-in ones, and those of installed packages and files."""

from __future__ import annotations

from typing import Any

from rxrl.errors import ConfigError
from rxrl.evaluation.suites.babi import Babi, BabiLong
from rxrl.evaluation.suites.base import Suite
from rxrl.evaluation.suites.dialogues import Locomo, Sgd
from rxrl.evaluation.suites.games import Scenarios
from rxrl.evaluation.suites.recall import Mqar
from rxrl.registry import Registry


def _suite(name: str, found: Any) -> type[Suite]:
    if not isinstance(found, type) or not issubclass(found, Suite):
        raise ConfigError(f"The suite {name!r} must be a subclass of rxrl.evaluation.suites.Suite, but is {found!r:.60}.")
    return found


SUITES = Registry("suite", "suites", {each.name: each for each in (Babi, BabiLong, Mqar, Sgd, Locomo, Scenarios)}, check=_suite)
"""Suites by name: subclasses of `Suite`."""
