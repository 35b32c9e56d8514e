"""Parameter groups with their own learning rate, freezing, schedules that are functions of progress, and the optimizer.

Muon (Jordan et al. 2024) on the matrices inside the network finds associative recall in a third of AdamW's steps at pico size
(measured); torch's own Muon takes two-dimensional parameters only, and our memory attention and experts are stacked.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from rxrl.config import BaseConfig
from rxrl.errors import ConfigError, unknown_name
from rxrl.runs.sharding import divided_like, gathered

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(BaseConfig):
    """Optimizer with a schedule."""

    name: Literal["muon", "adamw", "sgd"] = Field("muon", description="muon: Muon on inner matrices, AdamW on the rest; sgd: no state.")
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")
    learning_rates: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Peak by parameter group, where it differs."
    )
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[Share, Share] = Field((0.9, 0.98), description="Decay of Adam's means, of the gradient and of its square.")
    schedule: Literal["constant", "cosine", "linear"] = Field("cosine", description="Shape after the warm-up.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the run in which the rate rises from 0.")
    final: float = Field(0.05, ge=0, le=1, description="Rate at the end, as a share of the peak.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")


def schedule_factor(config: OptimizerConfig, progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1] of the run."""
    if progress < config.warmup:
        return max(1e-3, progress / config.warmup)
    rest = min(1.0, (progress - config.warmup) / (1 - config.warmup))
    shape = {"constant": 1.0, "linear": 1 - rest, "cosine": 0.5 * (1 + math.cos(math.pi * rest))}[config.schedule]
    return config.final + (1 - config.final) * shape


class GroupOptimizer(torch.optim.Optimizer):
    """The rule of each group: Muon, AdamW or plain gradient descent; one state dict for all.

    Muon replaces the momentum of a matrix by its nearest semi-orthogonal matrix (Newton-Schulz iteration), scaled so that the update has
    the root mean square of AdamW's (Liu et al. 2025), so that both rules share one learning rate. Leading axes are stacks of matrices.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "rule": "adamw"})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not supported."""
        if closure is not None:
            raise ValueError("this optimizer takes no closure")
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            if group["rule"] == "muon":
                self._muon(parameters, group)
            elif group["rule"] == "adamw":
                self._adam(parameters, group)
            else:
                torch._foreach_add_(parameters, [_grad(p) for p in parameters], alpha=-group["lr"])

    def forget_direction(self) -> None:
        """Clears the running means of gradients; those of their squares, which hold the scale of a step, stay."""
        for state in self.state.values():
            for name in state.keys() & {"momentum", "mean"}:
                state[name].zero_()

    def _muon(self, parameters: list[Tensor], group: dict[str, Any], momentum: float = 0.95) -> None:
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for p in parameters:
            by_shape[(p.shape[-2], p.shape[-1])].append(p)
        for shape, same in by_shape.items():
            updates = []
            for p in same:
                state = self.state[p]
                average = state.setdefault("momentum", torch.zeros_like(p))
                average.lerp_(_grad(p), 1 - momentum)
                updates.append(gathered(_grad(p).lerp(average, momentum)).reshape(-1, *shape))
            orthogonal = torch.split(orthogonalise(torch.cat(updates)), [len(update) for update in updates])
            for p, update in zip(same, orthogonal, strict=True):
                p.add_(divided_like(update.view(p.shape), p), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _adam(self, parameters: list[Tensor], group: dict[str, Any], eps: float = 1e-8) -> None:
        first, second = group["betas"]
        means, squares, steps = [], [], []
        for p in parameters:
            state = self.state[p]
            if not state:
                state["mean"], state["square"], state["step"] = torch.zeros_like(p), torch.zeros_like(p), torch.zeros(())
            state["step"] += 1
            means.append(state["mean"])
            squares.append(state["square"])
            steps.append(state["step"].item())
        grads = [_grad(p) for p in parameters]
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, 1 - second)
        for p, mean, square, step in zip(parameters, means, squares, steps, strict=True):
            denominator = (square / (1 - second**step)).sqrt_().add_(eps)
            p.addcdiv_(mean, denominator, value=-group["lr"] / (1 - first**step))


def _grad(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        raise AssertionError("only parameters with a gradient are updated")
    return parameter.grad


def orthogonalise(matrices: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrices of a stack `[..., rows, columns]`, about: five quintic Newton-Schulz iterations."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon serves a parameter: matrices between hidden states; not embeddings, heads, gates, routers, norms and biases."""
    outer = ("embedding", "head.", "mlm_head.decoder", "gate", "norm", "router", "bias", "initial_memory", ".b1", ".b2", "turn.", "steps.")
    return parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1 and not any(part in name for part in outer)


def check_groups(config: OptimizerConfig, groups: Collection[str]) -> None:
    """Refuses a learning rate for a group that does not exist with a `ConfigError`."""
    for group in config.learning_rates:
        if group not in groups:
            raise ConfigError(f"learning_rates: {unknown_name('parameter group', group, groups)}")


def make_optimizer(groups: Mapping[str, Collection[tuple[str, nn.Parameter]]], config: OptimizerConfig) -> GroupOptimizer:
    """Optimizer over named groups of named parameters; each group keeps its `name` and `peak` learning rate.

    Raises:
        ConfigError: A learning rate is given for a group that does not exist.
    """
    check_groups(config, groups)
    parts: list[dict[str, Any]] = []
    for group, named in groups.items():
        peak = config.learning_rates.get(group, config.learning_rate)
        muon = [p for name, p in named if config.name == "muon" and is_inner_matrix(name, p)]
        chosen = {id(p) for p in muon}
        rest = [p for _, p in named if id(p) not in chosen]
        parts += [{"params": muon, "name": group, "peak": peak, "rule": "muon"}] if muon else []
        rule = "sgd" if config.name == "sgd" else "adamw"
        parts += [{"params": rest, "name": group, "peak": peak, "rule": rule}] if rest else []
    return GroupOptimizer(parts, config.learning_rate, config.betas, config.weight_decay)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float, peaks: Mapping[Any, float] | None = None) -> None:
    """Sets each group's rate to its peak (or that of `peaks`) times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = (peaks or {}).get(group["name"], group["peak"]) * factor


def train_only(groups: Mapping[str, Collection[tuple[str, nn.Parameter]]], trained: Collection[str]) -> None:
    """Unfreezes the named groups and freezes the others; frozen ones lose their gradient, optimizer state stays."""
    for name, parameters in groups.items():
        for _, parameter in parameters:
            parameter.requires_grad_(name in trained)
            if name not in trained:
                parameter.grad = None
