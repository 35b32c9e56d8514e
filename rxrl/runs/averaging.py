"""An exponential moving average of a model's weights (EMA), kept beside them while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rxrl.runs.sharding import copy_into


class MovingAverage:
    """The exponential moving average of a model's parameters, in their own precision.

    After n updates the decay is `min(decay, (1 + n) / (10 + n))`, as TensorFlow's `ExponentialMovingAverage` has it with `num_updates`: the
    average does not stay near the weights that it began with. What does not change is averaged to itself, bit for bit.

    Args:
        model: Whose parameters are averaged; the average begins as they are now.
        decay: Share of the average that an update leaves, in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._named, self._decay = dict(model.named_parameters()), decay
        self._values = {name: parameter.detach().clone() for name, parameter in self._named.items()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Takes in the current weights.

        Args:
            number: Which update it is, from 1.
        """
        decay = min(self._decay, number / (9 + number))
        torch._foreach_lerp_(list(self._values.values()), list(self._named.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Puts the average in place of the weights, which come back at the end as they were."""
        trained = {name: parameter.detach().clone() for name, parameter in self._named.items()}
        self.take()
        try:
            yield
        finally:
            _copy(trained, self._named)

    def take(self) -> None:
        """Replaces the weights by their average."""
        _copy(self._values, self._named)

    def state(self) -> dict[str, Tensor]:
        """The average by the names of the parameters."""
        return self._values

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`."""
        _copy(state, self._values)


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        copy_into(value, source[name])
