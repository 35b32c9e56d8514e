"""The processes of a training: who plays which conversations, and how means, maxima, rows and gradients of all come together.

Gradients are averaged by hand after the backward passes, not by `DistributedDataParallel`: its hooks are laid when the model is
wrapped, so groups that thaw later, experts that one process did not use, several forward passes and micro-batches each need an option
of their own, and it would write rank 0's buffers over everybody's. Here all that matters is which parameters have a gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import GradientState  # type: ignore[import-untyped]
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor, nn

from rxrl.errors import ConfigError, TrainingError, reason
from rxrl.runs.signals import go_down_in_peace

T = TypeVar("T")
_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True, slots=True)
class Share:
    """Rows `start` to `stop` of a global batch of `total` rows, which one process holds."""

    start: int
    stop: int
    total: int

    def own(self, rows: Tensor) -> Tensor:
        """Those of the global `rows` that lie in the share, counted from its start."""
        return rows[(rows >= self.start) & (rows < self.stop)] - self.start

    def times(self, samples: int) -> Share:
        """The share where each row becomes `samples` neighbours."""
        return Share(self.start * samples, self.stop * samples, self.total * samples)


class Processes:
    """This process among those of the training; all methods but `share` must be called by all of them, in the same order.

    Args:
        precision: `no` (float32) or `bf16`; None: as accelerate is configured.

    Attributes:
        accelerator: Knows device, precision and the other processes.
        count: Number of processes.
        rank: Number of this one, from 0.
        precision: As given.
    """

    def __init__(self, precision: str | None = None) -> None:
        self.accelerator, self.precision = _accelerator(precision), precision
        if (mode := str(self.accelerator.mixed_precision)) not in ("no", "bf16"):
            raise ConfigError(f"Training runs in float32 or bf16, but accelerate is configured for {mode}: set precision to no or bf16.")
        if (kind := str(self.accelerator.distributed_type.value)) != "NO" and not kind.startswith("MULTI_"):
            raise ConfigError(
                f"Training has no use for {kind}, which accelerate is configured for: run `accelerate config` without it. "
                "Stages divide weights with shard=true."
            )
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return torch.device(self.accelerator.device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def describe(self) -> str:
        """How many processes compute where and in which precision, in a sentence; and a second one where more were asked for."""
        number = "1 process" if self.count == 1 else f"{self.count} processes"
        text = f"{number} on {self.device.type}, {'bf16' if str(self.accelerator.mixed_precision) == 'bf16' else 'float32'}."
        if self.count == 1 and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
            text += (
                " accelerate launch was asked for several processes and has started one, as it does on CPUs: start them with "
                "scripts/train_multi.sh, or with ACCELERATE_USE_CPU=true torchrun --nproc-per-node N -m rxrl ..."
            )
        return text

    def autocast(self) -> AbstractContextManager[None]:
        """Computes in the chosen precision."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def share(self, keys: Sequence[str]) -> Share:
        """Rows that this process plays: neighbours, about equally many each; neighbours with the same key stay together.

        Args:
            keys: What each row of the global batch belongs to: its conversation.

        Raises:
            ConfigError: There are more processes than conversations.
        """
        edges = share_edges(keys, self.count)
        return Share(edges[self.rank], edges[self.rank + 1], len(keys))

    def mean(self, value: Tensor) -> Tensor:
        """Mean over processes."""
        return self._together(lambda: torch.as_tensor(self.accelerator.reduce(value, "mean")))

    def max(self, value: Tensor) -> Tensor:
        """Largest value of a 0-dimensional tensor over processes."""
        return self._together(lambda: torch.as_tensor(self.accelerator.gather(value.reshape(1))).max())

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        return bool(self.max(torch.tensor(float(flag), device=self.device)))

    def largest(self, value: int) -> int:
        """The largest of the whole numbers that the processes have."""
        return value if self.count == 1 else int(self.max(torch.tensor(float(value), device=self.device)))

    def objects(self, values: Sequence[T]) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        found: list[T] = self._together(lambda: gather_object(list(values)))
        return found

    def rows(self, value: Tensor, dim: int) -> Tensor:
        """Rows of all processes along `dim`, in the order of their ranks; each may have another number of them."""
        if self.count == 1:
            return value
        return torch.cat([part.to(value.device) for part in self.objects([value.cpu()])], dim=dim)

    def metrics(self, metrics: Mapping[str, Tensor], maxima: Collection[str]) -> dict[str, Tensor]:
        """Metrics of the whole from those of each process: the mean, or the largest for the names in `maxima`; all have the same names."""
        if self.count == 1:
            return dict(metrics)
        names = sorted(metrics)
        values = torch.stack([metrics[name].detach().double() for name in names])
        together = torch.tensor(self.objects([values.tolist()]), dtype=torch.float64)
        means, largest = together.mean(0), together.max(0).values
        return {name: (largest if name in maxima else means)[index] for index, name in enumerate(names)}

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages the gradients of all processes; a parameter without a gradient anywhere stays without one."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        if self.count == 1 or not trained:
            return
        flags = torch.tensor([float(p.grad is not None) for p in trained], dtype=trained[0].dtype, device=self.device)
        flat = torch.cat([*((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained), flags])
        *parts, used = torch.split_with_sizes(self.mean(flat), [*(p.numel() for p in trained), len(trained)])
        for parameter, part, there in zip(trained, parts, used.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).clone() if there else None

    def check_alike(self, modules: Iterable[nn.Module]) -> None:
        """Ends the run where the weights of the processes have parted.

        Raises:
            TrainingError: They have.
        """
        if self.count == 1:
            return
        sums = torch.stack([p.detach().double().sum() for module in modules for p in module.parameters()])
        if len({tuple(each) for each in self.objects([tuple(sums.tolist())])}) > 1:
            raise TrainingError("The weights of the processes have parted: go on from the last checkpoint with --resume, and report this.")

    def wait(self) -> None:
        """Waits for all processes."""
        self._together(self.accelerator.wait_for_everyone)

    def _together(self, call: Callable[[], T]) -> T:
        """A collective call; where another process has died, this one ends with a sentence."""
        try:
            return call()
        except RuntimeError as error:
            if self.count == 1:
                raise
            go_down_in_peace()
            said = str(error).strip().splitlines()[0]
            raise TrainingError(
                f"Process {self.rank} has lost another process of this training ({said}). See that one's message; "
                "checkpoints stay: start all of them again with --resume."
            ) from error


def _accelerator(precision: str | None) -> Accelerator:
    """What accelerate knows of this process; the gradient accumulation of other trainers in it stays theirs."""
    others = GradientState().plugin_kwargs
    try:
        return Accelerator(mixed_precision=precision)
    except (ValueError, ImportError, RuntimeError, OSError, KeyError, TypeError, AttributeError) as error:
        names = sorted(name for name in os.environ if name.startswith("ACCELERATE_") or name in _LAUNCHER)
        variables = f" The environment sets {', '.join(names)}: unset what is not meant for this." if names else ""
        wanted = "" if precision is None else f" with precision {precision!r} (one process has one precision)"
        raise ConfigError(f"accelerate cannot start here{wanted}: {reason(error)}{variables}") from None
    finally:
        GradientState().plugin_kwargs = others


def share_edges(keys: Sequence[str], count: int) -> list[int]:
    """Where the share of each of `count` processes begins, and the end of the last: neighbours with the same key are not parted.

    Raises:
        ConfigError: There are more processes than runs of equal keys.
    """
    begins = [index for index, key in enumerate(keys) if index == 0 or keys[index - 1] != key]
    if len(begins) < count:
        raise ConfigError(f"{count} processes cannot share {len(begins)} different conversations: raise episodes, or use fewer processes.")
    picked = [begins[len(begins) * rank // count] for rank in range(count)]
    return [*picked, len(keys)]
