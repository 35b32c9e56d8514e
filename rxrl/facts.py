"""Facts in text: which values an answer holds, and which facts an episode has told, exposed and asks for.

A value is held when it stands in the answer as whole words, whatever its case, and is not negated. Everything here
works on words, is cached and needs no model, so that a reward can look at tens of thousands of turns a second.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import NamedTuple

from rxrl.caching import cached_by_size
from rxrl.template import heard
from rxrl.types import Conversation, Interaction

_CACHE = 1 << 22
"""Characters of the texts whose words and clauses are kept: some ten thousand sentences, or a few that are huge."""
LONGEST = 1 << 19
"""Characters of a text that are looked at. No answer is so long, and whatever comes, a reward has its score within a second or two."""
_MARKS = 30
"""Combining marks in a row that are normalised together, as in the Stream-Safe Text Format of Unicode (UAX #15)."""
_MOST_MENTIONS = 1000
"""Mentions of a value that are looked at in one answer."""
_ASTRAL_MARKS_END = 0x20000
"""No character from here on is a combining mark."""
# Combining marks and joiners belong to their word: without them Hindi, Tamil or pointed Arabic would fall into single letters.
_LETTERS = (
    r"[^\W_][\w" + "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code))[0] == "M") + "\u200c\u200d]*"
)
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|{_LETTERS}(?:'{_LETTERS})*")
_BORDERS = ".,;:!?()\n\u2014"
_WORD_OR_BORDER = re.compile(rf"{_WORD.pattern}|[{_BORDERS}]")
_ARTICLES = frozenset("a an the my your his her its our their some".split())

STOPWORDS = frozenset(
    """a an the this that these those some any all both each every no not nor or and but if then than so as of at by for from in into on
    onto to with about over under up down out off after before again while during until because i you he she it we they me him
    them us my your his her its our their mine yours hers ours theirs myself himself herself itself themselves is am are was were be
    been being do does did doing done have has had having will would shall should can could may might must there here what which who
    whom whose when where why how very too also just only own same such now once one yes no okay ok well please said say says""".split()
)
"""Words that carry no fact; the fallback on content words leaves them out."""

_NEGATORS = frozenset(
    """not never neither nor without cannot nobody none nothing hardly lack lacks lacking except unlike false untrue
    dont doesnt didnt isnt wasnt arent werent hasnt havent hadnt wont cant couldnt wouldnt shouldnt""".split()
)
_NEGATING_PAIRS = frozenset(
    [("instead", "of"), ("rather", "than"), ("other", "than"), ("anything", "but"), ("everything", "but"), ("no", "one"), ("no", "longer")]
)
_FIRST_OF_PAIR = frozenset(first for first, _ in _NEGATING_PAIRS)
_BREAKERS = frozenset("but however although though whereas because instead yet while so".split())
_PRONOUNS = frozenset("i it he she they we you this that there".split())
_VERBS = frozenset(
    "is are was were be am has have had does do did will would can could likes loves lives owns plays goes went took got gets keeps".split()
)
_AUXILIARIES = frozenset("is are was were does do did has have had will would can could should".split())
_DENIALS = frozenset("not never no".split())
_OPENERS = frozenset("that whether if think believe say know remember sure mean true suppose recall certain".split())
_NEGATION_REACH = 9
_NO_REACH = 4

_UNKNOWN = re.compile(
    r"(?:do|does|did|can|could|is|are|was|were|have|has|had|would) not (?:really |actually |yet |quite |been )?"
    r"(?:know|remember|recall|tell|told|say|said|mention|mentioned|sure|certain|given|able to|specified|stated|known|have that|have any)\b"
    r"|\b(?:cannot|never|not) (?:been |yet )?(?:know|knew|tell|told|say|said|mention|mentioned|heard|remember|recall|sure|specified|stated"
    r"|learned|known)\b"
    r"|\bno (?:idea|information|clue|record|memory)\b"
    r"|\bunknown\b|\bunsure\b|\bnobody told\b|\bno one told\b"
)
_CONTRACTION = re.compile(r"\b(can)'t\b|\b(\w+)n't\b")


class _Parsed(NamedTuple):
    words: tuple[str, ...]
    joined: str
    negation: bool


def normalise(text: str) -> str:
    """Returns the first `LONGEST` characters of `text` in one spelling: lower case, compatible characters unified, straight apostrophes."""
    text = text[:LONGEST]
    if not text.isascii():
        # Marks are sorted as they stand, in time that grows with the square of their number: long runs are cut.
        text = unicodedata.normalize("NFKC", _long_runs().sub("\\g<0>\u034f", text))[:LONGEST]
        text = text.replace("\u2019", "'").replace("\u2018", "'")
    return text.casefold()[:LONGEST]


@cache
def _long_runs() -> re.Pattern[str]:
    """Finds combining marks (and what is made of some), thirty in a row, where more follow."""
    codes = (chr(code) for code in range(0x300, _ASTRAL_MARKS_END))
    marks = "".join(each for each in codes if unicodedata.combining(unicodedata.normalize("NFKD", each)[0]))
    return re.compile(f"[{marks}]{{{_MARKS}}}(?=[{marks}])")


def _spelt(text: str) -> str:
    """The text in which words are looked for: an underscore is no letter."""
    return normalise(text).replace("_", " ")


def _clean(word: str) -> str:
    if word.endswith("'s"):
        return word[:-2]
    return word.replace(",", "") if "," in word else word


def _negates(word: str) -> bool:
    return word in _NEGATORS or word.endswith("n't")


@cached_by_size(_CACHE)
def _parse(text: str) -> _Parsed:
    words = tuple(_clean(word) for word in _WORD.findall(_spelt(text)))
    negation = any(word in _NEGATORS or word in _FIRST_OF_PAIR or word == "no" or word.endswith("n't") for word in words)
    return _Parsed(words, f" {' '.join(words)} ", negation)


def words(text: str) -> tuple[str, ...]:
    """Returns the normalised words of `text`: no punctuation, no possessive endings."""
    return _parse(text).words


def content_words(text: str) -> frozenset[str]:
    """Returns the distinct words of `text` that are no stop words."""
    return _content(text)


@cached_by_size(_CACHE)
def _content(text: str) -> frozenset[str]:
    return frozenset(_parse(text).words) - STOPWORDS


def contains(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` stand in `text` one after the other, negated or not; an empty phrase never does."""
    needle = _parse(phrase)
    return bool(needle.words) and needle.joined in _parse(text).joined


@cached_by_size(_CACHE)
def value_words(value: str) -> tuple[str, ...]:
    """Returns the words of a value without its leading articles ("the red ball" and "a red ball" are one value)."""
    parts = _parse(value).words
    start = 0
    while start < len(parts) - 1 and parts[start] in _ARTICLES:
        start += 1
    return parts[start:]


class _Clauses(NamedTuple):
    clause: tuple[int, ...]
    negated: tuple[bool, ...]
    asked: frozenset[int]


def _reach(parts: Sequence[str], index: int) -> int:
    """Number of words after `index` that a negation standing there covers; 0 where none stands there."""
    word = parts[index]
    following = parts[index + 1] if index + 1 < len(parts) else ""
    if (word, following) in _NEGATING_PAIRS:
        return _NEGATION_REACH
    if word == "no":
        return _NO_REACH
    if _negates(word):
        return 0 if following == "only" else _NEGATION_REACH
    return 0


def _ends_reach(parts: Sequence[str], index: int, opener: bool, short: bool) -> bool:
    """True where the word at `index` opens a part of the sentence that an earlier negation does not cover."""
    word = parts[index]
    following = parts[index + 1] if index + 1 < len(parts) else ""
    if word in _BREAKERS:
        return not (word == "but" and index and parts[index - 1] in ("anything", "everything"))
    if short and (word in _PRONOUNS or word in _VERBS):
        return True
    if word == "and" and (following in _PRONOUNS or following in _VERBS):
        return True
    return word in _PRONOUNS and following in _VERBS and not opener


@cached_by_size(_CACHE)
def _clauses(text: str) -> _Clauses:
    """Marks each word of `text` with its clause and with whether a negation covers it."""
    tokens = _WORD_OR_BORDER.findall(_spelt(text))
    parts: list[str] = []
    clause: list[int] = []
    asked: set[int] = set()
    number = 0
    for token in tokens:
        if token not in _BORDERS:
            parts.append(_clean(token))
            clause.append(number)
        else:
            if token == "?":
                asked.add(number)
            number += 1
    negated: list[bool] = []
    left, opener, short = 0, False, False
    for index, word in enumerate(parts):
        fresh = index == 0 or clause[index] != clause[index - 1]
        if fresh or _ends_reach(parts, index, opener, short):
            left = 0
        reach = _reach(parts, index)
        negated.append(left > 0)
        if reach:
            left, opener, short = reach, False, word == "no" and reach == _NO_REACH
        else:
            left = max(0, left - 1)
            opener = opener or word in _OPENERS
    return _Clauses(tuple(clause), tuple(negated), frozenset(asked))


def _negated_at(parts: Sequence[str], clauses: _Clauses, start: int, end: int) -> bool:
    """True where the words [start, end) are negated: from before, by what follows, or as a denied question."""
    clause, negated, asked = clauses
    if negated[start]:
        return True
    if end >= len(parts):
        return False
    follower = parts[end]
    if clause[end] == clause[end - 1]:
        if follower.endswith("n't") or (follower in _NEGATORS and follower.endswith("nt")):
            return True
        return follower in _AUXILIARIES and end + 1 < len(parts) and parts[end + 1] in _DENIALS and clause[end + 1] == clause[end]
    return clause[end - 1] in asked and follower == "no"


def _mentions(parsed: _Parsed, needle: tuple[str, ...]) -> Iterator[int]:
    """Places at which the words of `needle` stand in a text."""
    sought, place, index = f" {' '.join(needle)} ", -1, 0
    while (found := parsed.joined.find(sought, place + 1)) >= 0:
        index += parsed.joined.count(" ", max(place, 0), found)
        place = found
        yield index


def holds(answer: str, value: str) -> bool:
    """Whether `answer` holds `value`: as whole words, whatever the case, at least once without being negated.

    Args:
        answer: Any text.
        value: One or several words; leading articles do not count.

    Returns:
        True where the value is held. "not a cat", "no cat" and "does not have a cat" do not hold "cat".
    """
    needle = value_words(value)
    parsed = _parse(answer)
    if not needle or f" {' '.join(needle)} " not in parsed.joined:
        return False
    if not parsed.negation:
        return True
    clauses = _clauses(answer)
    return any(not _negated_at(parsed.words, clauses, i, i + len(needle)) for i in islice(_mentions(parsed, needle), _MOST_MENTIONS))


_Spellings = Mapping[tuple[str, ...], tuple[str, ...]]


@cached_by_size(_CACHE)
def _by_first_word(values: tuple[str, ...]) -> Mapping[str, tuple[tuple[int, _Spellings], ...]]:
    """Values by their first word and their number of words, longest first; values of one spelling stand together."""
    table: dict[str, dict[int, dict[tuple[str, ...], tuple[str, ...]]]] = {}
    for value in values:
        if needle := value_words(value):
            spellings = table.setdefault(needle[0], {}).setdefault(len(needle), {})
            spellings[needle] = (*spellings.get(needle, ()), value)
    return {first: tuple(sorted(sizes.items(), key=lambda pair: -pair[0])) for first, sizes in table.items()}


def named(answer: str, values: tuple[str, ...]) -> frozenset[str]:
    """Which of `values` the answer names without negating them; where one stands inside another, the longest counts.

    Args:
        answer: Any text.
        values: Known values; hand in the same tuple again and again, its index is cached.

    Returns:
        The named values, spelt as in `values`.
    """
    table = _by_first_word(values)
    parsed = _parse(answer)
    parts = parsed.words
    if table.keys().isdisjoint(parts):
        return frozenset()
    clauses = _clauses(answer) if parsed.negation else None
    found: set[str] = set()
    position = 0
    while position < len(parts):
        step = 1
        for size, spellings in table.get(parts[position], ()):
            if spelt := spellings.get(parts[position : position + size]):
                step = size
                if clauses is None or not _negated_at(parts, clauses, position, position + size):
                    found.update(spelt)
                break
        position += step
    return frozenset(found)


@cached_by_size(_CACHE)
def says_unknown(answer: str) -> bool:
    """Whether `answer` says that it does not know, or was never told, what is asked."""
    text = _CONTRACTION.sub(lambda match: f"{match[1] or ('will' if match[2] == 'wo' else match[2])} not", _spelt(answer))
    return _UNKNOWN.search(" ".join(_WORD.findall(text))) is not None


def attribute_of(key: str) -> str:
    """Returns the attribute of a key: the part after the last dot ("mia.ball.colour" -> "colour")."""
    return key.rpartition(".")[2]


@cached_by_size(_CACHE)
def entity_words(key: str) -> frozenset[str]:
    """Returns the words of the entity of a key ("old_tom.pet" -> {"old", "tom"})."""
    return frozenset(_parse(key.rpartition(".")[0].replace(".", " ")).words)


def attribute_values(conversations: Iterable[Conversation]) -> dict[str, tuple[str, ...]]:
    """All values that any conversation tells, by attribute.

    Args:
        conversations: The whole data set: the rivals of a value come from here.

    Returns:
        For each attribute its distinct values, sorted.
    """
    found: dict[str, set[str]] = {}
    for conversation in conversations:
        for interaction in conversation.interactions:
            for key, value in interaction.facts:
                found.setdefault(attribute_of(key), set()).add(value)
    return {attribute: tuple(sorted(values)) for attribute, values in sorted(found.items())}


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """The values without those that an earlier one spells with the same words ("cat", "Cat", "a cat")."""
    found: dict[tuple[str, ...], str] = {}
    for value in values:
        found.setdefault(value_words(value), value)
    return tuple(found.values())


@cached_by_size(_CACHE)
def rivals_of(value: str | None, values: tuple[str, ...], aliases: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns `values` without `value` and its `aliases`, compared as words."""
    own = {value_words(each) for each in (*((value,) if value is not None else ()), *aliases)}
    return tuple(each for each in values if value_words(each) not in own)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a follow-up asks for, given what was written before it.

    Attributes:
        asking: The query asks for something that memory must supply.
        expected: The right value of each asked key.
        aliases: Other right answers by key, `"*"` for the answer as a whole.
        rivals: Other known values of the same attribute, by asked key.
        told_rivals: Values of the same attribute that were told of others, by asked key; keys without any are left out.
        unknown: What is asked was never told.
        distance: Turns since the last exposure (largest of several); None where not defined.
        saved: Indices of the earlier interactions that hold what is asked for (0 = first interaction), ascending.
        asks_known: False where rewards must fall back on content words.
    """

    asking: bool
    saved: tuple[int, ...]
    expected: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told_rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: bool = False
    distance: int | None = None
    asks_known: bool = True


@dataclass(slots=True)
class _Told:
    value: str
    aliases: tuple[str, ...]
    told_at: int
    exposed_at: int | None


class FactTracker:
    """Follows one episode: which facts were told, overwritten and exposed, and what each follow-up asks for.

    Interactions are written in order, beginning with the first one (index 0), each as it went into memory.

    Args:
        values: Known values by attribute, from `attribute_values` over the whole data set.
    """

    def __init__(self, values: Mapping[str, tuple[str, ...]]) -> None:
        self._values = values
        self._told: dict[str, _Told] = {}
        self._heard: dict[str, list[tuple[str, str]]] = {}
        self._written: list[tuple[str, str]] = []

    def write(self, interaction: Interaction, answer: str, thought: str = "") -> None:
        """Notes that `interaction` was written with `answer` (the reference or a generated answer), and a thought before it."""
        index = len(self._written)
        self._written.append((heard(interaction), answer))
        self._note_told(interaction, answer, index)
        # What is thought is written too: a fact that it names is as fresh in memory as one that the answer names.
        self._note_exposed(interaction, f"{thought} {answer}" if thought else answer, index)

    def _note_told(self, interaction: Interaction, answer: str, index: int) -> None:
        for key, value in interaction.facts:
            lost = answer != interaction.answer and _only_in(value, interaction.answer, heard(interaction), answer)
            before = self._told.get(key)
            kept = before is not None and value_words(before.value) == value_words(value)
            if lost and before is not None and kept:
                continue
            self._told[key] = _Told(value, tuple(interaction.aliases.get(key, ())), index, None if lost else index)
            if not lost:
                self._heard.setdefault(attribute_of(key), []).append((key, value))

    def _note_exposed(self, interaction: Interaction, answer: str, index: int) -> None:
        about = None
        for key, told in self._told.items():
            if told.exposed_at == index or not (holds(answer, told.value) or any(holds(answer, alias) for alias in told.aliases)):
                continue
            if key not in (interaction.asks or ()):
                about = about or {*words(heard(interaction)), *words(answer)}
                # A key without an entity is about the conversation as a whole: the value alone exposes it.
                if not entity_words(key) <= about:
                    continue
            told.exposed_at = index

    def ask(self, interaction: Interaction) -> Asked:
        """What `interaction`, said after those written so far, asks for."""
        turn = len(self._written)
        if interaction.asks is None:
            return self._ask_by_content(interaction, turn)
        if not interaction.asks:
            return Asked(asking=False, saved=(turn - 1,), aliases=interaction.aliases)
        if interaction.unknown:
            rivals = {key: self._values.get(attribute_of(key), ()) for key in interaction.asks}
            return Asked(asking=True, saved=(turn - 1,), aliases=interaction.aliases, rivals=rivals, unknown=True)
        return self._ask_by_key(interaction, interaction.asks, turn)

    @property
    def in_force(self) -> dict[str, str]:
        """The values that are right now, by key, of all facts that stand in what was written."""
        return {key: told.value for key, told in self._told.items() if told.exposed_at is not None}

    def told(self, key: str) -> bool:
        """Whether a fact of this key was told so far."""
        return key in self._told

    def _ask_by_key(self, interaction: Interaction, asks: tuple[str, ...], turn: int) -> Asked:
        told = {key: self._told[key] for key in asks if key in self._told}
        if not told:
            return self._ask_by_content(interaction, turn)
        aliases = {key: (*each.aliases, *interaction.aliases.get(key, ())) for key, each in told.items()}
        whole = tuple(interaction.aliases.get("*", ()))
        rivals = {
            key: rivals_of(each.value, self._values.get(attribute_of(key), ()), (*aliases[key], *whole)) for key, each in told.items()
        }
        others = {key: self._told_of_others(key, (each.value, *aliases[key], *whole)) for key, each in told.items()}
        exposures = [each.exposed_at for each in told.values()]
        return Asked(
            asking=True,
            saved=tuple(sorted({each.told_at for each in told.values()})),
            expected={key: each.value for key, each in told.items()},
            aliases={**{key: names for key, names in aliases.items() if names}, **({"*": whole} if whole else {})},
            rivals=rivals,
            told_rivals={key: values for key, values in others.items() if values},
            distance=None if None in exposures else max(turn - at for at in exposures if at is not None),
        )

    def _told_of_others(self, key: str, right: Iterable[str]) -> tuple[str, ...]:
        """Values of the attribute of `key` that were told of others, current or not, and are not `right`."""
        own = {value_words(each) for each in right}
        heard = distinct(value for other, value in self._heard.get(attribute_of(key), ()) if other != key)
        return tuple(value for value in heard if value_words(value) not in own)

    def _ask_by_content(self, interaction: Interaction, turn: int) -> Asked:
        last = last_exposures(interaction, self._written)
        previous = Asked(asking=False, saved=(turn - 1,), aliases=interaction.aliases, asks_known=False)
        if not last:
            return previous
        indices = tuple(sorted(set(last.values())))
        return Asked(asking=True, saved=indices, aliases=interaction.aliases, distance=turn - indices[0], asks_known=False)


def last_exposures(interaction: Interaction, written: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Where the content words that a row without `asks` asks for were last exposed.

    Args:
        interaction: The follow-up; its reference answer says which words matter.
        written: (query, answer) of the earlier interactions, as they were written into memory, oldest first.

    Returns:
        For each content word of the reference that is not in the query and occurs in an earlier interaction: the
        index of the last one that holds it.
    """
    wanted = content_words(interaction.answer) - content_words(heard(interaction))
    found: dict[str, int] = {}
    # A user who reacts has no reference, so there is nothing to look for.
    for index, (query, answer) in enumerate(written if wanted else ()):
        found.update(dict.fromkeys(wanted & (content_words(query) | content_words(answer)), index))
    return found


def _only_in(value: str, reference: str, query: str, answer: str) -> bool:
    """True where a fact was told by the reference answer alone, and the answer that was written leaves it out."""
    return holds(reference, value) and not holds(query, value) and not holds(answer, value)
