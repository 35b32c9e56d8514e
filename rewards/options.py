"""What the built-in rewards share: options that refuse unknown names, and small sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from rxrl.types import SavedInteraction


class Options(BaseModel):
    """Base of a reward's options: read-only, unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    needs_reference: ClassVar[bool] = False
    """Whether it compares with reference answers, so that scenarios without them refuse it before anything runs."""


def ten(value: float) -> float:
    """A share from 0 to 1 on the scale of rewards, 0 to 10."""
    return 10.0 * min(1.0, max(0.0, value))


def blend(weights: Mapping[str, float], values: Mapping[str, float | None]) -> float | None:
    """Weighted mean of the values that there are; None where no weight is left."""
    present = {name: value for name, value in values.items() if value is not None}
    total = sum(weights[name] for name in present)
    return sum(weights[name] * value for name, value in present.items()) / total if total else None


def saved_ids(saved: Sequence[SavedInteraction]) -> tuple[int, ...]:
    """Ids of queries and answers of several interactions, one after the other."""
    return sum((each.query_ids + each.answer_ids for each in saved), ())


def saved_text(saved: Sequence[SavedInteraction]) -> str:
    """Text of queries and answers of several interactions, one after the other."""
    return " ".join(text for each in saved for text in (each.query, each.answer) if text)
