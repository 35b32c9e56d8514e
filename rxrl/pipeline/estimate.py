"""What a stage will take: a few steps of it are timed here, and the rest is arithmetic."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import psutil  # type: ignore[import-untyped]
import torch
from torch.utils.flop_counter import FlopCounterMode

from rxrl.curricula import Curriculum
from rxrl.data.splits import Sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.pipeline.parts import make_task
from rxrl.pipeline.stage_job import Reporting, StageJob, quietly
from rxrl.reading import whole_objects
from rxrl.runs.processes import Processes
from rxrl.runs.tracking import TIMINGS_FILE
from rxrl.stages.config import LanguageConfig, SmatConfig, StageConfig
from rxrl.stages.runner import StageRunner
from rxrl.training.config import EvaluationConfig, MRLConfig
from rxrl.training.trainer import MRLTrainer

STEPS = 5
PASS_TOKENS = 4_096
"""Tokens of a timed step at most: larger batches go through in passes of this size."""
PATIENCE = 20.0
"""Seconds after which no further step of a part is timed."""
EPISODES = 2
"""Conversations of a timed iteration of MRL."""
UTILISATION = 0.3
"""Share of a GPU's arithmetic that small models use, about."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a stage, or a part of one, will take.

    Attributes:
        stage: Name, with the part in brackets where there are several.
        tokens: In all.
        steps: Optimizer steps in all.
        timed_steps: Steps that were timed here.
        timed_tokens: Tokens of each of them.
        tokens_per_second: Here.
        flops: Floating-point operations a token, of a whole step; 0 where they were not counted.
        memory: Bytes of this process, or of the GPU, at its peak during these steps.
    """

    stage: str
    tokens: int
    steps: int
    timed_steps: int
    timed_tokens: int
    tokens_per_second: float
    flops: float
    memory: int

    @property
    def seconds(self) -> float:
        """On this machine."""
        return self.tokens / self.tokens_per_second

    def gpu_seconds(self, tflops: float) -> float:
        """On a GPU of that many TFLOP/s, of which `UTILISATION` are used."""
        return self.tokens * self.flops / (tflops * 1e12 * UTILISATION)


def estimate_stage(job: StageJob, report: Reporting = quietly) -> list[Estimate]:
    """Times a few steps of each part of a stage; nothing is kept.

    Args:
        job: The stage.
        report: Makes what is told of the data.

    Raises:
        RxrlError: Something is missing or wrong.
    """
    model, codec, sources = job.prepare(report)
    found = []
    for name, share, settings in parts_of(job.name, job.settings):
        timed = settings.model_copy(update={"batch_tokens": min(settings.batch_tokens, PASS_TOKENS), "accumulation": 1})
        task = make_task(job.name, timed, sources, codec, model.config.max_length)
        with TemporaryDirectory() as folder:
            runner = StageRunner(job.name, model, codec, task, timed, folder)
            found.append(_timed(name, share, job.settings, runner))
    return found


def parts_of(name: str, settings: StageConfig) -> Iterator[tuple[str, float, StageConfig]]:
    """What of a stage is timed: a name, its share of the stage's tokens, and settings that train just this."""
    if isinstance(settings, LanguageConfig) and settings.mode == "separate":
        shares = {"encoder": settings.encoder_share, "decoder": 1 - settings.encoder_share}
        for part, share in shares.items():
            if share:
                yield f"{name} ({part})", share, settings.model_copy(update={"encoder_share": float(part == "encoder")})
    elif isinstance(settings, SmatConfig):
        # The longest conversations, with everything unfrozen: what the last phase costs.
        yield name, 1.0, settings.model_copy(update={"unfreeze": {}, "phases": settings.phases[-1:]})
    else:
        yield name, 1.0, settings


def estimate_mrl(model: ReactiveTransformer, tokenizer: Tokenizer, curriculum: Curriculum, config: MRLConfig, sources: Sources) -> Estimate:
    """Times one iteration of MRL with few conversations; fresh weights say too much, so this is an upper bound.

    Args:
        model: Is trained by it.
        tokenizer: Of the model.
        curriculum: Its first stage is timed; turns of later ones are taken to cost the same.
        config: Of MRL.
        sources: What is played.

    Raises:
        RxrlError: Something is missing or wrong.
    """
    first = curriculum.stages[0].model_copy(update={"iterations": 1, "episodes": EPISODES})
    small = config.model_copy(
        update={"episodes": EPISODES, "evaluation": EvaluationConfig(every=10**9, conversations=EPISODES), "keep_best": False}
    )
    one = curriculum.model_copy(update={"stages": (first,)})
    with TemporaryDirectory() as folder, PeakMemory(Processes(config.precision).device) as memory:
        source, held_out = sources.played
        trainer = MRLTrainer(model, tokenizer, curriculum=one, source=source, held_out=held_out, config=small, folder=folder, trackers=())
        trainer.train()
        times = [value for _, value in whole_objects(Path(folder) / TIMINGS_FILE)]
    seconds = sum(line.get(name, 0.0) for line in times for name in ("collect", "estimate", "update"))
    left, turns, iterations = config.max_iterations or 10**9, 0, 0
    for stage in curriculum.stages:
        done = min(stage.iterations, left)
        left, iterations = left - done, iterations + done
        turns += done * (stage.episodes or config.episodes) * stage.steps
    each = trainer.state.tokens / (EPISODES * first.steps)
    return Estimate(
        "mrl", round(turns * each), iterations, 1, trainer.state.tokens, trainer.state.tokens / max(seconds, 1e-9), 0.0, memory.bytes
    )


def _timed(name: str, share: float, settings: StageConfig, runner: StageRunner) -> Estimate:
    model, backend = runner.model, runner.model.config.attention_backend
    with PeakMemory(runner.processes.device) as memory:
        started = time.perf_counter()
        # Kernels of rxrl are not counted, so the first step, which also warms up, does without them.
        model.use_attention("sdpa")
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            runner.take_step()
        model.use_attention(backend)
        tokens, seconds, steps = runner.tokens, time.perf_counter() - started, 1
        counted, left = tokens, PATIENCE - seconds / 2
        if left > 0:
            tokens, steps, started = 0, 0, time.perf_counter()
            while steps < STEPS and time.perf_counter() - started < left:
                runner.take_step()
                steps += 1
            tokens, seconds = runner.tokens - counted, time.perf_counter() - started
    step_tokens = tokens / steps * max(1.0, settings.batch_tokens / runner.config.batch_tokens)
    planned = settings.most_iterations * step_tokens
    whole = planned if settings.max_tokens is None else min(planned, settings.max_tokens)
    return Estimate(
        name,
        round(whole * share),
        max(1, round(whole * share / step_tokens)),
        steps,
        round(tokens / steps),
        tokens / seconds,
        counter.get_total_flops() / counted,
        memory.bytes,
    )


class PeakMemory:
    """Watches how much memory is in use: of the GPU, or of this process.

    Attributes:
        bytes: At most so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.bytes, self._device, self._ended = 0, device, threading.Event()

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self._ended.set()
            self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._ended.wait(0.01):
                return


def _product(a: Sequence[int], b: Sequence[int], *_: Any, **__: Any) -> int:
    """Of a grouped product: each row of `a` meets one matrix of `b`."""
    return 2 * prod(a) * b[-1]


def _attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * prod(q) * k[-2] + 2 * prod(q[:-1]) * k[-2] * v[-1]


def _attention_backward(gradient: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
    return 5 * 2 * prod(q) * k[-2]


COUNTED: dict[Any, Any] = {torch.ops.aten._grouped_mm: _product}
"""Operations that torch's counter does not know, or refuses where keys have fewer groups than queries, with their formulas."""
for _name in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
    COUNTED[getattr(torch.ops.aten, f"_scaled_dot_product_{_name}")] = _attention
    COUNTED[getattr(torch.ops.aten, f"_scaled_dot_product_{_name}_backward")] = _attention_backward
