from __future__ import annotations

import pytest
import torch

from rxrl.errors import ModelError
from rxrl.memory import drift, reset_rows, swap

LAYERS, BATCH, SLOTS, DIM = 2, 4, 3, 5


def memory(seed: int) -> torch.Tensor:
    return torch.randn(LAYERS, BATCH, SLOTS, DIM, generator=torch.Generator().manual_seed(seed))


def test_reset_takes_exactly_the_rows_and_leaves_the_original() -> None:
    stm, fresh = memory(0).requires_grad_(), memory(1).requires_grad_()
    before = stm.detach().clone()
    rows = torch.tensor([True, False, True, False])
    result = reset_rows(stm, rows, fresh)
    assert torch.equal(result[:, rows], fresh[:, rows])
    assert torch.equal(result[:, ~rows], stm[:, ~rows])
    assert torch.equal(stm, before)
    result.sum().backward()
    assert torch.equal(stm.grad[0, :, 0, 0], (~rows).float())
    assert torch.equal(fresh.grad[0, :, 0, 0], rows.float())


def test_reset_shields_kept_rows_from_values_that_are_not_finite() -> None:
    fresh = torch.full((LAYERS, BATCH, SLOTS, DIM), float("nan"))
    rows = torch.tensor([False, True, False, False])
    assert torch.isfinite(reset_rows(memory(0), rows, fresh)[:, ~rows]).all()


def test_drift_is_the_mean_square_by_row() -> None:
    before = memory(0)
    after = before + torch.arange(BATCH).view(1, BATCH, 1, 1)
    assert torch.allclose(drift(before, after), torch.tensor([0.0, 1.0, 4.0, 9.0]), atol=1e-5)
    assert torch.allclose(drift(before, after, torch.tensor([False, True, False, True])), torch.tensor([1.0, 9.0]), atol=1e-5)
    assert drift(before.bfloat16(), after.bfloat16()).dtype == torch.float32
    assert drift(before.double(), after.double()).dtype == torch.float64


def test_swap_moves_rows_and_is_undone_by_its_inverse() -> None:
    stm, permutation = memory(0), torch.tensor([2, 0, 3, 1])
    swapped = swap(stm, permutation)
    assert torch.equal(swapped[:, 0], stm[:, 2])
    assert torch.equal(swap(swapped, permutation.argsort()), stm)


@pytest.mark.parametrize(
    "call",
    [
        lambda: reset_rows(memory(0)[0], torch.zeros(BATCH, dtype=torch.bool), memory(1)[0]),
        lambda: reset_rows(memory(0), torch.zeros(BATCH), memory(1)),
        lambda: reset_rows(memory(0), torch.zeros(BATCH + 1, dtype=torch.bool), memory(1)),
        lambda: reset_rows(memory(0), torch.zeros(BATCH, dtype=torch.bool), memory(1)[:, :1]),
        lambda: drift(memory(0), memory(1)[:, :1]),
        lambda: swap(memory(0), torch.tensor([0, 0, 1, 2])),
        lambda: swap(memory(0), torch.tensor([0, 1, 2])),
    ],
)
def test_what_does_not_fit_is_refused(call: object) -> None:
    with pytest.raises(ModelError, match=r"[Ee]xpected"):
        call()  # type: ignore[operator]
