"""Caches that huge texts cannot fill without bound."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rxrl.caching import DiskCache, SizedCache, cached_by_size, size_of
from rxrl.errors import ConfigError

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


def test_a_file_keeps_the_first_value_of_a_key_and_the_newest_keys_within_its_bound(tmp_path: Path) -> None:
    file = tmp_path / "some" / "kept.sqlite"
    with closing(DiskCache(file, "Words", "words", "text TEXT", most=1 << 16)) as cache:
        keys = [cache.key("word", number) for number in range(200)]
        for number, key in enumerate(keys):
            cache.put(key, f"{number} " + 1000 * "x")
        cache.put(keys[-1], "another")
        assert cache.get(keys[-1]) == "199 " + 1000 * "x"
        assert cache.get(keys[0]) is None
        assert sum(cache.get(key) is not None for key in keys) > 20
    assert file.stat().st_size <= (1 << 16) + (1 << 14)
    with closing(DiskCache(file, "Words", "words", "text TEXT")) as again:
        assert again.get(keys[-1]) == "199 " + 1000 * "x"


def test_a_file_that_cannot_be_used_is_refused_and_none_keeps_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Words cannot be kept in .* choose another file with `cache`"):
        DiskCache(tmp_path, "Words", "words", "text TEXT")
    nothing = DiskCache(None, "Words", "words", "text TEXT")
    nothing.put("a", "b")
    assert nothing.get("a") is None
