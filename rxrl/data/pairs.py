"""Conversations of one turn made of longer ones: what was told, and the question for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from rxrl.types import Conversation, Interaction


def told_and_asked(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """For each question the interaction that told its answer last, and the question: what the stage `reading` learns from.

    Questions for what was never told are left out, and those whose answer stands in several interactions.

    Args:
        conversations: With `facts` and `asks`.

    Yields:
        Conversations of one turn, called `ID-TURN` after the question.
    """
    for conversation in conversations:
        told: dict[str, Interaction] = {}
        for turn, interaction in enumerate(conversation.interactions):
            if turn and interaction.asks and not interaction.unknown:
                tellers = {id(teller): teller for key in interaction.asks if (teller := told.get(key))}
                if len(tellers) == 1 and all(key in told for key in interaction.asks):
                    (first,) = tellers.values()
                    yield Conversation(f"{conversation.id}-{turn}", _told(first), (interaction,), conversation.extra)
            told |= {key: interaction for key, _ in interaction.facts}


def _told(interaction: Interaction) -> Interaction:
    """What it tells, without what it asks for itself: nobody has told that here."""
    own = {key for key, _ in interaction.facts}
    return replace(interaction, asks=(), aliases={key: names for key, names in interaction.aliases.items() if key in own})
