"""What the model computes on a GPU is what it computes on a CPU, with its gradients, in every precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from rxrl.models import ReactiveTransformer
from rxrl.types import TokenBatch
from tests.gpu.parts import GPU, PRESETS, awake, batch_of, flat, gap, memory_for, placed
from tests.models.test_compile import BF16_TOLERANCE

FLOAT32_TOLERANCE = 1e-4
WRITES = 3


def computed(
    model: ReactiveTransformer, batch: TokenBatch, stm: Tensor, precision: AbstractContextManager[None] | None = None
) -> dict[str, Tensor]:
    """Encoded data and logits of real tokens, and memory after some writes; that of the row without tokens counts too."""
    with precision or nullcontext():
        encoded = model.encode(batch.ids, batch.mask, stm if model.encoder.reads_memory else None)
        for _ in range(WRITES):
            stm = model.write_memory(stm, batch.ids, batch.mask)
        logits = model.decode(batch.ids, batch.mask, stm)
    return {"encoded": encoded[:, batch.mask], "memory": stm, "logits": logits[batch.mask]}


def gradients(model: ReactiveTransformer, results: dict[str, Tensor]) -> Tensor:
    """Of a loss to which every result adds about as much."""
    draws = torch.Generator().manual_seed(5)
    weights = [torch.randn(each.shape, generator=draws).to(each.device) for each in results.values()]
    loss = sum((each.to(weight.dtype) * weight).mean() for each, weight in zip(results.values(), weights, strict=True))
    trained = [p for name, p in model.named_parameters() if not name.startswith("mlm_head")]
    found = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
    return flat(found)


@pytest.mark.parametrize("preset", PRESETS)
def test_float32_computes_what_float64_does_on_a_cpu(preset: str):
    model, batch = awake(preset), batch_of()
    exact = placed(model, "cpu", torch.float64)
    stm = memory_for(model, len(batch.ids))
    expected = computed(exact, batch, stm.double())
    here = placed(model)
    found = computed(here, batch.to(GPU), stm.to(GPU))
    assert {each.device.type for each in found.values()} == {"cuda"}
    for name, value in expected.items():
        assert gap(found[name], value) < FLOAT32_TOLERANCE, name
    assert gap(gradients(here, found), gradients(exact, expected)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("way", ["converted", "mixed precision"])
def test_bfloat16_stays_near_float32(preset: str, way: str):
    model, batch = awake(preset), batch_of().to(GPU)
    wide = placed(model)
    stm = memory_for(wide, len(batch.ids))
    expected = computed(wide, batch, stm)
    if way == "converted":
        narrow = placed(model, dtype=torch.bfloat16)
        found = computed(narrow, batch, stm.bfloat16())
        assert {each.dtype for each in found.values()} == {torch.bfloat16}
    else:
        narrow = placed(model)
        found = computed(narrow, batch, stm, Accelerator(mixed_precision="bf16").autocast())
        assert found["memory"].dtype == torch.float32
    for name, value in expected.items():
        assert 0 < gap(found[name], value) < BF16_TOLERANCE, name
    assert gap(gradients(narrow, found), gradients(wide, expected)) < 4 * BF16_TOLERANCE


def test_encoded_data_with_padding_serves_as_memory():
    model, batch = awake("pico"), batch_of((9, 5, 7), empty=False)
    exact = placed(model, "cpu", torch.float64)
    expected = exact.decode(batch.ids, batch.mask, exact.encode(batch.ids, batch.mask), batch.mask)
    here, there = placed(model), batch.to(GPU)
    found = here.decode(there.ids, there.mask, here.encode(there.ids, there.mask), there.mask)
    assert gap(found[there.mask], expected[batch.mask]) < FLOAT32_TOLERANCE


def test_padding_changes_no_real_token_and_no_memory():
    model, batch = placed(awake("pico"), dtype=torch.float64), batch_of((9, 5, 7), empty=False)
    wider = TokenBatch.pad([*batch.rows(), [9] * 30])
    stm = memory_for(model, 4)
    written = model.write_memory(stm[:, :3], *(each.to(GPU) for each in (batch.ids, batch.mask)))
    together = model.write_memory(stm, *(each.to(GPU) for each in (wider.ids, wider.mask)))
    assert gap(together[:, :3], written) < 1e-12


def test_a_checkpoint_goes_from_one_device_to_the_other(tmp_path):
    model = placed(awake("pico"))
    model.save_pretrained(tmp_path)
    again = ReactiveTransformer.from_pretrained(tmp_path)
    assert again.device.type == "cpu"
    assert all(torch.equal(value.cpu(), again.state_dict()[name]) for name, value in model.state_dict().items())
