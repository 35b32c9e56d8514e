"""Several sources as one: conversations and scenarios in fixed shares, in an order that never changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from rxrl.errors import ConfigError
from rxrl.types import Scenario

Named = str | Iterable[str] | Mapping[str, float]
"""Data by name, or several with weights: what `mix_of` takes."""

T = TypeVar("T")
S = TypeVar("S", bound=Scenario)
S_co = TypeVar("S_co", bound=Scenario, covariant=True)


class _Source(Protocol[S_co]):
    def take(self, *, steps: int, strategy: str, start: int, count: int) -> Sequence[S_co]: ...


class Shares:
    """Parts each position of an endless sequence out to one of several parts, so that every beginning of it keeps their shares.

    After any number of positions each part has had its share of them, but for less than one position, and after `period` positions
    exactly. The rule is Tijdeman's for the chairman assignment problem (Discrete Mathematics 32, 1980).

    Args:
        weights: One for each part, above 0; they need not sum to 1.

    Attributes:
        period: Positions after which the order repeats.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        exact = [Fraction(str(weight)) for weight in weights]
        scale = math.lcm(*(each.denominator for each in exact))
        whole = [int(each * scale) for each in exact]
        self._weights = [each // math.gcd(*whole) for each in whole]
        self.period = sum(self._weights)
        self._had = [0] * len(self._weights)
        self._known: list[tuple[int, int]] = []

    def places(self, start: int, count: int) -> list[tuple[int, int]]:
        """The part of each of the positions `start` to `start + count - 1`, and how many positions that part had before."""
        cycles = [divmod(position, self.period) for position in range(start, start + count)]
        while len(self._known) <= max((offset for _, offset in cycles), default=-1):
            self._known.append(self._next())
        found = ((cycle, *self._known[offset]) for cycle, offset in cycles)
        return [(part, cycle * self._weights[part] + before) for cycle, part, before in found]

    def gather(self, start: int, count: int, takes: Sequence[Callable[[int, int], Sequence[T]]]) -> list[T]:
        """What the parts give for these positions, in order; `takes` are functions of `(start, count)`, called once at most."""
        places = self.places(start, count)
        given: list[Iterator[T]] = []
        for number, take in enumerate(takes):
            own = [before for part, before in places if part == number]
            given.append(iter(take(own[0], len(own)) if own else ()))
        return [next(given[part]) for part, _ in places]

    def _next(self) -> tuple[int, int]:
        position, slack = len(self._known) + 1, max(1, 2 * len(self._weights) - 2)
        behind = [weight * position - self.period * had for weight, had in zip(self._weights, self._had, strict=True)]
        due = [part for part, lag in enumerate(behind) if slack * lag >= self.period]
        # Of those that are due, the one that would fall too far behind first.
        part = min(due, key=lambda each: ((slack - 1) * self.period - slack * behind[each]) / self._weights[each])
        self._had[part] += 1
        return part, self._had[part] - 1


class MixedSource(Generic[S]):
    """An endless, index-addressable supply that mixes several: the same position always holds the same scenario.

    Args:
        parts: Sources with their weights, at least one.
    """

    def __init__(self, parts: Sequence[tuple[_Source[S], float]]) -> None:
        self._sources = [source for source, _ in parts]
        self._shares = Shares([weight for _, weight in parts])
        self._tried: set[tuple[int, str]] = set()

    def take(self, *, steps: int, strategy: str = "multi-step", start: int = 0, count: int = 1) -> list[S]:
        """The scenarios at the positions `start` to `start + count - 1`.

        Raises:
            RxrlError: One of the sources has none of that length or strategy, whichever would come first.
        """
        if (steps, strategy) not in self._tried:
            for source in self._sources:
                source.take(steps=steps, strategy=strategy, start=0, count=1)
            self._tried.add((steps, strategy))

        def taker(source: _Source[S]) -> Callable[[int, int], Sequence[S]]:
            return lambda start, count: source.take(steps=steps, strategy=strategy, start=start, count=count)

        return self._shares.gather(start, count, [taker(source) for source in self._sources])


def mixed_lists(parts: Sequence[tuple[Sequence[T], float]], count: int) -> list[T]:
    """Up to `count` of what the lists hold, by their shares; fewer where a list holds less than its share."""
    places = Shares([weight for _, weight in parts]).places(0, count)
    return [parts[part][0][before] for part, before in places if before < len(parts[part][0])]


def mix_of(given: Named) -> dict[str, float]:
    """What is mixed, with weights.

    Args:
        given: A name, names, or weights by name. A name may end in `=WEIGHT`, unless it is that of a file.

    Returns:
        Positive weights by name, at least one.

    Raises:
        ConfigError: A weight is no number or negative, a name is given twice, or nothing is left.
    """
    if isinstance(given, Mapping):
        pairs = list(given.items())
    else:
        pairs = [_weighted(each) for each in ([given] if isinstance(given, str) else given)]
    for name, weight in pairs:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise ConfigError(f"The weight of {name!r} in a mix of data must be a number of at least 0, got {weight!r}.")
    found = {name: float(weight) for name, weight in pairs if weight}
    if len(pairs) > len({name for name, _ in pairs}):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise ConfigError(f"{twice!r} is named twice in a mix of data: name it once, with a weight such as {twice}=2.")
    if not found:
        raise ConfigError("A mix of data needs at least one part with a weight above 0.")
    return found


def _weighted(text: str) -> tuple[str, float]:
    name, equals, weight = text.rpartition("=")
    if not equals or Path(text).exists():
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError:
        return text, 1.0
