"""How the gradients of the signals compare: their size, and whether they pull the same way as the reward's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rxrl.algorithms.advantages import Reduce
from rxrl.training.signals import REWARD, Signals


class SignalGradients:
    """Sums the gradient of each signal, by its coefficient, over the parts of a minibatch.

    Args:
        signals: What is learned from.
        parameters: Of the model; those that are frozen do not count.
    """

    def __init__(self, signals: Signals, parameters: Sequence[nn.Parameter]) -> None:
        self._coefficients = {REWARD: signals.reward, **{each.name: each.coefficient for each in signals.others}}
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Takes in the losses of a part; their graph stays for the backward pass."""
        for name, term in terms.items():
            if not term.requires_grad:
                continue
            found = torch.autograd.grad(term, self._parameters, retain_graph=True, allow_unused=True)
            flat = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(self._parameters, found, strict=True)])
            self._sums[name] = self._sums.get(name, 0) + self._coefficients[name] * flat

    def metrics(self, reduce: Reduce) -> dict[str, Tensor]:
        """Norm of each gradient, and the cosine of each with that of the reward; `reduce` gives the mean over processes."""
        nothing = torch.zeros(sum(p.numel() for p in self._parameters), device=self._parameters[0].device)
        whole = {name: reduce(self._sums.get(name, nothing)) for name in self._coefficients}
        norms = {f"signal/{name}_grad_norm": gradient.norm() for name, gradient in whole.items()}
        reward = whole.pop(REWARD)
        if not self._coefficients[REWARD]:
            return norms
        return norms | {f"signal/{name}_cosine": torch.cosine_similarity(gradient, reward, dim=0) for name, gradient in whole.items()}
