"""Turns to score."""

from __future__ import annotations

from typing import Any

from rxrl.rewards.samples import PETS, PLACES, sample_turn
from rxrl.types import SavedInteraction, Turn

__all__ = ["PETS", "PLACES", "make_turn", "saved"]


def saved(query: str = "", answer: str = "", query_ids: tuple[int, ...] = (), answer_ids: tuple[int, ...] = ()) -> SavedInteraction:
    return SavedInteraction(query, answer, query_ids, answer_ids)


def make_turn(answer: str = "", **changes: Any) -> Turn:
    """A turn that asks for Mia's pet, a cat, without tokens, unless `changes` says otherwise."""
    without_ids = {"conversation_id": "c", "query_ids": (), "answer_ids": (), "reference_ids": (), "history": ()}
    return sample_turn(answer, **{**without_ids, "saved": (saved("Mia has a cat.", "I see."),), **changes})
