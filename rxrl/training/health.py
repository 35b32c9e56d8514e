"""How the memory is while it is written: how much a write changes it, and how open its gates are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rxrl.algorithms.advantages import Reduce
from rxrl.models import ReactiveTransformer


class MemoryWatch:
    """Notes every write of a model; rows without tokens, past the end of their episode, do not count.

    Attributes:
        rows: Rows written, a 0-dimensional tensor.
        drift: Sum over them of the mean squared change of memory.
        openness: Sum over them of the mean gate value in [0, 1].
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rows = self.drift = self.openness = torch.zeros((), device=device)
        self._real = torch.zeros(0, device=device)

    @contextmanager
    def on(self, model: ReactiveTransformer, active: bool = True) -> Iterator[MemoryWatch]:
        """Watches the writes that are made inside, where `active`."""
        hooks = (
            []
            if not active
            else [
                model.memory_attention.register_forward_pre_hook(self._begin, with_kwargs=True),
                model.memory_attention.gate.register_forward_pre_hook(self._gate),
                model.memory_attention.register_forward_hook(self._end),
            ]
        )
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _begin(self, module: Any, inputs: Any, named: Any) -> None:
        stm, told = inputs
        self._real = torch.ones_like(stm[0, :, 0, 0]) if told.mask is None else told.mask.any(1).to(stm.dtype)

    @torch.no_grad()
    def _gate(self, gate: Any, inputs: Any) -> None:
        opened: Tensor = gate.openness(*inputs).mean(dim=(0, 2))
        self.openness = self.openness + (opened * self._real).sum()

    @torch.no_grad()
    def _end(self, module: Any, inputs: Any, written: Tensor) -> None:
        change = (written - inputs[0]).pow(2).mean(dim=(0, 2, 3))
        self.rows = self.rows + self._real.sum()
        self.drift = self.drift + (change * self._real).sum()

    def metrics(self, reduce: Reduce) -> dict[str, Tensor]:
        """Mean drift and openness of a write.

        Args:
            reduce: Mean over processes.
        """
        rows, drift, openness = reduce(torch.stack([self.rows, self.drift, self.openness])).unbind()
        return {"memory_drift": drift / rows.clamp(min=1e-9), "gate_openness": openness / rows.clamp(min=1e-9)}
