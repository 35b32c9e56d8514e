"""Own episodes that went well, imitated for some iterations more: what was found once is not to be lost again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from rxrl.algorithms import AlgorithmConfig, LossResult
from rxrl.algorithms.advantages import Reduce
from rxrl.config import BaseConfig
from rxrl.models import ReactiveTransformer
from rxrl.training.replay import policy_log_probs
from rxrl.training.rollout import Rollout
from rxrl.training.signals.signal import Signal, SignalInputs

Gather = Callable[[Sequence[Any]], list[Any]]
"""Values of all processes, in the order of their ranks."""


class ImitationOptions(BaseConfig):
    """Options of `imitation`."""

    above: float = Field(9.0, ge=0, le=10, description="Least mean reward, over the scored turns, of an episode that is kept.")
    iterations: int = Field(4, ge=1, description="Iterations for which it is kept.")
    most: int = Field(8, ge=1, description="Episodes of an iteration that a process keeps: the first of the best.")


class KeptEpisodes:
    """Good episodes of the last iterations, of all processes; each process imitates its share of them."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, list[Rollout | None]]] = []

    def take(self, rollout: Rollout, options: ImitationOptions, gather: Gather) -> None:
        """Keeps the good episodes of a rollout, and drops those that have become too old."""
        mean = rollout.rewards.sum(0) / rollout.scored.sum(0).clamp(min=1)
        best = mean.sort(descending=True, stable=True).indices[: options.most].sort().values
        rows = best[(mean[best] >= options.above) & rollout.scored.any(0)[best]]
        parts = gather([rollout.rows(rows).tensors() if len(rows) else None])
        newest = [None if part is None else Rollout.of_tensors(part, rollout.stm0.device) for part in parts]
        oldest = rollout.iteration + 1 - options.iterations
        self._kept = [(iteration, pieces) for iteration, pieces in self._kept if iteration >= oldest] + [(rollout.iteration, newest)]

    def share(self, rank: int, count: int) -> list[Rollout]:
        """What a process imitates."""
        return [piece for _, pieces in self._kept for piece in pieces[rank::count] if piece is not None]

    def state(self) -> list[Any]:
        """For a checkpoint."""
        return [[number, [None if piece is None else piece.tensors() for piece in pieces]] for number, pieces in self._kept]

    def restore(self, state: Sequence[Any], device: torch.device | str) -> None:
        """Goes on from a checkpoint."""
        self._kept = [
            (number, [None if piece is None else Rollout.of_tensors(piece, device) for piece in pieces]) for number, pieces in state
        ]


def imitation_losses(
    model: ReactiveTransformer, episodes: Sequence[Rollout], config: AlgorithmConfig, reduce: Reduce
) -> list[Callable[[], Tensor]]:
    """Shares of some episodes in -log pi(own answers given the memory that they have written), a mean over tokens of all processes.

    Args:
        model: Current weights.
        episodes: Of this process.
        config: Says where gradients through memory end.
        reduce: Mean over processes; called once.

    Returns:
        One function for each piece, so that only one graph exists at a time.
    """
    masks = [each.answer & each.scored.unsqueeze(-1) for each in episodes]
    count = torch.tensor(float(sum(int(mask.sum()) for mask in masks)), device=model.device)
    total = reduce(count).clamp(min=1e-9)
    return [
        lambda each=each, mask=mask: -(policy_log_probs(model, each, config) * mask).sum() / total  # type: ignore[misc]
        for each, mask in zip(episodes, masks, strict=True)
    ]


def as_result(loss: Tensor, coefficient: float) -> LossResult:
    """A share in the imitation loss as one of the parts of a minibatch."""
    return LossResult(coefficient * loss, {"signal/imitation": loss.detach()})


def _loss(inputs: SignalInputs) -> Tensor:
    raise AssertionError("imitation replays kept episodes, not the rollout")


IMITATION = Signal("imitation", _loss, None, ImitationOptions, summary="Own good episodes of the last iterations.")
