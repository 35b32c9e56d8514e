"""The generated world: an endless, seeded supply of small conversations that cannot be answered without memory.

Four levels. 0: people, each attribute once in a conversation, a few short phrasings. 1: the same people and phrasings, but two to four of
them share each attribute, so that whose a value is decides most questions. 2: more of everything - people, animals and things that share
attributes, questions for several facts and for facts that were never told, changes of topic. 3: the same with stories told on request and
with aliases.
About a twelfth of all (entity, attribute, value) triples is reserved for the test split, and every test conversation holds one.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from rxrl import lexicon
from rxrl.data.planning import Habits, Move, Plan, plan_conversation
from rxrl.data.sources import ConversationSource, RowsSource
from rxrl.errors import ConfigError, unknown_name
from rxrl.lexicon import Topic
from rxrl.seeding import derive_seed
from rxrl.types import STRATEGIES, Conversation, Interaction

__all__ = [
    "DEFAULT_LEVEL",
    "LEVELS",
    "SPLITS",
    "ConversationSource",
    "GeneratedSource",
    "RowsSource",
    "Slot",
    "Telling",
    "act_out",
    "draw_slots",
    "generate_conversation",
    "generate_telling",
    "level_or_default",
    "reserved_value",
]

SPLITS = ("train", "validation", "test")
DEFAULT_LEVEL = 0
VALIDATION_SHARE = 10
"""One in this many sets of facts belongs to the validation split, with every conversation about them."""

SMALLEST_CAST = 4
HOLDERS = (2, 3, 3, 4)
"""How many people share an attribute where attributes are shared: one of these, drawn evenly, but no more than the cast has."""
SCATTER = 1.5
"""How far the facts of one shared attribute stand apart, in attributes: those that stand close are told in one interaction."""
SPARE_SLOTS = 3
"""Slots that stay untold, so that there is something to ask for that was never told."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a level draws from and how it speaks.

    Where `sharing` is "none", the facts of a conversation have different attributes, as long as there are enough of them: what kind of
    value is asked for then tells which fact is meant. Where it is "all", the same attribute is told of several people, so that it has to be
    known whose a value is. Where it is "some", who has what is left to chance.
    """

    topics: dict[str, tuple[Topic, ...]]
    kinds: tuple[str, ...]
    habits: Habits = field(default_factory=Habits)
    long: bool = False
    aliases: bool = False
    sharing: Literal["none", "some", "all"] = "some"


LEVELS: dict[int, Level] = {
    0: Level({"person": lexicon.ALL_TOPICS["person"]}, ("person",), sharing="none"),
    1: Level({"person": lexicon.ALL_TOPICS["person"]}, ("person",), sharing="all"),
    2: Level(lexicon.ALL_TOPICS, ("person", "person", "animal", "thing"), Habits(several=0.15, unknown=0.12, topic=0.2), long=True),
    3: Level(
        lexicon.ALL_TOPICS,
        ("person", "person", "animal", "thing"),
        Habits(several=0.15, unknown=0.12, topic=0.2, story=0.3),
        long=True,
        aliases=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Slot:
    """An entity with one of its topics: what a fact can be about."""

    entity: str
    kind: str
    topic: Topic

    @property
    def key(self) -> str:
        """Key of the fact, for example `anna.pet`."""
        return f"{self.entity.removeprefix('the ').lower()}.{self.topic.attribute}"


def level_or_default(level: int | None) -> int:
    """A level that may be left out; 0 counts as given."""
    return DEFAULT_LEVEL if level is None else level


def reserved_value(kind: str, entity: str, attribute: str) -> str:
    """The value that this entity's attribute takes in the test split only; each value is reserved for as many entities as any other."""
    values = lexicon.VALUES[attribute]
    shift = zlib.crc32(f"{kind}.{attribute}".encode())
    return values[(lexicon.ENTITIES[kind].index(entity) + shift) % len(values)]


def generate_conversation(*, level: int, steps: int, strategy: str, split: str, seed: int, index: int) -> Conversation:
    """Returns the conversation that these arguments name; the same arguments always give the same one.

    Args:
        level: 0, 1, 2 or 3.
        steps: Number of turns, at least 1.
        strategy: One of `rxrl.types.STRATEGIES`; `single-step` has one turn.
        split: `train`, `validation` or `test`; no conversation is in two of them.
        seed: Seed of the world.
        index: Position in the endless sequence.

    Raises:
        ConfigError: An argument is outside of its range.
    """
    _check(level, steps, strategy, split)
    rng = random.Random(derive_seed(seed, "world", level, steps, strategy, split, index))
    long_range = strategy == "long-range"
    plan = plan_conversation(rng, steps=steps, long_range=long_range, habits=LEVELS[level].habits)
    story = bool(rng.random() < LEVELS[level].habits.story)
    while True:
        script = _Script.cast(rng, LEVELS[level], plan, split, separate_first=long_range, story_first=story)
        if split == "test" or script.belongs_to_validation == (split == "validation"):
            break
    first = script.requested_story(range(plan.first)) if story else script.tell("tell", range(plan.first))
    follow_ups = tuple(script.play(move) for move in plan.moves)
    name = f"{split}-level{level}-{strategy}-{steps}-seed{seed}-{index}"
    return Conversation(name, first, follow_ups, {"level": level, "strategy": strategy, "split": split})


@dataclass(frozen=True, slots=True)
class Telling:
    """A conversation that tells one fact an interaction, each of another attribute, and asks for nothing.

    Attributes:
        conversation: What is told; its answers acknowledge.
        questions: For each interaction, the question for its fact, with the right answer.
    """

    conversation: Conversation
    questions: tuple[Interaction, ...]


def generate_telling(*, level: int, facts: int, split: str, seed: int, index: int) -> Telling:
    """Returns the telling that these arguments name; it is for probes, which ask whenever they like.

    Args:
        level: 0, 1, 2 or 3: how it is said. Attributes are never shared, so that a value says which fact is meant.
        facts: Facts that are told, at least 2 and at most one for each attribute.
        split: `train`, `validation` or `test`: which values are allowed.
        seed: Seed of the world.
        index: Position in the endless sequence.

    Raises:
        ConfigError: An argument is outside of its range.
    """
    _check(level, 1, "multi-step", split)
    apart = replace(LEVELS[level], sharing="none", kinds=("person",))
    most = len(apart.topics["person"])
    if not 2 <= facts <= most:
        raise ConfigError(f"A telling has 2 to {most} facts, one for each attribute of a person, but {facts} were asked for.")
    rng = random.Random(derive_seed(seed, "telling", level, facts, split, index))
    plan = Plan(1, tuple(Move("tell", (number,)) for number in range(1, facts)))
    script = _Script.cast(rng, apart, plan, split, separate_first=False, story_first=False)
    told = [script.tell("tell", [number]) for number in range(facts)]
    questions = tuple(script.ask(Move("ask", (number,))) for number in range(facts))
    name = f"telling-{split}-level{level}-{facts}-seed{seed}-{index}"
    return Telling(Conversation(name, told[0], tuple(told[1:]), {"level": level, "split": split}), questions)


def _check(level: int, steps: int, strategy: str, split: str) -> None:
    if level not in LEVELS:
        raise ConfigError(f"level must be one of {', '.join(map(str, LEVELS))}, but is {level}.")
    if split not in SPLITS:
        raise ConfigError(unknown_name("split", split, SPLITS))
    if strategy not in STRATEGIES:
        raise ConfigError(unknown_name("strategy", strategy, STRATEGIES))
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, but is {steps}.")
    if strategy == "single-step" and steps != 1:
        raise ConfigError(f"A single-step conversation has exactly 1 step, but {steps} were asked for: use multi-step or long-range.")


@dataclass(slots=True)
class _Script:
    """Words for a plan: the slots of its facts, their values so far, and how the level speaks."""

    rng: random.Random
    level: Level
    split: str
    slots: list[Slot]
    values: list[str]
    spare: list[Slot]

    @classmethod
    def cast(cls, rng: random.Random, level: Level, plan: Plan, split: str, *, separate_first: bool, story_first: bool) -> _Script:
        """Draws who and what the facts are about, and their values.

        Args:
            rng: Source of all draws.
            level: What to draw from.
            plan: The plan that needs words.
            split: Decides which values are allowed.
            separate_first: The first interaction has a cast of its own, which no later turn tells anything about.
            story_first: The first interaction is a story, so all of its facts are about one entity.
        """
        chapters = [Move("story" if story_first else "tell", tuple(range(plan.first))), *(move for move in plan.moves if move.tells)]
        taken: set[str] = set()
        pool = _draw_pool(rng, level, plan.first if separate_first else plan.facts, taken)
        slots: list[Slot] = []
        spare: list[Slot] = []
        for number, chapter in enumerate(chapters):
            if number == 1 and separate_first:
                spare, pool = pool, _draw_pool(rng, level, plan.facts - plan.first, taken)
            known = {slot.entity for slot in slots}
            if chapter.kind == "topic" and level.sharing == "some" and known.issuperset(slot.entity for slot in pool):
                pool += _newcomer(rng, level, taken)
            slots += _pick(pool, chapter, known)
        script = cls(rng, level, split, slots, [], spare + pool)
        script.values = [script.draw_value(slot) for slot in slots]
        if split == "test":
            chosen = rng.randrange(plan.first)
            script.values[chosen] = reserved_value(slots[chosen].kind, slots[chosen].entity, slots[chosen].topic.attribute)
        return script

    @property
    def belongs_to_validation(self) -> bool:
        """Decides by the facts of the world alone, so that no conversation can be in both train and validation."""
        facts = sorted(f"{slot.key}={value}" for slot, value in zip(self.slots, self.values, strict=True))
        return zlib.crc32("|".join(facts).encode()) % VALIDATION_SHARE == 0

    def draw_value(self, slot: Slot, other_than: str | None = None) -> str:
        reserved = None if self.split == "test" else reserved_value(slot.kind, slot.entity, slot.topic.attribute)
        return self.rng.choice([value for value in lexicon.VALUES[slot.topic.attribute] if value not in (reserved, other_than)])

    def play(self, move: Move) -> Interaction:
        """Puts a move into words."""
        if move.kind == "distract":
            query, answer = self.rng.choice(lexicon.SMALL_TALK_LONG if self.level.long else lexicon.SMALL_TALK_SHORT)
            return Interaction(query, answer, asks=(), kind=move.kind)
        if move.kind == "overwrite":
            return self.overwrite(move.facts[0])
        return self.ask(move) if move.asks else self.tell(move.kind, move.facts)

    def tell(self, kind: str, facts: Sequence[int]) -> Interaction:
        """The user tells: in plain sentences, or as a story."""
        told = self.story_text(facts) if kind == "story" else " ".join(self.say(fact) for fact in facts)
        query, answer = self.rng.choice(lexicon.TELL_WRAPPERS[kind] if self.level.long else lexicon.PLAIN_TELL)
        return Interaction(query.format(s=told, e=self.slots[facts[0]].entity), answer, self.fact_pairs(facts), (), kind=kind)

    def overwrite(self, fact: int) -> Interaction:
        self.values[fact] = self.draw_value(self.slots[fact], other_than=self.values[fact])
        query, answer = self.rng.choice(lexicon.LONG_OVERWRITE if self.level.long else lexicon.PLAIN_OVERWRITE)
        said = self.say(fact, first_only=True)
        said = said if said.startswith(self.slots[fact].entity) else said[0].lower() + said[1:]
        return Interaction(query.format(s=said), answer, self.fact_pairs([fact]), (), kind="overwrite")

    def requested_story(self, facts: Sequence[int]) -> Interaction:
        """The user asks for a story and the answer tells it: only fit for a first interaction, whose answer is never generated."""
        query = self.rng.choice(lexicon.STORY_REQUESTS).format(e=self.slots[facts[0]].entity)
        return Interaction(query, self.story_text(facts), self.fact_pairs(facts), (), kind="story")

    def story_text(self, facts: Sequence[int]) -> str:
        parts = [self.fill(self.rng.choice(self.slots[fact].topic.story), fact) for fact in facts]
        return " ".join([self.rng.choice(lexicon.STORY_OPENINGS), *parts, self.rng.choice(lexicon.STORY_CLOSINGS)])

    def ask(self, move: Move) -> Interaction:
        if move.kind == "ask-unknown":
            slot = self.rng.choice(self.spare)
            answer = lexicon.UNKNOWN_ANSWER.format(u=slot.topic.unknown.format(e=slot.entity))
            return Interaction(self.wrap(move, [self.question(slot)]), answer, asks=(slot.key,), unknown=True, kind=move.kind)
        query = self.wrap(move, [self.question(self.slots[fact]) for fact in move.facts])
        answer = " ".join(self.say(fact, first_only=True) for fact in move.facts)
        keys = tuple(self.slots[fact].key for fact in move.facts)
        return Interaction(query, answer, (), keys, aliases=self.aliases(move.facts), kind=move.kind)

    def wrap(self, move: Move, questions: list[str]) -> str:
        joined = ", and ".join([question.removesuffix("?") for question in [questions[0], *map(_lower_first, questions[1:])]]) + "?"
        if not self.level.long:
            return joined
        wrapper = self.rng.choice(lexicon.ASK_AGAIN if move.kind == "ask-again" else lexicon.LONG_ASK)
        if wrapper == "{q}":
            return joined
        return wrapper.format(q=_lower_first(joined), Q=joined)

    def question(self, slot: Slot) -> str:
        asks = slot.topic.asks if self.level.long else slot.topic.asks[:2]
        return self.rng.choice(asks).format(e=slot.entity)

    def say(self, fact: int, first_only: bool = False) -> str:
        tells = self.slots[fact].topic.tells
        return self.fill(tells[0] if first_only or not self.level.long else self.rng.choice(tells), fact)

    def fill(self, template: str, fact: int) -> str:
        value = self.values[fact]
        text = template.format(e=self.slots[fact].entity, v=value, V=value.capitalize())
        return text[0].upper() + text[1:]

    def fact_pairs(self, facts: Sequence[int]) -> tuple[tuple[str, str], ...]:
        return tuple((self.slots[fact].key, self.values[fact]) for fact in facts)

    def aliases(self, facts: Sequence[int]) -> dict[str, tuple[str, ...]]:
        if not self.level.aliases:
            return {}
        found = {self.slots[fact].key: lexicon.ALIASES.get(self.values[fact], ()) for fact in facts}
        return {key: words for key, words in found.items() if words}


def _draw_pool(rng: random.Random, level: Level, size: int, taken: set[str]) -> list[Slot]:
    """Slots of a small cast in random order, some more than `size`: few entities, so that their facts have to be told apart."""
    if level.sharing == "none":
        return _draw_distinct(rng, level, size, taken)
    if level.sharing == "all":
        return _draw_shared(rng, level, size, taken)
    pool: list[Slot] = []
    members = 0
    while members < SMALLEST_CAST or len(pool) < size + SPARE_SLOTS:
        joining = _newcomer(rng, level, taken)
        if not joining:
            raise ConfigError(f"A conversation that tells {size} facts is too long for this level of the world: ask for fewer steps.")
        members += 1
        pool += joining
    rng.shuffle(pool)
    return pool


def _newcomer(rng: random.Random, level: Level, taken: set[str]) -> list[Slot]:
    """All slots of an entity that is not taken yet, which then is; none where all are."""
    kinds = [kind for kind in level.kinds if not taken.issuperset(lexicon.ENTITIES[kind])]
    if not kinds:
        return []
    kind = rng.choice(kinds)
    entity = rng.choice([entity for entity in lexicon.ENTITIES[kind] if entity not in taken])
    taken.add(entity)
    return [Slot(entity, kind, topic) for topic in level.topics[kind]]


def _draw_distinct(rng: random.Random, level: Level, size: int, taken: set[str]) -> list[Slot]:
    """At least `size` slots, each attribute once before any comes again; `taken` holds the entities and attributes of earlier casts."""
    kind = level.kinds[0]
    free = [entity for entity in lexicon.ENTITIES[kind] if entity not in taken]
    cast = rng.sample(free, min(len(free), max(SMALLEST_CAST, -(-size // len(level.topics[kind])))))
    topics = rng.sample(level.topics[kind], len(level.topics[kind]))
    topics.sort(key=lambda topic: topic.attribute in taken)
    shift = rng.randrange(len(cast))
    rounds = range(len(cast)) if cast else ()
    pool = [Slot(cast[(place + number + shift) % len(cast)], kind, topic) for number in rounds for place, topic in enumerate(topics)]
    if len(pool) < size:
        raise ConfigError(f"A conversation that tells {size} facts is too long for this level of the world: ask for fewer steps.")
    taken.update(cast)
    taken.update(slot.topic.attribute for slot in pool[:size])
    return pool


def _draw_shared(rng: random.Random, level: Level, size: int, taken: set[str]) -> list[Slot]:
    """At least `size` slots of up to four people, each attribute told of several of them; `taken` holds the people of earlier casts."""
    kind = level.kinds[0]
    topics = rng.sample(level.topics[kind], len(level.topics[kind]))
    free = [entity for entity in lexicon.ENTITIES[kind] if entity not in taken]
    members = max(rng.choice(HOLDERS), -(-size // len(topics)))
    if members > min(len(free), SMALLEST_CAST):
        raise ConfigError(f"A conversation that tells {size} facts is too long for this level of the world: ask for fewer steps.")
    cast = rng.sample(free, members)
    groups = [rng.sample(cast, min(members, max(rng.choice(HOLDERS), -(-size // len(topics))))) for _ in topics]
    slots = [(number, Slot(entity, kind, topic)) for number, topic in enumerate(topics) for entity in groups[number]]
    taken.update(cast)
    places = [number + SCATTER * rng.random() for number, _ in slots]
    return [slots[index][1] for index in sorted(range(len(slots)), key=places.__getitem__)]


def _pick(pool: list[Slot], move: Move, known: set[str]) -> list[Slot]:
    """Takes the slots of a telling move out of `pool`: a story is about one entity, a new topic about ones not `known` yet."""
    count = len(move.facts)
    free = Counter(slot.entity for slot in pool)
    hero = next((slot.entity for slot in pool if free[slot.entity] >= count), None)
    unfit = {
        "story": [slot.entity != hero for slot in pool],
        "topic": [slot.entity in known for slot in pool],
    }.get(move.kind, [False] * len(pool))
    order = sorted(range(len(pool)), key=unfit.__getitem__)
    picked = [pool[index] for index in order[:count]]
    pool[:] = [slot for slot in pool if slot not in picked]
    return picked


def draw_slots(rng: random.Random, level: int, count: int) -> list[Slot]:
    """So many different things that can be told at a level, shared among entities as the level does.

    Raises:
        ConfigError: There are not as many.
    """
    return _draw_pool(rng, LEVELS[level], count, set())[:count]


def act_out(rng: random.Random, level: int, slots: Sequence[Slot], moves: Sequence[Move]) -> list[Interaction]:
    """Moves in the words of a level, for conversations that are planned by hand.

    Args:
        rng: Draws values and words.
        level: 0 to 3.
        slots: What each fact is about, by its number.
        moves: What every interaction does, the first one included; facts are told before they are asked for.
    """
    script = _Script(rng, LEVELS[level], "test", list(slots), [], [])
    script.values = [script.draw_value(slot) for slot in slots]
    return [script.play(move) for move in moves]


def _lower_first(text: str) -> str:
    return text[0].lower() + text[1:]


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """Endless conversations of one level and split; `index` names them, so any number of processes agree on them."""

    level: int
    seed: int
    split: str

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Returns the conversations `start` to `start + count - 1` of `steps` turns."""
        return [
            generate_conversation(level=self.level, steps=steps, strategy=strategy, split=self.split, seed=self.seed, index=index)
            for index in range(start, start + count)
        ]

    def stories(self, split: str, start: int, count: int) -> list[str]:
        """Returns plain stories from the same world for pre-training: facts are told, small things happen, facts come up again."""
        return [_plain_story(LEVELS[self.level], self.level, split, self.seed, index) for index in range(start, start + count)]


def _plain_story(level: Level, number: int, split: str, seed: int, index: int) -> str:
    rng = random.Random(derive_seed(seed, "stories", number, split, index))
    plan = Plan(rng.randint(2, 4), ())
    while True:
        script = _Script.cast(rng, level, plan, split, separate_first=False, story_first=False)
        if split == "test" or script.belongs_to_validation == (split == "validation"):
            break
    facts = list(range(plan.first))
    sentences = [script.say(fact) for fact in facts]
    sentences.append(rng.choice(lexicon.PLAIN_FILLERS))
    for fact in rng.sample(facts, rng.randint(1, len(facts))):
        sentences += [script.question(script.slots[fact]), script.say(fact, first_only=True)]
    return " ".join(sentences)
