"""Phrasings of the generated world that no training conversation uses: the same facts and questions in other words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rxrl import lexicon
from rxrl.facts import attribute_of
from rxrl.types import Conversation, Interaction

UNSEEN: Mapping[tuple[str, str], tuple[str, str]] = {
    ("person", "pet"): ("There is a {v} living with {e}.", "Name the animal that lives with {e}."),
    ("person", "colour"): ("For {e}, nothing is as pretty as {v}.", "Name the colour that {e} finds prettiest."),
    ("person", "food"): ("On the plate of {e} there is always {v}.", "Name what is always on the plate of {e}."),
    ("person", "toy"): ("{e} dreams of getting a {v}.", "Name the toy that {e} dreams of."),
    ("person", "place"): ("{e} is spending the day at the {v}.", "Name the place where {e} is spending the day."),
    ("person", "number"): ("Of all numbers, {e} has chosen {v}.", "Name the number that {e} has chosen."),
    ("person", "drink"): ("In the cup of {e} there is always {v}.", "Name what is always in the cup of {e}."),
    ("person", "job"): ("The profession of {e} is that of a {v}.", "Name the profession of {e}."),
    ("person", "friend"): ("Nobody is closer to {e} than {V}.", "Name whoever is closest to {e}."),
    ("person", "instrument"): ("{e} makes music on the {v}.", "Name what {e} makes music on."),
    ("thing", "colour"): ("Somebody gave {e} a coat of {v} paint.", "Name the paint that {e} has."),
    ("thing", "material"): ("Whoever built {e} used {v} for it.", "Name what was used to build {e}."),
    ("thing", "room"): ("{e} has its place in the {v}.", "Name the room in which {e} has its place."),
    ("thing", "number"): ("For {v} coins you can have {e}.", "Name the coins for which you can have {e}."),
}
"""Statement and question by kind of entity and attribute; animals are spoken of as people are."""
_NAMES = {entity.removeprefix("the ").lower(): (kind, entity) for kind, names in lexicon.ENTITIES.items() for entity in names}
CHANGED = "That is over. "


def unseen_phrasing(conversation: Conversation, *, told: bool, asked: bool) -> Conversation:
    """A conversation of the generated world in words that training does not use; answers, facts and order stay.

    Args:
        conversation: Of the generated world.
        told: Whether statements get unseen words.
        asked: Whether questions do.
    """

    def other(interaction: Interaction) -> Interaction:
        if told and interaction.facts and interaction.kind != "story":
            sentences = [_filled(0, key, value) for key, value in interaction.facts]
            start = CHANGED if interaction.kind == "overwrite" else ""
            return replace(interaction, query=start + " ".join(sentences))
        if asked and interaction.asks:
            return replace(interaction, query=" ".join(_filled(1, key) for key in interaction.asks))
        return interaction

    first, *follow_ups = map(other, conversation.interactions)
    return replace(conversation, first=first, follow_ups=tuple(follow_ups))


def _filled(place: int, key: str, value: str = "") -> str:
    kind, entity = _NAMES[key.rpartition(".")[0]]
    text = UNSEEN["thing" if kind == "thing" else "person", attribute_of(key)][place].format(e=entity, v=value, V=value.capitalize())
    return text[0].upper() + text[1:]
