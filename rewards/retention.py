"""`retention`, the default reward: the asked facts are the gate, form only shapes within it.

    reward = 10 * held * (0.8 + 0.2 * form)         on turns that ask for something
    reward = 10 * form                              on turns that ask for nothing

`held` is the F1 over the asked facts between the values that the answer holds and those that it should hold. What only
looks like an answer (a list of values, a loop, a copy of what was saved, an endless text, prompt markup) earns at most
a fifth of that, because a memory is not shown by saying everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from rxrl.caching import cached_by_size
from rxrl.facts import content_words, distinct, entity_words, named, normalise, says_unknown, value_words, words
from rxrl.rewards.shape import form, is_answer
from rxrl.types import Score, Turn

__all__ = ["Retention", "exact", "form", "held"]

_CACHE = 1 << 22
"""Characters of the questions whose right and false values are kept."""
_LIST = 3
"""An answer that names this many values for one asked fact (or twice as many as were asked for) is a list."""


class Retention(BaseModel):
    """The default reward: 10 * the F1 of the asked facts, shaped a little by form; 10 * form where nothing is asked.

    Terms: `held` (10 * F1 of the asked facts, None where nothing is asked), `form` (10 * form), `gate` (10, or 2 where
    the answer is none; None where nothing is asked).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: ClassVar[str] = "retention"
    needs_facts: ClassVar[bool] = True

    form_share: float = Field(0.2, ge=0, le=1, description="Share of the reward of an asking turn that form decides.")
    hack_ceiling: float = Field(0.2, ge=0, le=0.2, description="Factor on what only looks like an answer.")

    def __call__(self, turns: Sequence[Turn]) -> list[Score]:
        """One score for each turn."""
        return [self._score(turn) for turn in turns]

    def _score(self, turn: Turn) -> Score:
        shape = form(turn)
        if not turn.asks_known and not turn.reference:
            # A scenario that names neither facts nor a reference: whether this turn asks for anything is not known.
            return Score(None, {"held": None, "form": 10 * shape, "gate": None})
        if not turn.asking:
            return Score(10 * shape, {"held": None, "form": 10 * shape, "gate": None})
        share, names = _held_and_named(turn)
        gate = 1.0
        if share and (_is_list(names, turn) or not is_answer(turn)):
            gate = self.hack_ceiling
        value = 10 * share * gate * (1 - self.form_share + self.form_share * shape)
        return Score(value, {"held": 10 * share, "form": 10 * shape, "gate": 10 * gate})


def held(turn: Turn) -> float | None:
    """Retention of a turn: F1 over the asked facts between the values the answer holds and those it should hold.

    Naming another value of the same attribute is a false positive, a negated value is not held. Where what is asked was
    never told, right is saying so and naming no value. Rows without `asks` fall back on content words.

    Args:
        turn: Any turn.

    Returns:
        In [0, 1]; None on turns that ask for nothing.
    """
    return _held_and_named(turn)[0] if turn.asking else None


def exact(turn: Turn) -> float | None:
    """Retention accuracy of a turn: 1.0 where everything asked is held and nothing false is named, else 0.0.

    Args:
        turn: Any turn.

    Returns:
        1.0 or 0.0; None on turns that ask for nothing.
    """
    share = held(turn)
    return None if share is None else float(share == 1.0)


def _held_and_named(turn: Turn) -> tuple[float, int]:
    """`held`, and how many values the answer names."""
    if turn.unknown:
        return _held_unknown(turn), 0
    if turn.expected:
        return _held_values(turn)
    return _held_words(turn), 0


def _is_list(names: int, turn: Turn) -> bool:
    return names >= max(_LIST, 2 * len(turn.expected))


def _answer(turn: Turn) -> str:
    """The answer without a copy of the query in front of it: what is copied is not remembered."""
    query, answer = normalise(turn.query).strip(), normalise(turn.answer).strip()
    return answer[len(query) :] if query and answer.startswith(query) else turn.answer


def _held_unknown(turn: Turn) -> float:
    answer = _answer(turn)
    if not says_unknown(answer) and not _matches_whole(answer, turn):
        return 0.0
    values = tuple(value for values in turn.rivals.values() for value in values)
    return float(not named(answer, values) - named(turn.reference, values))


def _matches_whole(answer: str, turn: Turn) -> bool:
    return any(words(answer) == words(alias) for alias in turn.aliases.get("*", ()))


class _Targets(NamedTuple):
    values: tuple[str, ...]
    right: tuple[frozenset[str], ...]
    false: frozenset[str]


@cached_by_size(_CACHE)
def _targets(asked: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...], whole: tuple[str, ...], reference: str) -> _Targets:
    """What to look for: for each asked key the right values, and the values that are false whoever they belong to.

    A rival that is right for another asked key, that the reference itself names, or that is the name of the entity asked
    about is not false.
    """
    right = tuple(frozenset((value, *aliases, *whole)) for _, value, aliases, _ in asked)
    spelt = {value_words(value) for values in right for value in values}
    entities = frozenset().union(*(entity_words(key) for key, *_ in asked))
    rivals = distinct(rival for *_, rivals in asked for rival in rivals if value_words(rival) not in spelt)
    fair = named(reference, rivals)
    false = frozenset(rival for rival in rivals if rival not in fair and not entities.issuperset(value_words(rival)))
    return _Targets((*sorted(frozenset().union(*right)), *rivals), right, false)


def _held_values(turn: Turn) -> tuple[float, int]:
    asked = tuple((key, value, tuple(turn.aliases.get(key, ())), tuple(turn.rivals.get(key, ()))) for key, value in turn.expected.items())
    targets = _targets(asked, tuple(turn.aliases.get("*", ())), turn.reference)
    found = named(_answer(turn), targets.values)
    hits = sum(not right.isdisjoint(found) for right in targets.right)
    wrong = len(found & targets.false)
    return 2 * hits / (hits + wrong + len(targets.right)), hits + wrong


def _held_words(turn: Turn) -> float:
    """The fallback: F1 between the content words that memory had to supply and those of the answer; the best reference counts."""
    saved = frozenset().union(*(content_words(each.query) | content_words(each.answer) for each in turn.saved))
    query = content_words(turn.query)
    answer = content_words(_answer(turn)) - query
    references = (turn.reference, *turn.aliases.get("*", ()))
    return max(_words_f1(answer, content_words(reference) - query, saved, first=not i) for i, reference in enumerate(references))


def _words_f1(answer: frozenset[str], reference: frozenset[str], saved: frozenset[str], *, first: bool) -> float:
    wanted = reference & saved
    if not wanted and not first:
        wanted = reference
    # Words of the reference that memory does not hold are neither asked for nor wrong.
    given = answer - (reference - wanted)
    return 2 * len(wanted & given) / (len(wanted) + len(given)) if wanted else 0.0
