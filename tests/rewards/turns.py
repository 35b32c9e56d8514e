"""Turns to score."""

from __future__ import annotations

from typing import Any

from rxrl.types import SavedInteraction, Turn

PETS = ("bird", "cat", "cow", "dog", "fish", "fox", "goat", "horse")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


def saved(query: str = "", answer: str = "", query_ids: tuple[int, ...] = (), answer_ids: tuple[int, ...] = ()) -> SavedInteraction:
    return SavedInteraction(query, answer, query_ids, answer_ids)


def make_turn(answer: str = "", **changes: Any) -> Turn:
    """A turn that asks for Mia's pet, a cat, unless `changes` says otherwise."""
    fields: dict[str, Any] = {
        "conversation_id": "c",
        "index": 3,
        "steps": 8,
        "strategy": "multi-step",
        "query": "What pet does Mia have?",
        "answer": answer,
        "reference": "Mia has a cat.",
        "query_ids": (),
        "answer_ids": (),
        "reference_ids": (),
        "saved": (saved("Mia has a cat.", "I see."),),
        "asking": True,
        "expected": {"mia.pet": "cat"},
        "rivals": {"mia.pet": tuple(pet for pet in PETS if pet != "cat")},
        "distance": 3,
    }
    return Turn(**{**fields, **changes})
