"""The small world of the bAbI stories: who is where and carries what, and other names for its people and places."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

EXACT_TASKS: Mapping[int, str] = {1: "location", 2: "object-location", 8: "carrying", 11: "location", 12: "location", 13: "location"}
"""Tasks whose facts can be read from their statements, with what their questions ask for."""

PLACES_MATTER = frozenset({20})
"""Tasks in which a place is no mere name: who is hungry goes to the kitchen."""

MOVEMENTS = ("went", "went back", "moved", "travelled", "journeyed")
_MOVED = "(?:went|moved|travelled|journeyed)(?: back)?"
_MOVE = re.compile(rf"{_MOVED} to the (\w+)\.")
_TAKE = re.compile(r"(?:got|took|grabbed|picked up) the (\w+)(?: there)?\.")
_DROP = re.compile(r"(?:dropped|left|discarded|put down) the (\w+)(?: there)?\.")
_SUBJECT = re.compile(r"(?:(?:After that|Afterwards|Following that|Then),? (he|she|they)|(\w+)(?: and (\w+))?) (.+)")
_NOTHING = "nothing"

_ATTRIBUTES = (
    (re.compile(r"^(is|are|does|do|did|was|were|will|can)\b", re.I), "answer"),
    (re.compile(r"what colou?r", re.I), "colour"),
    (re.compile(r"afraid of", re.I), "fear"),
    (re.compile(r"how many", re.I), "count"),
    (re.compile(r"how do you go", re.I), "path"),
    (re.compile(r"where", re.I), "location"),
    (re.compile(r"who", re.I), "person"),
    (re.compile(r"why", re.I), "reason"),
)

WOMEN = (
    *("Mary", "Sandra", "Julie", "Emily", "Jessica", "Gertrude", "Winona", "Lily"),
    *("Anna", "Clara", "Emma", "Grace", "Iris", "Lena", "Nora", "Rosa", "Tina", "Zoe"),
)
MEN = (
    *("John", "Daniel", "Bill", "Fred", "Jeff", "Jason", "Antoine", "Sumit", "Yann", "Bernhard", "Brian", "Greg", "Julius"),
    *("Ben", "David", "Finn", "Hugo", "Jack", "Max", "Otto", "Paul", "Leo"),
)
GENDERED = frozenset({"he", "him", "his", "she", "her", "hers"})
PLACES = (
    *("bathroom", "hallway", "garden", "office", "bedroom", "kitchen", "school", "park", "cinema"),
    *("attic", "cellar", "garage", "library", "market", "museum", "station", "castle", "bakery", "stable", "tower", "harbour"),
)
SPECIES = (("mouse", "mice"), ("wolf", "wolves"), ("cat", "cats"), ("sheep", "sheep"))
"""One animal of a kind, and several."""


@dataclass(slots=True)
class Carrying:
    """Follows the statements of an episode and says which facts each of them changes.

    Attributes:
        asked: What the task asks for: only facts of this kind are reported.
        where: Place of each person and of each object that is not carried.
        carried: Objects that each person carries.
        subjects: Who the last statement was about (for `he`, `she`, `they`).
    """

    asked: str
    where: dict[str, str] = field(default_factory=dict)
    carried: dict[str, list[str]] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()

    def read(self, statement: str) -> dict[str, str] | None:
        """Changed facts by key, in the order of the statement; None if the statement is of an unknown kind."""
        match = _SUBJECT.fullmatch(statement)
        if match is None:
            return None
        if match[1] is None:
            self.subjects = tuple(name.lower() for name in (match[2], match[3]) if name)
        facts: dict[str, str] = {}
        for person in self.subjects:
            changes = self._act(person, match[4])
            if changes is None:
                return None
            facts.update(changes)
        return facts

    def value(self, key: str) -> str | None:
        """What the statements so far give for a key."""
        entity, _, attribute = key.rpartition(".")
        if attribute == "carrying":
            return ", ".join(sorted(self.carried.get(entity, ()))) or _NOTHING
        return self._place(entity)

    def _act(self, person: str, act: str) -> dict[str, str] | None:
        held = self.carried.setdefault(person, [])
        if move := _MOVE.fullmatch(act):
            self.where[person] = move[1]
            moved = {"location": [person], "object-location": held}.get(self.asked, [])
            return {f"{entity}.location": move[1] for entity in moved}
        if take := _TAKE.fullmatch(act):
            held.append(take[1])
            return self._handled(person, take[1])
        if drop := _DROP.fullmatch(act):
            if drop[1] in held:
                held.remove(drop[1])
            if person in self.where:
                self.where[drop[1]] = self.where[person]
            return self._handled(person, drop[1])
        return None

    def _handled(self, person: str, thing: str) -> dict[str, str]:
        if self.asked == "carrying":
            return {f"{person}.carrying": self.value(f"{person}.carrying") or _NOTHING}
        place = self._place(thing)
        return {f"{thing}.location": place} if self.asked == "object-location" and place else {}

    def _place(self, entity: str) -> str | None:
        holder = next((person for person, things in self.carried.items() if entity in things), entity)
        return self.where.get(holder)


def question_key(question: str, asked: str | None) -> str:
    """Key of the fact that a question asks for.

    Args:
        question: Text of the question.
        asked: What the task asks for where its facts are exact; None makes the key from the whole question.
    """
    words = re.findall(r"\w+", question.lower())
    if asked == "carrying":
        return f"{words[2]}.carrying"
    if asked is not None:
        return f"{words[-1]}.location"
    attribute = next((name for pattern, name in _ATTRIBUTES if pattern.search(question)), "thing")
    return f"{'-'.join(words)}.{attribute}"


def renamed(texts: Sequence[str], rng: random.Random, only: Collection[str] | None = None, places: bool = True) -> list[str]:
    """The same texts with people, kinds of animals and, unless told otherwise, places renamed, one for one and consistently.

    Women stay women and men stay men only where a pronoun needs it: elsewhere who is a woman would stay a mark of the episode, from which
    a model learns by heart what the episode asks.

    Args:
        texts: Lines of one episode.
        rng: Draws the names.
        only: Lowercase words to draw from, for example those of the whole task; None: a larger pool.
        places: False leaves places as they are.
    """
    found = {word.lower() for text in texts for word in re.findall(r"\w+", text)}
    names: dict[str, str] = {}
    people = (WOMEN, MEN) if found & GENDERED else ((*WOMEN, *MEN),)
    for everything in (*people, PLACES) if places else people:
        pool = [name for name in everything if only is None or name.lower() in only]
        used = [name.lower() for name in pool if name.lower() in found]
        names.update(zip(used, (name.lower() for name in rng.sample(pool, len(used))), strict=True))
    used_species = [each for each in SPECIES if found.intersection(each)]
    species = dict(zip(used_species, rng.sample(SPECIES, len(used_species)), strict=True))
    words = [*names, *(word for each in species for word in each)]
    if not words:
        return list(texts)
    pattern = re.compile(rf"\b({'|'.join(words)})\b", re.I)

    def new(match: re.Match[str]) -> str:
        word = match[0].lower()
        return _in_case_of(match[0], names.get(word) or _of_other_species(word, match, species))

    return [pattern.sub(new, text) for text in texts]


def _of_other_species(word: str, match: re.Match[str], species: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    """The word for the other kind, in the same number; sheep are one after an article, or as a whole answer."""
    one, many = old = next(each for each in species if word in each)
    single = word == one and (one != many or match.string[: match.start()].endswith("a ") or match.string.lower() == word)
    return species[old][0 if single else 1]


def _in_case_of(old: str, new: str) -> str:
    return new.capitalize() if old[0].isupper() else new


def reworded(text: str, rng: random.Random) -> str:
    """The same statement with the verb of a movement drawn anew, which changes no fact."""
    return re.sub(rf"{_MOVED}(?= to the )", lambda _: rng.choice(MOVEMENTS), text)
