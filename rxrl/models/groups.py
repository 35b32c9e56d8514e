"""Groups of parameters with their own learning rate and freezing: each module declares the group that it belongs to."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from rxrl.types import PARAMETER_GROUPS

M = TypeVar("M", bound=nn.Module)


def in_group(name: str, module: M) -> M:
    """Puts a module, and what lies in it and declares no other group, into a group of `PARAMETER_GROUPS`; returns the module."""
    assert name in PARAMETER_GROUPS, f"unknown parameter group {name!r}"
    module.__dict__["parameter_group"] = name
    return module


def grouped_parameters(model: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Named parameters of a model by group, in the order of `named_parameters`."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in PARAMETER_GROUPS}
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        group = module.__dict__.get("parameter_group") or found[path.rpartition(".")[0]]
        found[path] = group
        groups[group] += module.named_parameters(path, recurse=False)
    return groups
