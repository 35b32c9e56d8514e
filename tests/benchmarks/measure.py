"""Timing, and a probe of the machine that makes numbers comparable."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROBE_SIZE = 1024


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """What ran: processor, threads, versions, and the GFLOP/s of a 1024-cubed float32 matrix product."""
    a, b = torch.randn(2, PROBE_SIZE, PROBE_SIZE).unbind()
    speed = 2 * PROBE_SIZE**3 / seconds(lambda: a @ b, 9) / 1e9
    return {"GFLOP/s": round(speed, 1), "threads": torch.get_num_threads(), "torch": torch.__version__, "processor": _processor()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
