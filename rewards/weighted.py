"""A weighted sum of rewards with named weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rxrl.errors import ConfigError
from rxrl.scoring import score_turns
from rxrl.types import RewardFunction, Score, Turn


class Weighted:
    """Weighted mean of several rewards.

    Weights are normalised. A weight of 0 means "log only". A term that is None on a turn drops out there and the
    remaining weights renormalise; where all drop out the score is None.

    Args:
        terms: Weight (at least 0) and reward function by name; at least one weight is positive.

    Raises:
        ConfigError: A weight is negative, not a number, or none is positive.
    """

    def __init__(self, terms: Mapping[str, tuple[float, RewardFunction]]) -> None:
        for name, (weight, _) in terms.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"The weight of reward {name!r} must be a number of at least 0, got {weight!r}.")
        if not any(weight > 0 for weight, _ in terms.values()):
            weights = {name: weight for name, (weight, _) in terms.items()}
            raise ConfigError(f"At least one reward needs a weight above 0, got {weights}.")
        self.terms = dict(terms)
        self.name = "+".join(self.terms)
        # What does not apply drops out, so that one reward that needs no facts is enough.
        self.needs_facts = all(getattr(reward, "needs_facts", False) for weight, reward in self.terms.values() if weight)
        self.needs_reference = any(getattr(reward, "needs_reference", False) for _, reward in self.terms.values())

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn; each reward is a term, its own terms follow as `name.term`."""
        columns = {name: score_turns(reward, turns) for name, (_, reward) in self.terms.items()}
        return [self._combined({name: scores[row] for name, scores in columns.items()}) for row in range(len(turns))]

    def _combined(self, scores: Mapping[str, Score]) -> Score:
        terms: dict[str, float | None] = {}
        total = value = 0.0
        for name, score in scores.items():
            terms[name] = score.value
            terms |= {f"{name}.{term}": each for term, each in score.terms.items()}
            weight = self.terms[name][0]
            if score.value is not None:
                total += weight
                value += weight * score.value
        return Score(min(10.0, value / total) if total else None, terms)

    def __repr__(self) -> str:
        return f"Weighted({', '.join(f'{name}={weight:g}' for name, (weight, _) in self.terms.items())})"
