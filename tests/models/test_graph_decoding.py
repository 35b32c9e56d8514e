"""Steps that are captured once and replayed: what a GPU does, with a stand-in for the CUDA graph itself, which needs a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rxrl.models import ModelConfig
from rxrl.models.cuda_graph import GraphMemory
from rxrl.models.generation import decoding
from rxrl.types import TokenBatch
from tests.models.small import config, configs, generators, memory_of, model_of, padded, prompts


class Rerun:
    """Has what a CUDA graph has: inputs of one shape, the same output tensor at every replay, and no step of Python's own between."""

    made = 0

    def __init__(self, memory: GraphMemory, work: Callable[..., Tensor], *inputs: Tensor) -> None:
        type(self).made += 1
        self._work, self._inputs, self._output = work, [torch.full_like(each, 0) for each in inputs], torch.empty_like(inputs[0])

    def __call__(self, *inputs: Tensor) -> Tensor:
        for place, value in zip(self._inputs, inputs, strict=True):
            assert place.shape == value.shape
            place.copy_(value)
        return self._output.copy_(self._work(*self._inputs))


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Rerun.made = 0
    monkeypatch.setattr(decoding, "CudaGraph", Rerun)
    monkeypatch.setattr(decoding, "_can_capture", lambda *_: True)
    yield
    assert Rerun.made, "nothing was captured"


def answers(model, batch, stm, draws, **options):
    found = model.generate(batch, stm, max_new_tokens=12, generators=draws, **options)
    return TokenBatch(found.ids, found.mask).rows(), found


@pytest.mark.parametrize("free", [0, 256])
@given(shape=configs(), lengths=st.lists(st.integers(0, 9), min_size=2, max_size=6), seed=st.integers(0, 99), columns=st.integers(0, 3))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_captured_steps_give_the_same_answers(
    captures: None,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    shape: ModelConfig,
    lengths: list[int],
    seed: int,
    columns: int,
):
    model = model_of(shape, seed=seed, ends=1.0)
    stm, batch = memory_of(model, len(lengths), seed), padded(prompts(lengths, seed), columns)
    with monkeypatch.context() as plain:
        plain.setattr(decoding, "_can_capture", lambda *_: False)
        expected, whole = answers(model, batch, stm, generators(len(lengths), seed), temperature=1.3)
    with monkeypatch.context() as changed:
        changed.setattr(decoding, "_FREE_ON_GPU", free)
        ids, found = answers(model, batch, stm, generators(len(lengths), seed), temperature=1.3)
    assert ids == expected
    torch.testing.assert_close(found.raw_log_probs, whole.raw_log_probs, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.log_probs, whole.log_probs, atol=1e-10, rtol=0)


@pytest.mark.parametrize("free", [0, 256])
def test_rows_are_dropped_only_where_they_cost_something(captures: None, monkeypatch: pytest.MonkeyPatch, free: int):
    monkeypatch.setattr(decoding, "_FREE_ON_GPU", free)
    model = model_of(config(max_length=96), seed=3, ends=0.6)
    found = model.generate(prompts([2] * 40), memory_of(model, 40), max_new_tokens=60, generators=generators(40))
    useful, steps = int(found.mask.sum()), found.ids.shape[1]
    if free:
        assert Rerun.made == 1
        assert found.computed_tokens == 40 * (steps - 1)
    else:
        assert Rerun.made > 5
        assert found.computed_tokens <= 1.2 * useful
