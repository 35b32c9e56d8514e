"""What the swapped-memory control says about a player, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEWEST = 5
"""Conversations below which nothing is concluded."""


def memory_verdict(controls: Mapping[str, Any]) -> str | None:
    """Whether the answers come from memory.

    Args:
        controls: As `summarise_controls` gives them.

    Returns:
        A sentence; None without the swapped-memory control, or with too few conversations in it.
    """
    swapped = controls.get("swapped_memory") or {}
    found = swapped.get("contribution")
    if not found or found["conversations"] < FEWEST:
        return None
    span = f"95 % interval {found['low']:.3f} to {found['high']:.3f}"
    if found["low"] > 0:
        return f"Memory contributes {found['difference']:.3f} ({span}): with another conversation's memory the same answers are wrong."
    right = (swapped.get("retention_interval") or (0.0,))[0] > (swapped.get("chance") or 0.0)
    if right:
        return (
            f"The answers do not come from memory: with another conversation's they are right as often ({found['second']:.3f}). "
            "The player knows the references, or what was said, from somewhere else."
        )
    return f"Memory shows no contribution ({span})."
