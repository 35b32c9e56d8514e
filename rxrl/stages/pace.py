"""How fast a stage is: tokens a second, and where its time goes."""

from __future__ import annotations

import time

from rxrl.models import ReactiveTransformer
from rxrl.runs.tracking import Clock


class Pace(Clock):
    """Times the steps of a stage from one line of metrics to the next; the time of a validation belongs to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.start()

    def start(self) -> None:
        """Begins a line."""
        self.seconds, self._since = {}, time.perf_counter()
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """Notes the tokens of a step, of all processes."""
        self._tokens += tokens

    def take(self) -> dict[str, float]:
        """Ends the line.

        Returns:
            `tokens_per_second` of all processes; `model_share`, the share of the time in forward and backward passes, optimizer and
            validation.
        """
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        found = {"tokens_per_second": self._tokens / elapsed, "model_share": self.seconds.get("model", 0.0) / elapsed}
        self.start()
        return found


def compile_layers(model: ReactiveTransformer) -> None:
    """Compiles each layer of encoder and decoder, and memory attention, in place; one graph serves all layers that are alike.

    A graph is for one shape of batch, such as that of packed rows: torch 2.13 cannot compile our norms for shapes that vary. After several
    shapes it goes on without graphs.
    """
    for module in (*model.encoder.layers, *model.decoder.layers, model.memory_attention):
        module.compile(dynamic=False)
