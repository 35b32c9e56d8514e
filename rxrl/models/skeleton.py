"""A model without weights: its shapes, for reading checkpoints and for counting parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rxrl.models.config import ModelConfig
from rxrl.models.network import ReactiveNetwork

M = TypeVar("M", bound=ReactiveNetwork)

_FILLS = frozenset((
    *(nn.init.normal_, nn.init.uniform_, nn.init.constant_, nn.init.kaiming_uniform_),
    *(Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_),
))  # fmt: skip
_SHAPES: dict[Callable[..., Any], Callable[..., Sequence[int]]] = {
    torch.linspace: lambda start, end, steps: (steps,),
    Tensor.clone: lambda tensor: tensor.shape,
    Tensor.mean: lambda vector, axis: (1,),
}
"""Shapes of what initial values are computed from."""


def skeleton(kind: type[M], config: ModelConfig) -> M:
    """A model on the device "meta", which allocates nothing.

    Args:
        kind: The class of the model.
        config: Its sizes.
    """
    with torch.device("meta"), _Unfilled():
        return kind(config)


class _Unfilled(TorchFunctionMode):
    """Leaves initial values out: there are none on "meta", where torch would import its compiler, for seconds, to compute them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _FILLS:
            return args[0] if args else (kwargs or {})["tensor"]
        if func in _SHAPES:
            return torch.empty(_SHAPES[func](*args))
        return func(*args, **(kwargs or {}))
