"""Work on a GPU that is captured once as a CUDA graph and then replayed: one start in place of one for each of its kernels."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_ONE_CAPTURE_AT_A_TIME = threading.Lock()
_Place = tuple[torch.device, int]
"""A device, and the stream there on which graphs are replayed: what shares memory must run one after the other."""


class GraphMemory:
    """What the graphs of one model share, so that the next one takes over the memory of the last, which torch would otherwise keep."""

    def __init__(self) -> None:
        self.streams: dict[_Place, torch.cuda.Stream] = {}
        """On which work is captured; the scratch memory of libraries belongs to the stream."""
        self.unused: dict[_Place, torch.cuda.CUDAGraph] = {}
        """The last graph that nobody replays any more."""

    def __reduce__(self) -> tuple[type[GraphMemory], tuple[()]]:
        # A copy of a model shares nothing with it.
        return GraphMemory, ()


class CudaGraph:
    """A function of tensors as a CUDA graph.

    Args:
        memory: What it shares with the graphs before and after it.
        work: What is captured. It ran once before on inputs like these, waits for nothing that the device computes, and all it does in
            place is done again by each replay, not by the capture.
        inputs: Tensors of the shapes, types and device that all later ones have; their values do not matter.
    """

    def __init__(self, memory: GraphMemory, work: Callable[..., Tensor], *inputs: Tensor) -> None:
        device = inputs[0].device
        self._inputs = [each.clone() for each in inputs]
        self._graph = torch.cuda.CUDAGraph()
        with _ONE_CAPTURE_AT_A_TIME, torch.cuda.device(device), _nothing_cached_by_autocast():
            current = torch.cuda.current_stream()
            place = device, current.cuda_stream
            if place not in memory.streams:
                memory.streams[place] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            stream, unused = memory.streams[place], memory.unused.pop(place, None)
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                # Other threads may use the device meanwhile, as a memory that is written in the background does.
                self._graph.capture_begin(pool=None if unused is None else unused.pool(), capture_error_mode="thread_local")
                try:
                    self._output = work(*self._inputs)
                finally:
                    self._graph.capture_end()
            current.wait_stream(stream)
        weakref.finalize(self, memory.unused.__setitem__, place, self._graph).atexit = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result for other inputs, in a tensor that the next call overwrites."""
        for place, value in zip(self._inputs, inputs, strict=True):
            place.copy_(value)
        self._graph.replay()
        return self._output


@contextmanager
def _nothing_cached_by_autocast() -> Iterator[None]:
    """Weights that autocast narrows are part of the graph: what it caches does not live as long."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
