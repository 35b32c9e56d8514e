"""The frame of all benchmarks: repetitions that nobody disturbed, a probe of the machine, and bars that are scaled by it.

The speed of a machine drifts, so each row has a probe of its own, taken between its repetitions.

A suite is a function `rows(bench, presets)` that yields what `Bench.rate`, `Bench.time`, `Bench.peak` and `Bench.value` return.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rxrl.models.kernels import instruction_set

TOLERATED = 0.05
"""Share of the CPUs that other processes may take in a repetition that counts."""
JUDGED = 20
"""Shortest repetitions that a row with a bar is measured for: shared machines swing by a third within a second, a verdict should not."""
PROBE_SIZE, PROBE_COPY = 1024, 2**26

Work = Callable[[], Any]


class Probe(NamedTuple):
    """Speed of a machine at a number of threads.

    Attributes:
        gflops: GFLOP/s of a 1024-cubed float32 matrix product.
        copy: GB/s of a large copy: bytes of the copy, each of which is read once and written once.
    """

    gflops: float
    copy: float


REFERENCE = Probe(322.0, 21.6)
"""The machine that bars are written for."""


def scale(probe: Probe) -> float:
    """Speed of a machine against the reference: of the two ratios the larger one, which makes the harder bar."""
    return max(here / there for here, there in zip(probe, REFERENCE, strict=True))


class Usage(NamedTuple):
    """Readings of the clocks, in seconds.

    Attributes:
        wall: Time.
        own: CPU time of this process.
        all: CPU time of all processes, time stolen by a hypervisor included; None where the system does not tell.
    """

    wall: float
    own: float
    all: float | None

    @classmethod
    def now(cls) -> Usage:
        """Reads all clocks."""
        return cls(time.perf_counter(), time.process_time(), _busy_seconds())

    def others(self, since: Usage) -> float | None:
        """Share of the CPUs that other processes took."""
        if self.all is None or since.all is None:
            return None
        taken = (self.all - since.all) - (self.own - since.own)
        return max(0.0, taken) / ((self.wall - since.wall) * (os.cpu_count() or 1))


def _busy_seconds() -> float | None:
    try:
        fields = [int(each) for each in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measurement:
    """Repetitions of one piece of work.

    Attributes:
        seconds: Median wall time of a call, over the repetitions that count.
        cpu_seconds: Median CPU time of this process for a call.
        kept: Repetitions that count.
        discarded: Repetitions that do not, because others took too much of the CPUs.
        others: Share of the CPUs that others took in the repetitions that count, at most; None: the system does not tell.
        disturbed: Every repetition was disturbed; the least disturbed one stands for them.
    """

    seconds: float
    cpu_seconds: float
    kept: int
    discarded: int
    others: float | None
    disturbed: bool


class _Repetition(NamedTuple):
    seconds: float
    cpu_seconds: float
    others: float | None


def measure(
    work: Work,
    repeats: int = 5,
    at_least: float = 0.5,
    usage: Callable[[], Usage] = Usage.now,
    between: Work = lambda: None,
    in_all: float = 0.0,
) -> Measurement:
    """Times a call.

    Args:
        work: What to call.
        repeats: Undisturbed repetitions wanted; up to three times as many are tried.
        at_least: Seconds of a repetition: short work is called several times in it, because the system counts in hundredths.
        usage: Reads the clocks.
        between: Called before each repetition.
        in_all: Seconds of all repetitions together: there are more of them where they are short.
    """
    work()
    start = usage()
    work()
    once = max(1e-9, usage().wall - start.wall)
    calls = max(1, round(at_least / once))
    repeats = max(repeats, math.ceil(in_all / (calls * once)))
    clean: list[_Repetition] = []
    disturbed: list[_Repetition] = []
    while len(clean) < repeats and len(clean) + len(disturbed) < 3 * repeats:
        between()
        start = usage()
        for _ in range(calls):
            work()
        end = usage()
        others = end.others(start)
        one = _Repetition((end.wall - start.wall) / calls, (end.own - start.own) / calls, others)
        (disturbed if others is not None and others > TOLERATED else clean).append(one)
    counted = clean or [min(disturbed, key=lambda each: each.others or 0.0)]
    shares = [each.others for each in counted if each.others is not None]
    return Measurement(
        seconds=statistics.median(each.seconds for each in counted),
        cpu_seconds=statistics.median(each.cpu_seconds for each in counted),
        kept=len(counted),
        discarded=len(clean) + len(disturbed) - len(counted),
        others=max(shares, default=None),
        disturbed=not clean,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One result.

    Attributes:
        preset: Model, or what else it is about.
        name: What was measured, unique within preset and threads.
        value: The result; None where this system cannot measure it.
        unit: Of `value`.
        more_is_better: False for times and sizes.
        threads: Threads of torch.
        bar: What it should reach, scaled to this machine; None: nothing is asked.
        by_cpu: The same by CPU time instead of wall time, with one thread: hardly touched by what else runs.
        measurement: How it was timed; None for what is no time.
        probe: The machine while it was timed, which the bar is scaled by; None for what is no time.
        note: What to know about it.
        details: More numbers, for the file only.
    """

    preset: str
    name: str
    value: float | None
    unit: str
    more_is_better: bool
    threads: int
    bar: float | None = None
    by_cpu: float | None = None
    measurement: Measurement | None = None
    probe: Probe | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        if self.bar is None or self.value is None:
            return None
        return self.value >= self.bar if self.more_is_better else self.value <= self.bar


@dataclass(frozen=True, slots=True)
class Bench:
    """Measures rows with one number of threads.

    Attributes:
        threads: Threads of torch.
        probe: The machine, with these threads.
        repeats: Repetitions of each row.
        at_least: Seconds of a repetition.
        quick: Everything small, to see that it runs.
        prober: Measures the machine again, in a moment; None: it is as it was.
        device: Where models compute; bars are for CPUs.
        dtype: Of their weights.
    """

    threads: int
    probe: Probe
    repeats: int = 5
    at_least: float = 0.5
    quick: bool = False
    prober: Callable[[], Probe] | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def judges(self) -> bool:
        """Whether bars for several threads of a CPU count."""
        return self.device == "cpu" and self.threads > 1

    def rate(self, preset: str, name: str, work: Work, amount: float, unit: str = "tokens/s", bar: float | None = None) -> Row:
        """How much of something a call of `work` does a second; `bar` is for the reference machine."""
        found, probe = self._measured(work, judged=bar is not None)
        return Row(
            preset=preset,
            name=name,
            value=amount / found.seconds,
            unit=unit,
            more_is_better=True,
            threads=self.threads,
            bar=None if bar is None else bar * scale(probe),
            by_cpu=amount / found.cpu_seconds if self.threads == 1 else None,
            measurement=found,
            probe=probe,
        )

    def time(self, preset: str, name: str, work: Work, bar: float | None = None) -> Row:
        """Milliseconds of a call; `bar` is for the reference machine."""
        found, probe = self._measured(work, judged=bar is not None)
        return Row(
            preset=preset,
            name=name,
            value=1000 * found.seconds,
            unit="ms",
            more_is_better=False,
            threads=self.threads,
            bar=None if bar is None else bar / scale(probe),
            by_cpu=1000 * found.cpu_seconds if self.threads == 1 else None,
            measurement=found,
            probe=probe,
        )

    def _measured(self, work: Work, judged: bool) -> tuple[Measurement, Probe]:
        """Times `work`; the machine is probed before each repetition, where there is a prober."""
        seen: list[Probe] = []

        def look() -> None:
            if self.prober is not None:
                seen.append(self.prober())

        in_all = JUDGED * self.at_least if judged and not self.quick else 0.0
        found = measure(waiting(work, self.device), self.repeats, self.at_least, between=look, in_all=in_all)
        if not seen:
            return found, self.probe
        return found, Probe(*(statistics.median(each) for each in zip(*seen, strict=True)))

    def value(self, preset: str, name: str, value: float, unit: str, *, bar: float | None = None, more_is_better: bool = False) -> Row:
        """What is no time and so depends on no machine."""
        return Row(preset, name, value, unit, more_is_better, self.threads, bar)

    def peak(self, preset: str, name: str, work: Work) -> Row:
        """Megabytes that a call needs besides what is there before: growth of the peak of resident memory, or of that of the GPU."""
        work()
        grown = peak_growth(work) if self.device == "cpu" else gpu_peak_growth(work)
        note = "not measured: this system has no peak that can be set back" if grown is None else ""
        return Row(preset, name, None if grown is None else grown / 1e6, "MB", False, self.threads, note=note)


def peak_growth(work: Work) -> int | None:
    """Bytes by which the peak of resident memory rises above what is resident before; None where Linux does not tell."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used again and so not be seen
    except (OSError, AttributeError):
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(0, _status("VmHWM") - before)


def gpu_peak_growth(work: Work) -> int:
    """The same for tensors on the GPU."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return int(torch.cuda.max_memory_allocated()) - before


def waiting(work: Work, device: str) -> Work:
    """The work, until it is done on its device too."""
    return work if device == "cpu" else lambda: (work(), torch.cuda.synchronize())


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def probe(products: int = 101, copies: int = 21, device: str = "cpu") -> Probe:
    """Measures the machine with torch's present number of threads: medians of many runs, by CPU time with one thread.

    Medians, because rows are medians too: the best of several runs says what the machine reaches in a lucky moment.

    Args:
        products: Matrix products.
        copies: Large copies.
        device: Where.
    """
    a, b = torch.randn(2, PROBE_SIZE, PROBE_SIZE, device=device).unbind()
    source = torch.zeros(PROBE_COPY, device=device)
    target = torch.empty_like(source)
    product = _median(waiting(lambda: a @ b, device), products)
    copy = _median(waiting(lambda: target.copy_(source), device), copies)
    return Probe(2 * PROBE_SIZE**3 / product / 1e9, 4 * PROBE_COPY / copy / 1e9)


def _median(work: Work, runs: int) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times = []
    for _ in range(runs):
        start = clock()
        work()
        times.append(clock() - start)
    return statistics.median(times)


def machine(device: str = "cpu") -> dict[str, Any]:
    """What ran: processor, number of them, versions."""
    return {
        "processor": _processor() if device == "cpu" else torch.cuda.get_device_name(device),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kernels": instruction_set(),
        "others": "of /proc/stat" if _busy_seconds() is not None else "not measured",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names: Sequence[str] = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), "") or platform.processor() or platform.machine()
