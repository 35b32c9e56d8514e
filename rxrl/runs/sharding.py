"""Weights divided among processes (FSDP2): between steps each holds a part of every parameter, its gradient and its optimizer state.

The whole model is one unit. Losses call layers, norms and heads outside the `forward` of the layer that they belong to, so units of
single layers would be met divided there. While it computes, a process therefore holds all weights.

torch takes a second to import what divides tensors, so only what divides them imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rxrl.models import ReactiveTransformer
from rxrl.models.skeleton import skeleton
from rxrl.runs.processes import Processes


def shard(model: nn.Module, processes: Processes) -> None:
    """Divides the weights of a model among the processes, in place; it computes through its `forward` alone from now on."""
    from torch.distributed.device_mesh import init_device_mesh  # noqa: PLC0415
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415

    fully_shard(model, mesh=init_device_mesh(processes.device.type, (processes.count,)))


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights of a model are divided."""
    return hasattr(model, "unshard")


def is_divided(value: Any) -> bool:
    """Whether a value is a tensor of which this process holds a part."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def gathered_model(model: ReactiveTransformer) -> ReactiveTransformer:
    """A model with all weights: itself, or a copy of one whose weights are divided; all processes must ask for it."""
    if not is_sharded(model):
        return model
    # FSDP2 gives the model a class of its own, below FSDPModule and the one that it had.
    kind: type[ReactiveTransformer] = type(model).__bases__[1]
    found = skeleton(kind, model.config)
    found.load_state_dict({name: gathered(value) for name, value in model.state_dict().items()}, assign=True)
    return found


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Replaces the weights of a model, divided or not, by whole ones of the same names."""
    if not is_sharded(model):
        model.load_state_dict(weights)
        return
    for name, parameter in model.named_parameters():
        copy_into(parameter, weights[name])


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Replaces the state of an optimizer, over weights that are divided or not, by a whole one."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = divided_like(value, parameter)


def freeze_alike(model: Any) -> None:
    """Lets the weights that a divided model computes with learn where its parameters do: FSDP2 looks at that only once."""
    learns = [parameter.requires_grad for parameter in model.parameters()]
    model.unshard()
    for parameter, flag in zip(model.parameters(), learns, strict=True):
        parameter.requires_grad_(flag)
    model.reshard()


def gathered(value: Any) -> Any:
    """Values in which no tensor is divided; all processes must ask for them."""
    if is_divided(value):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: gathered(each) for key, each in value.items()}
    return value


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which all processes have, divided as another one is."""
    if not is_divided(other) or is_divided(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415

    assert isinstance(other, DTensor), "only these are divided"
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def copy_into(target: Tensor, source: Tensor) -> None:
    """Replaces the values of a tensor, divided or not."""
    target.copy_(divided_like(source.to(target.device), target))
