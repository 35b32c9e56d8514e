"""Axes of stress: each varies one thing about the conversations and leaves the rest as it is."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rxrl import lexicon
from rxrl.data.planning import Move
from rxrl.data.world import GeneratedSource, Slot, act_out, draw_slots
from rxrl.errors import ConfigError
from rxrl.evaluation.stress import Place, with_small_talk
from rxrl.evaluation.unseen import unseen_phrasing
from rxrl.seeding import derive_seed
from rxrl.types import Conversation

WINDOW = 16
"""Interactions that tell, before those that ask: each fact is asked for so many turns after it was told."""
TALK = (0, 16, 48, 112)
LOADS = (2, 4, 8, 16, 32)
SHARES = (1, 2, 4, 8)
CHANGES = (0, 1, 2, 3)
LENGTHS = (16, 32, 64, 256)
HELD = 0.9
"""Retention that a memory has to hold."""
TELL, ASK, OVERWRITE, TALKING = "tell", "ask", "overwrite", Move("distract")


@dataclass(frozen=True, slots=True)
class Point:
    """One place on a curve.

    Attributes:
        curve: Name of the curve; an axis may have several.
        x: Where on the axis.
        label: The same in words.
        conversations: What is played.
    """

    curve: str
    x: int
    label: str
    conversations: tuple[Conversation, ...]


@dataclass(frozen=True, slots=True)
class Course:
    """What all axes start from.

    Attributes:
        conversations: The conversations that are played without stress.
        level: Of the generated world; None where the conversations are given ones.
        seed: Keys every draw.
        count: Conversations of each point at most.
    """

    conversations: Sequence[Conversation]
    level: int | None
    seed: int
    count: int


def points_of(axis: str, course: Course) -> Iterator[Point]:
    """What is played on an axis.

    Raises:
        ConfigError: It needs the generated world, and the conversations are others.
    """
    if axis == "time":
        yield from _time(course)
        return
    if course.level is None:
        raise ConfigError(f"The axis {axis} needs the generated world; conversations from a file have the axis time: leave --data out.")
    yield from _BUILDERS[axis](course, course.level)


def _time(course: Course) -> Iterator[Point]:
    places: tuple[tuple[Place, str], ...] = (("spread", "spread among the turns"), ("first", "before all turns"))
    for place, words in places:
        for turns in TALK:
            talked = with_small_talk(course.conversations[: course.count], turns, place, seed=course.seed)
            yield Point(words, turns, f"{turns} turns of small talk", tuple(talked))


def _load(course: Course, level: int) -> Iterator[Point]:
    for facts in LOADS:
        places = [number * WINDOW // facts for number in range(facts)]

        def script(rng: random.Random, places: Sequence[int] = places) -> tuple[list[Slot], list[Move]]:
            told = {place: tuple(fact for fact, at in enumerate(places) if at == place) for place in places}
            moves = [Move(TELL, told[place]) if place in told else TALKING for place in range(WINDOW)]
            asks = [Move(ASK, (rng.choice(told[place]),)) if place in told else TALKING for place in range(WINDOW)]
            return draw_slots(rng, level, len(places)), moves + asks

        yield Point("facts told", facts, f"{facts} facts", tuple(_scripted("load", facts, script, course, level)))


def _binding(course: Course, level: int) -> Iterator[Point]:
    people = max(SHARES)
    for shared in SHARES:

        def script(rng: random.Random, shared: int = shared) -> tuple[list[Slot], list[Move]]:
            topics = rng.sample(lexicon.ALL_TOPICS["person"], people // shared)
            names = rng.sample(lexicon.PEOPLE, people)
            slots = [Slot(name, "person", topics[number // shared]) for number, name in enumerate(names)]
            rng.shuffle(slots)
            places = range(0, WINDOW, WINDOW // people)
            moves = [Move(TELL, (places.index(place),)) if place in places else TALKING for place in range(WINDOW)]
            return slots, moves + [replace(move, kind=ASK) if move.facts else move for move in moves]

        label = "an attribute each" if shared == 1 else f"{shared} people share an attribute"
        yield Point("people that share an attribute", shared, label, tuple(_scripted("binding", shared, script, course, level)))


def _correction(course: Course, level: int) -> Iterator[Point]:
    facts = WINDOW // len(CHANGES)
    for changes in CHANGES:

        def script(rng: random.Random, changes: int = changes) -> tuple[list[Slot], list[Move]]:
            first = len(CHANGES) - 1 - changes
            kinds = {first: TELL, **dict.fromkeys(range(first + 1, len(CHANGES)), OVERWRITE)}
            moves = [Move(kinds[place // facts], (place % facts,)) if place // facts in kinds else TALKING for place in range(WINDOW)]
            asks = [Move(ASK, (place % facts,)) if place // facts == len(CHANGES) - 1 else TALKING for place in range(WINDOW)]
            return draw_slots(rng, level, facts), moves + asks

        yield Point(
            "times a fact was changed", changes, f"changed {changes} times", tuple(_scripted("correction", changes, script, course, level))
        )


def _paraphrase(course: Course, level: int) -> Iterator[Point]:
    chosen = course.conversations[: course.count]
    for number, (label, told, asked) in enumerate(
        (
            ("as in training", False, False),
            ("new statements", True, False),
            ("new questions", False, True),
            ("both new", True, True),
        )
    ):
        yield Point("phrasing", number, label, tuple(unseen_phrasing(each, told=told, asked=asked) for each in chosen))


def _length(course: Course, level: int) -> Iterator[Point]:
    for steps in LENGTHS:
        source = GeneratedSource(level=level, seed=course.seed, split="test")
        try:
            found = source.take(steps=steps, strategy="multi-step", start=0, count=course.count)
        except ConfigError:
            # The world of this level has not as many facts as so many turns tell.
            continue
        yield Point("turns", steps, f"{steps} turns", tuple(found))


_BUILDERS = {"load": _load, "binding": _binding, "correction": _correction, "paraphrase": _paraphrase, "length": _length}
AXES: Mapping[str, str] = {
    "time": "turns of small talk inserted",
    "load": f"facts told, each asked for {WINDOW} turns later",
    "binding": f"people that share an attribute, among {max(SHARES)} facts",
    "paraphrase": "phrasings that training has not shown",
    "correction": "times that a fact was changed before it is asked for",
    "length": "turns of a conversation",
}
"""Axes by name, and what they vary."""


def axes_of(text: str) -> list[str]:
    """Axes of a list such as "time,load"; "all" for all of them.

    Raises:
        ConfigError: One does not exist.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = next((name for name in names if name not in (*AXES, "all")), None)
    if wrong is not None or not names:
        raise ConfigError(f"--stress takes axes such as time,load, of {', '.join(AXES)}, or all; got {wrong or text!r}.")
    return list(AXES) if "all" in names else list(dict.fromkeys(names))


def curves(axis: str, measured: Sequence[tuple[Point, Mapping[str, Any] | None]]) -> dict[str, Any]:
    """The curves of an axis, for an evaluation (its `stress`).

    Args:
        axis: Its name.
        measured: Its points, with what `rxrl.evaluation.metrics.interval` gives for each.

    Returns:
        `title`, and `curves`, each with `name`, `points` (`x`, `label`, `mean`, `low`, `high`, `turns`, `conversations`) and `holds`: the
        last x up to which every point reaches 0.9, None where the first does not.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for point, interval in measured:
        if interval is not None:
            found.setdefault(point.curve, []).append({"x": point.x, "label": point.label, **interval})
    return {
        "title": AXES[axis],
        "curves": [{"name": name, "points": points, "holds": _holds(points)} for name, points in found.items()],
    }


def holds_sentence(axis: str, curve: Mapping[str, Any]) -> str:
    """Where a curve leaves 0.9, in words."""
    points, holds = curve["points"], curve["holds"]
    name = f"{axis}, {curve['name']}"
    if holds is None:
        return f"{name}: below {HELD} from the start ({points[0]['label']}: {points[0]['mean']:.2f})."
    label = next(point["label"] for point in points if point["x"] == holds)
    if holds == points[-1]["x"]:
        return f"{name}: holds {HELD} throughout, up to {label}."
    after = points[[point["x"] for point in points].index(holds) + 1]
    return f"{name}: holds {HELD} up to {label} ({after['label']}: {after['mean']:.2f})."


def _holds(points: Sequence[Mapping[str, Any]]) -> int | None:
    held = None
    for point in points:
        if point["mean"] < HELD:
            break
        held = point["x"]
    return held


def _scripted(axis: str, x: int, script: Any, course: Course, level: int) -> Iterator[Conversation]:
    for number in range(course.count):
        rng = random.Random(derive_seed(course.seed, "stress", axis, level, x, number))
        slots, moves = script(rng)
        first, *follow_ups = act_out(rng, level, slots, moves)
        yield Conversation(f"{axis}-{x}-level{level}-seed{course.seed}-{number}", first, tuple(follow_ups), {"level": level})
