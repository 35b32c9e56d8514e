"""Thousands of resets leave nothing behind; `python -m tests.benchmarks.soak` does the same a million times."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from tests.benchmarks.soak import environment, soak


@pytest.mark.slow
def test_resets_leave_nothing_behind() -> None:
    env = environment()
    # So many that every conversation was played and every cache has seen what there is.
    soak(env, 2000)
    gc.collect()
    tracemalloc.start()
    try:
        soak(env, 500)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        soak(env, 1500)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
