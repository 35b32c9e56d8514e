"""Caches that huge texts cannot fill without bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rxrl.caching import SizedCache, cached_by_size, size_of

MOST = 1000


def held(cache: SizedCache[int, int], sizes: dict[int, int]) -> int:
    return sum(sizes[key] for key in cache)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 700)), max_size=60))
def test_it_never_holds_more_than_it_may_and_forgets_nothing_wrongly(steps: list[tuple[int, int]]) -> None:
    sizes = dict(reversed(steps))
    cache: SizedCache[int, int] = SizedCache(MOST)
    for key, _ in steps:
        found = cache.get(key, sizes[key])
        assert found in (None, key + 100)
        if found is None:
            cache.put(key, key + 100, sizes[key])
            assert (cache.get(key, sizes[key]) == key + 100) == (2 * sizes[key] <= MOST)
        assert held(cache, sizes) <= MOST


def test_what_is_used_stays() -> None:
    calls: list[str] = []

    @cached_by_size(20_000)
    def upper(text: str) -> str:
        calls.append(text)
        return text.upper()

    for number in range(1000):
        assert upper("often") == "OFTEN"
        assert upper(f"once {number}") == f"ONCE {number}"
    assert calls.count("often") == 1
    assert len(calls) == 1001
    assert len(upper.cache) < 20_000 / size_of("once 0")


def test_a_text_that_is_too_large_is_computed_anew_and_takes_no_place() -> None:
    calls: list[int] = []

    @cached_by_size(1000)
    def length(text: str, more: tuple[str, ...]) -> int:
        calls.append(len(text))
        return len(text) + len(more)

    assert [length("x" * size, ("y",)) for size in (10, 10_000, 10, 10_000)] == [11, 10_001, 11, 10_001]
    assert calls == [10, 10_000, 10_000]
    assert len(length.cache) == 1
