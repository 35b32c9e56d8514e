"""Instructions: the user says how to answer from now on, adds rules and takes them back; which are in force is in memory alone.

Level 1 asks for anything of a kind. Levels 2 and 3 ask for facts of the generated world that were told at the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from rxrl.envs.scenarios.corrections import TOPICS, Fact, asked_for, drawn_facts, told_in, value_named
from rxrl.envs.scenarios.game import Game, Said, check_arguments, listed, named_once, words_of
from rxrl.lexicon import VALUES
from rxrl.seeding import Draws
from rxrl.types import Interaction, Score


class Rule(NamedTuple):
    """A way to answer.

    Attributes:
        name: Short name, for terms and recall questions.
        begin: What the user says to set it; several phrasings.
        end: What the user says to take it back.
        kept: Whether the words of an answer follow it.
        apply: An answer that follows it, made of one that does not.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    kept: Callable[[list[str]], bool]
    apply: Callable[[str], str]


RULES = (
    Rule(
        "please",
        ("End with please.", "From now on end with please.", "Say please at the end."),
        ("No more please.", "You may leave out please.", "Stop saying please."),
        lambda words: words[-1:] == ["please"],
        lambda text: f"{text} please",
    ),
    Rule(
        "captain",
        ("Call me captain.", "I am the captain now.", "Address me as captain."),
        ("No more captain.", "I am no captain any more.", "Stop calling me captain."),
        lambda words: "captain" in words,
        lambda text: f"{text} captain",
    ),
    Rule(
        "well",
        ("Begin with well.", "From now on begin with well.", "Say well first."),
        ("No more well.", "You may leave out well.", "Stop saying well."),
        lambda words: words[:1] == ["well"],
        lambda text: f"well {text}",
    ),
)
COUNT = {1: 2, 2: 3, 3: 3}
"""Rules, by level."""
FACTS = {1: 0, 2: 2, 3: 3}
"""Facts that are told and asked for, by level."""
KINDS = ("colour", "food", "pet")
ASKS = ("Name a {kind}.", "Tell me a {kind}.", "Which {kind} do you know?")
FORCE = 0.55
"""Probability that a turn sets a rule, or takes one back."""
ANOTHER = 0.5
"""What an answer is worth that names another value than the one that was told."""
NONE = "none."


class State(NamedTuple):
    """Where a game stands.

    Attributes:
        turn: Turns heard.
        kept: For each rule whether the last answer treated it as it stood.
        named: How well the last answer named what was asked for: 1, 0.5 for another value of its kind, or 0.
    """

    turn: int = 0
    kept: tuple[bool, ...] = ()
    named: float = 0.0


@dataclass(frozen=True)
class Instructions(Game[State]):
    """The user asks for small things, and for answers in a form that changes as the conversation goes on.

    Attributes:
        changes: For each turn the rule (by its place) that changes before it, or -1.
        kinds: For each turn what is asked for, where no facts are.
        facts: What is told at the beginning.
        order: For each turn the fact that is asked for.
    """

    changes: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    order: tuple[int, ...] = ()

    name: ClassVar[str] = "instructions"
    values: ClassVar[dict[str, tuple[str, ...]]] = {topic.attribute: VALUES[topic.attribute] for _, topic in TOPICS}
    stated: ClassVar[dict[int, tuple[float, float]]] = {1: (6.0, 10.0), 2: (3.1, 10.0), 3: (3.1, 10.0)}

    @classmethod
    def make(cls, *, level: int, split: str, seed: int, index: int, steps: int) -> Self:
        """The scenario that these arguments name; which rules change when parts the splits."""
        check_arguments(level, split, steps)
        draws = Draws(seed, cls.name, level, split, index)
        count = COUNT[level]
        while True:
            changes = tuple(draws.below(count) if draws.chance(FORCE) else -1 for _ in range(steps))
            remainder = sum((turn + 1) * (change + 2) for turn, change in enumerate(changes)) % 4
            if {0: "test", 1: "validation"}.get(remainder, "train") == split or steps < 2:
                break
        identity = f"{cls.name}-{split}-level{level}-{steps}-seed{seed}-{index}"
        if not FACTS[level]:
            return cls(identity, steps, level, split, changes, tuple(draws.choice(KINDS) for _ in range(steps)))
        facts = drawn_facts(FACTS[level], level, split, draws)
        return cls(identity, steps, level, split, changes, (), facts, tuple(draws.below(len(facts)) for _ in range(steps)))

    def opening(self, draws: Draws) -> Interaction:
        """Tells the facts, where there are some; no rule is in force yet."""
        if not self.facts:
            return Interaction("I will ask you some small things.", "Good.")
        text = " ".join(fact.told(draws.below(3)) for fact in self.facts)
        return Interaction(text, "Good.", facts=tuple((fact.key, fact.value) for fact in self.facts), asks=())

    def start(self) -> State:
        """Nothing was asked."""
        return State()

    def hear(self, state: State, answer: str, draws: Draws) -> State:
        """Compares the form of the answer with the rules in force."""
        words = words_of(answer)
        kept = tuple(rule.kept(words) == holds for rule, holds in zip(RULES, self.in_force(state.turn), strict=False))
        return State(state.turn + 1, kept, self._named(answer, state.turn))

    def ask(self, state: State, draws: Draws) -> Interaction | None:
        """Changes a rule, where one changes, and asks for something."""
        if state.turn >= len(self.changes):
            return None
        change, kind = self._change(state.turn, draws), "change" if self.changes[state.turn] >= 0 else "as before"
        if not self.facts:
            return Interaction(f"{change}{self._phrase(ASKS, draws).format(kind=self.kinds[state.turn])}", kind=kind)
        fact = self.facts[self.order[state.turn]]
        return Interaction(f"{change}{fact.question(draws.below(3))}", asks=(fact.key,), kind=kind)

    def outcome(self, state: State) -> Score:
        """The share of the rules that the answer treats as they stand, squared, times 10, and times how well it names what is asked for."""
        terms = {rule.name: 10.0 * kept for rule, kept in zip(RULES, state.kept, strict=False)}
        share = sum(state.kept) / len(state.kept)
        return Score(10.0 * share**2 * state.named, {**terms, "named": 10.0 * state.named})

    def secret(self, state: State) -> str:
        """The rules in force, with the one that is set next."""
        holds = [rule.name for rule, holds in zip(RULES, self.in_force(state.turn), strict=False) if holds]
        return " ".join([f"rules in force: {listed(holds) if holds else 'none'}.", *(fact.told() for fact in self.facts)])

    def random_answer(self, state: State, draws: Draws) -> str:
        """Any of the things, or the fact that is asked for, in any form."""
        value = self.facts[self.order[state.turn]].value if self.facts else draws.choice(VALUES[self.kinds[state.turn]])
        return formed(value, tuple(draws.chance(0.5) for _ in range(COUNT[self.level])))

    def recall(self, state: State, draws: Draws) -> Interaction | None:
        """Which rules are in force, or what was told."""
        if state.turn >= len(self.changes):
            return None
        if self.facts and draws.chance(0.5):
            fact = draws.choice(self.facts)
            return Interaction(fact.question(), f"{fact.value}.", asks=(fact.key,), kind="recall")
        names = [rule.name for rule, holds in zip(RULES, self.in_force(state.turn - 1), strict=False) if holds]
        return Interaction("Which rules hold?", f"{' and '.join(names)}." if names else NONE, kind="recall")

    @classmethod
    def best(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Follows the rules in force, and says what was told."""
        holds = [False] * COUNT[level]
        for asked in [*(asked for asked, _ in said[1:]), query]:
            for place, rule in enumerate(RULES[: COUNT[level]]):
                if asked.startswith(rule.begin):
                    holds[place] = True
                elif asked.startswith(rule.end):
                    holds[place] = False
        if not FACTS[level]:
            return formed(draws.choice(VALUES[kind_in(query)]), tuple(holds))
        entity, topic = asked_for(query)
        return formed(told_in(said[0][0], entity, topic) or "", tuple(holds))

    @classmethod
    def blind(cls, level: int, query: str, said: Said, draws: Draws) -> str:
        """Follows the rule that the query sets; of the others it knows nothing, and most begin out of force."""
        holds = tuple(query.startswith(rule.begin) for rule in RULES[: COUNT[level]])
        values = VALUES[TOPICS[asked_for(query)[1]][1].attribute if FACTS[level] else kind_in(query)]
        return formed(draws.choice(values), holds)

    def in_force(self, turn: int) -> tuple[bool, ...]:
        """For each rule of the level whether it is in force at a turn (from 0): each change turns it over."""
        return tuple(self.changes[: turn + 1].count(place) % 2 == 1 for place in range(COUNT[self.level]))

    def _named(self, answer: str, turn: int) -> float:
        if not self.facts:
            return float(named_once(answer, VALUES[self.kinds[turn]]) is not None)
        fact = self.facts[self.order[turn]]
        value = value_named(answer, fact.topic, self.level)
        return 1.0 if value == fact.value else 0.0 if value is None else ANOTHER

    def _change(self, turn: int, draws: Draws) -> str:
        place = self.changes[turn]
        if place < 0:
            return ""
        rule = RULES[place]
        return f"{self._phrase(rule.begin if self.in_force(turn)[place] else rule.end, draws)} "

    def _phrase(self, phrases: tuple[str, ...], draws: Draws) -> str:
        return phrases[0] if self.level == 1 else draws.choice(phrases)


def formed(value: str, holds: tuple[bool, ...]) -> str:
    """An answer that names a value in the form that the rules ask for."""
    text = value
    for rule, held in sorted(zip(RULES, holds, strict=False), key=lambda pair: pair[0].name):
        text = rule.apply(text) if held else text
    return f"{text}."


def kind_in(query: str) -> str:
    """What a query asks for."""
    return next(kind for kind in KINDS if kind in words_of(query))
