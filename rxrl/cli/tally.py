"""What a played conversation leaves on the screen: what its answers earned, and what each write did to memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rxrl.envs.render import Line
from rxrl.memory import drift
from rxrl.types import Score, Turn


class Tally:
    """What was earned so far, by term."""

    def __init__(self) -> None:
        self.earned: dict[str, list[float]] = defaultdict(list)

    def add(self, turn: Turn, reward: float, info: Mapping[str, Any]) -> None:
        """Notes what the only row of a step earned."""
        if info["scored"][0]:
            self.earned["reward, asking turns" if turn.asking else "reward, other turns"].append(reward)
        for name, values in info["reward_terms"].items():
            if values[0] == values[0]:  # NaN where the term does not apply
                self.earned[name].append(float(values[0]))

    def note(self, outcome: Score | None) -> None:
        """Notes what a scenario says of an answer."""
        if outcome is not None:
            for name, value in {"outcome": outcome.value, **outcome.terms}.items():
                if value is not None:
                    self.earned[name].append(value)

    def table(self) -> Table:
        """Mean and range of each term."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("", "mean", "min", "max", "turns"):
            table.add_column(heading, justify="right" if heading else "left")
        for name in sorted(self.earned, key=lambda name: (not name.startswith(("reward,", "outcome")), name)):
            values = self.earned[name]
            table.add_row(name, *(f"{value:.2f}" for value in (sum(values) / len(values), min(values), max(values))), str(len(values)))
        return table


def memory_line(before: Any, after: Any) -> Line | None:
    """What the write did to memory, where there is something to say."""
    if after is before:
        return None
    if isinstance(after, torch.Tensor) and after.dim() == 4:
        return Line("", f"memory written, drift {float(drift(before, after)):.4f}", "dim")
    if hasattr(after, "token_counts"):
        return Line("", f"memory written, transcript of {int(after.token_counts()[0])} tokens", "dim")
    return None
