"""What is hot compiles into one graph with the compiler that makes kernels for the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from rxrl.models import ReactiveTransformer
from tests.gpu.parts import GPU, awake, batch_of, flat, gap, memory_for, placed

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return torch.compile(function, fullgraph=True, backend="inductor")


def model_of(dtype: torch.dtype) -> ReactiveTransformer:
    """One layer is enough: more only take longer to compile."""
    return placed(awake("pico", layers=1), dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_encoder_compiles(dtype: torch.dtype):
    model, batch = model_of(dtype), batch_of().to(GPU)
    with torch.no_grad():
        found, expected = (encode(batch.ids, batch.mask) for encode in (compiled(model.encode), model.encode))
    assert gap(found[:, batch.mask], expected[:, batch.mask]) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_memory_update_compiles(dtype: torch.dtype):
    model, batch = model_of(dtype), batch_of().to(GPU)
    stm = memory_for(model, len(batch.ids))
    with torch.no_grad():
        encoded = model.encode(batch.ids, batch.mask)
        found, expected = (update(stm, encoded, batch.mask) for update in (compiled(model.update_memory), model.update_memory))
    assert gap(found, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_decode_step_compiles(dtype: torch.dtype):
    model, ids = model_of(dtype), batch_of((6, 6, 6), empty=False).ids.to(GPU)
    stm = memory_for(model, 3)

    def stepped(step: Callable[..., Tensor]) -> Tensor:
        embedded, memory = model.embedding(ids), model.decoder.project_memory(stm)
        caches = model.decoder.new_cache(3, 6, embedded)
        model.decoder.step(embedded[:, :5], torch.arange(5, device=GPU), memory, caches, None)
        return step(embedded[:, 5:], torch.full((3, 1), 5, device=GPU), memory, caches, None)

    with torch.no_grad():
        found, expected = stepped(compiled(model.decoder.step)), stepped(model.decoder.step)
    assert gap(found, expected) < TOLERANCE[dtype]


def test_a_write_compiles_with_its_gradients():
    model, batch = model_of(torch.float32), batch_of().to(GPU)
    stm = memory_for(model, len(batch.ids))
    trained = [*model.encoder.parameters(), *model.memory_attention.parameters()]

    def gradients(write: Callable[..., Tensor]) -> Tensor:
        return flat(torch.autograd.grad(write(stm, batch.ids, batch.mask).square().mean(), trained))

    assert gap(gradients(compiled(model.write_memory)), gradients(model.write_memory)) < TOLERANCE[torch.float32]
