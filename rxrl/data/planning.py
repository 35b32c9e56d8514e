"""What happens in which turn: the plan of a generated conversation, before any word of it is chosen.

A plan speaks of facts by number. It keeps some facts unasked until late and asks others again and again, so that the
distances between an exposure of a fact and the question for it spread from 1 to the length of the conversation.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

FAR_SHARE = 0.42
"""Share of the asks that aim at the far half of the distances; the rest spread over the near half."""
URGENCY_OF_CHANGED = 0.2
"""Chance that a near ask goes for a fact that was overwritten and not asked since."""
LONGEST_WITH_ONE_FACT = 16
"""Up to this length a telling turn keeps at most one fact for a far ask; longer conversations need more facts."""
FEWEST_FREE = 2
"""A telling turn that finds fewer facts free to be asked tells one more, lest the same question comes again and again."""
MOST_REPEATS = 2
"""Times that one question may come in a row (from 8 turns on)."""
ATTEMPTS = 200


@dataclass(frozen=True, slots=True)
class Move:
    """One turn: what it does, and with which facts.

    Attributes:
        kind: tell, topic, overwrite, distract, story, ask, ask-again, ask-several or ask-unknown.
        facts: Numbers of the facts that are told or asked.
    """

    kind: str
    facts: tuple[int, ...] = ()

    @property
    def asks(self) -> bool:
        """The move asks for something."""
        return self.kind.startswith("ask")

    @property
    def tells(self) -> bool:
        """The move tells new facts (an overwrite tells an old one anew)."""
        return self.kind in ("tell", "topic", "story")


@dataclass(frozen=True, slots=True)
class Plan:
    """All moves of a conversation; facts below `first` are told by the first interaction."""

    first: int
    moves: tuple[Move, ...]

    @property
    def facts(self) -> int:
        """Number of facts that are told."""
        return self.first + sum(len(move.facts) for move in self.moves if move.tells)


@dataclass(frozen=True, slots=True)
class Habits:
    """How often a level does more than tell and ask, as probabilities per opportunity."""

    several: float = 0.0
    unknown: float = 0.0
    topic: float = 0.0
    story: float = 0.0


def plan_conversation(rng: random.Random, *, steps: int, long_range: bool, habits: Habits) -> Plan:
    """Draws a plan of `steps` turns.

    Args:
        rng: Source of all draws.
        steps: Number of turns, at least 1.
        long_range: The first turn changes the topic, the turns between are unrelated to the first interaction, the last ask for it.
        habits: What the level does besides telling and asking.
    """
    for _ in range(ATTEMPTS):
        plan = _Draft.start(rng, steps, long_range, habits).finish()
        if _is_spread(plan, steps):
            break
    return plan


def far_distance(steps: int) -> int:
    """Smallest distance that counts as far: 9 for 16 turns."""
    return steps // 2 + 1


@dataclass(slots=True)
class _Draft:
    """A plan in the making.

    Attributes:
        rng, steps, habits: As given to `plan_conversation`.
        first: Number of facts that the first interaction tells.
        tail: Number of last turns that ask for the first interaction (long-range only).
        barred: Facts that are not touched before the tail.
        kinds: Kind of each turn that does not ask.
        due: For each turn that asks far back, the turn whose fact it asks for, then that fact.
        exposed: Turn of each fact's last exposure.
        rested_at: Turn from which on a near question may ask for a fact.
        kept: Facts that wait for their turn in `due`.
        changed: Overwritten facts that were not asked since.
        asked: Facts that were asked at least once.
        moves: The turns so far.
    """

    rng: random.Random
    steps: int
    habits: Habits
    first: int
    tail: int
    barred: frozenset[int]
    kinds: dict[int, str] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    exposed: dict[int, int] = field(default_factory=dict)
    rested_at: dict[int, int] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    moves: list[Move] = field(default_factory=list)

    @classmethod
    def start(cls, rng: random.Random, steps: int, long_range: bool, habits: Habits) -> _Draft:
        """Decides which turns do not ask and which ask far back, before the turns are gone through in order."""
        first = 4 if long_range and steps >= 12 else 3
        tail = min(first, max(1, steps // 4)) if long_range else 0
        draft = cls(rng, steps, habits, first, tail, frozenset(range(first)) if long_range else frozenset())
        tells, changes, distractions = _count_others(rng, steps)
        if long_range and steps > 1:
            tells = max(1, tells)
        turns = steps - tail
        asks = steps - tells - changes - distractions
        sources = draft.plan_far_asks(turns, max(0, round(FAR_SHARE * asks) - tail), tells)
        draft.plan_others(turns, sources, tells, changes, distractions)
        draft.tell(range(first), 0)
        return draft

    def plan_far_asks(self, turns: int, count: int, tells: int) -> set[int]:
        """Fills `due` with about `count` asks at distances drawn evenly from the far half; returns the turns that have to tell."""
        far, room = far_distance(self.steps), 1 if self.steps <= LONGEST_WITH_ONE_FACT else 2
        sources: set[int] = {1} if self.barred and self.steps > 1 else set()
        if turns < far:
            return sources
        for _ in range(20 * count):
            if len(self.due) == count:
                break
            distance = self.rng.randint(far, turns)
            turn = self.rng.randint(distance, turns)
            source = turn - distance
            used = sum(other == source for other in self.due.values())
            if turn in self.due or used >= (room if source else self.first - 1) or (source == 0 and self.barred):
                continue
            if source and source not in sources and len(sources) >= tells:
                continue
            self.due[turn] = source
            if source:
                sources.add(source)
        return sources

    def plan_others(self, turns: int, sources: set[int], tells: int, changes: int, distractions: int) -> None:
        """Places the turns that do not ask: telling comes early, so that there is time to forget."""
        early = [turn for turn in range(1, round(0.45 * self.steps) + 1) if turn not in sources and turn not in self.due]
        extra = self.rng.sample(early, min(len(early), max(0, tells - len(sources))))
        self.kinds = dict.fromkeys([*sorted(sources), *extra], "tell")
        if self.barred and self.steps > 1:
            self.kinds[1] = "topic"
        last = turns if self.tail else turns - 1
        for kind, count, end in (("overwrite", changes, 0.75 * self.steps), ("distract", distractions, self.steps)):
            free = [turn for turn in range(2, last + 1) if turn <= end and turn not in self.kinds and turn not in self.due]
            self.kinds.update(dict.fromkeys(self.rng.sample(free, min(count, len(free))), kind))

    def finish(self) -> Plan:
        """Goes through the turns in order."""
        for turn in range(1, self.steps - self.tail + 1):
            kind = self.kinds.get(turn, "ask")
            if kind == "ask":
                self.ask(turn)
            elif kind == "overwrite" and (free := self.free_facts()):
                fact = self.rng.choice(free)
                self.changed.add(fact)
                self.add(kind, (fact,))
            elif kind in ("overwrite", "distract"):
                self.add("distract")
            else:
                self.tell_more(turn, kind)
        for fact in self.rng.sample(range(self.first), self.tail):
            self.add("ask", (fact,))
        return Plan(self.first, tuple(self.moves))

    def tell_more(self, turn: int, kind: str) -> None:
        """Tells new facts: those that a far ask is due for, and others that are free to be asked soon."""
        reserved = sum(source == turn for source in self.due.values())
        if kind == "tell" and self.rng.random() < self.habits.topic:
            kind = "topic"
        if kind == "tell" and self.rng.random() < self.habits.story:
            kind = "story"
        more = self.rng.random() < (0.5 if self.steps > LONGEST_WITH_ONE_FACT else 0.2) or len(self.free_facts()) < FEWEST_FREE
        count = max(reserved, {"story": 3, "topic": 2}.get(kind, 1 + more))
        told = len(self.exposed)
        self.tell(range(told, told + count), turn)
        self.add(kind, tuple(range(told, told + count)))

    def tell(self, facts: range, turn: int) -> None:
        """Notes new facts; some of them, drawn at random, wait for the far asks that are due for this turn."""
        self.expose(facts, turn)
        waiting = [asked_at for asked_at, source in self.due.items() if source == turn]
        for fact, asked_at in zip(self.rng.sample(facts, len(waiting)), waiting, strict=True):
            self.kept[fact] = asked_at

    def ask(self, turn: int) -> None:
        """Asks for the fact that is due, or for one whose distance is near a drawn one, or for what was never told."""
        due = next((fact for fact, asked_at in self.kept.items() if asked_at == turn), None)
        if due is not None:
            del self.kept[due]
            self.add_ask(due)
            return
        free = self.free_facts()
        if not free:
            self.add("distract")
        elif self.rng.random() < self.habits.unknown:
            self.add("ask-unknown")
        else:
            self.add_ask(self.choose_near(turn, free))

    def choose_near(self, turn: int, free: list[int]) -> int:
        waiting = [fact for fact in free if fact in self.changed]
        if waiting and self.rng.random() < URGENCY_OF_CHANGED:
            return self.rng.choice(waiting)
        rested = [fact for fact in free if turn >= self.rested_at[fact]]
        if rested:
            # Drawn among equals: the first of them would make what is told first the answer to every short conversation.
            latest = max(self.rested_at[fact] for fact in rested)
            return self.rng.choice([fact for fact in rested if self.rested_at[fact] == latest])
        return self.rng.choice(free)

    def add_ask(self, chosen: int) -> None:
        facts = [chosen]
        others = [fact for fact in self.free_facts() if fact != chosen]
        if others and self.rng.random() < self.habits.several:
            facts.append(self.rng.choice(others))
        kind = "ask-several" if len(facts) > 1 else "ask-again" if chosen in self.asked else "ask"
        self.changed.difference_update(facts)
        self.asked.update(facts)
        self.add(kind, tuple(facts))

    def free_facts(self) -> list[int]:
        """Facts that neither wait for a far ask nor for the tail."""
        return [fact for fact in self.exposed if fact not in self.kept and fact not in self.barred]

    def expose(self, facts: Iterable[int], turn: int) -> None:
        """Notes that facts were told or asked, and draws for how long each rests before a near question may ask for it."""
        for fact in facts:
            self.exposed[fact] = turn
            self.rested_at[fact] = turn + self.rng.randint(1, max(1, far_distance(self.steps) - 1))

    def add(self, kind: str, facts: tuple[int, ...] = ()) -> None:
        self.moves.append(Move(kind, facts))
        self.expose(facts, len(self.moves))


def _count_others(rng: random.Random, steps: int) -> tuple[int, int, int]:
    """Numbers of turns that tell, overwrite and distract: together somewhat less than a third, never more than half."""
    count = rng.randint(0, steps // 2) if steps < 3 else round(steps * rng.uniform(0.27, 0.37))
    changes = 0 if count < 3 else max(1, count // 5)
    distractions = rng.randint(0, 1) if 2 <= count < 5 else count // 5
    if count - changes - distractions < min(3, count):
        distractions = 0
    return count - changes - distractions, changes, distractions


def _is_spread(plan: Plan, steps: int) -> bool:
    """Changed facts are asked afterwards, half of the turns ask; from 8 turns on no question drags on, and a third of the asks is far."""
    exposed = dict.fromkeys(range(plan.first), 0)
    pending: set[int] = set()
    asks = far = repeats = longest = 0
    last: tuple[int, ...] = ()
    for turn, move in enumerate(plan.moves, start=1):
        if move.asks:
            asks += 1
            repeats = repeats + 1 if move.facts == last else 1
            longest, last = max(longest, repeats), move.facts
            far += any(turn - exposed[fact] >= far_distance(steps) for fact in move.facts)
            pending.difference_update(move.facts)
        elif move.kind == "overwrite":
            pending.update(move.facts)
        exposed.update(dict.fromkeys(move.facts, turn))
    enough_facts = steps < 16 or plan.facts >= 6
    varied = steps < 8 or longest <= MOST_REPEATS
    return not pending and 2 * asks >= steps and enough_facts and varied and (steps < 8 or steps > 16 or 3 * far >= asks)
