"""What a GPU makes of training: `python -m tests.benchmarks.gpu` (`scripts/gpu_check.sh`), at most eight minutes.

For each preset and attention backend: real tokens a second, share of the arithmetic (MFU) and memory of a pre-training step, a step of
memory-aware training with everything unfrozen, and an iteration of MRL, generation apart; bf16 mixed precision. MFU counts the
floating-point operations of the step, as torch's counter sees them, against what a large bf16 matrix product reaches on this GPU. At the
end, logits and a gradient on the GPU against the CPU, both in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from rxrl.data.stores.opening import CACHE_VARIABLE
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer, preset
from rxrl.models.attention import AttentionBackend
from rxrl.pipeline.estimate import COUNTED, PeakMemory
from rxrl.pipeline.stage_job import StageJob
from rxrl.stages.config import LanguageConfig, SmatConfig, SmatPhase, StageConfig
from rxrl.stages.runner import StageRunner
from tests.benchmarks.measure import machine
from tests.benchmarks.train import trainer_of

WARM_UP, SECONDS, MOST = 3, 4.0, 40
"""Steps that are not timed; seconds in which steps are, and how many at most."""
TOKENS = {"nano": 65_536, "mini": 32_768}
"""Tokens of a batch."""
TURNS = 8
PRODUCT = 8192
TOLERANCE = 1e-4
"""Root mean square difference from the CPU, as a share of what is expected."""


def main() -> None:
    """Measures, and writes JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(TOKENS))
    parser.add_argument("--seconds", type=float, default=420.0, help="begin nothing new after so many")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true", help="small work on the CPU too: to see that it runs")
    options = parser.parse_args()
    if not options.quick and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU here.")
    started, peak = time.monotonic(), matrix_rate(256 if options.quick else PRODUCT)
    found: dict[str, Any] = {"machine": machine("cuda" if torch.cuda.is_available() else "cpu"), "bf16_tflops": peak / 1e12, "rows": []}
    typer.echo(f"{found['machine']['processor']}: {peak / 1e12:.0f} TFLOP/s in bf16 (product of {PRODUCT} x {PRODUCT} matrices)")
    typer.echo("| preset | attention | work | tokens/s | MFU | step | peak memory |\n|---|---|---|---|---|---|---|")
    for row in rows(options.preset or list(TOKENS), peak, options.quick):
        found["rows"].append(row)
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        share = f"{row['mfu']:.1%}" if row["mfu"] is not None else ""
        typer.echo(
            f"| {row['preset']} | {row['attention']} | {row['work']} | {row['tokens_per_second']:,.0f} | {share} | "
            f"{1000 * row['seconds']:,.0f} ms | {row['memory'] / 1e9:.2f} GB |",
        )
        if time.monotonic() - started > options.seconds:
            typer.echo("The time is up: the rows below are left out.")
            break
    if torch.cuda.is_available():
        found["parity"] = parity(options.preset or list(TOKENS))
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        for name, gaps in found["parity"].items():
            verdict = "within" if max(gaps.values()) <= TOLERANCE else "NOT within"
            listed = ", ".join(f"{what} {gap:.1e}" for what, gap in gaps.items())
            typer.echo(f"{name}, float32, GPU against CPU: {listed} ({verdict} {TOLERANCE:g})")


def matrix_rate(size: int) -> float:
    """Floating-point operations a second of a bf16 matrix product."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16).unbind()
    times = [timed(lambda: a @ b) for _ in range(20)]
    return float(2 * size**3 / sorted(times)[len(times) // 2])


def timed(work: Callable[[], object]) -> float:
    """Seconds of a call, until the GPU has done it."""
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def backends() -> list[AttentionBackend]:
    """Those that work here."""
    found: list[AttentionBackend] = ["sdpa"]
    try:
        import flash_attn  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        return found
    return [*found, "flash"]


def rows(presets: list[str], peak: float, quick: bool) -> Iterator[dict[str, Any]]:
    """A row of each preset, backend and kind of work."""
    with TemporaryDirectory() as folder:
        # Stores that are made of the data are gone afterwards, too.
        os.environ[CACHE_VARIABLE] = folder
        texts, conversations = data(Path(folder), quick)
        for name in presets:
            common: dict[str, Any] = {"batch_tokens": 2_000 if quick else TOKENS[name], "precision": "bf16"}
            common |= {"validate_every": 10**9, "log_every": 10**9}
            phases = (SmatPhase(steps=TURNS, iterations=10**6),)
            for backend in backends():
                for work, stage, source, settings in (
                    ("pre-training (joint)", "pretrain", texts, LanguageConfig(iterations=10**6, **common)),
                    (f"SMAT, {TURNS} turns", "smat", conversations, SmatConfig(phases=phases, **common)),
                    ("pre-training (joint, compiled)", "pretrain", texts, LanguageConfig(iterations=10**6, compile=True, **common)),
                ):
                    if not (quick and settings.compile):
                        row = stage_row(name, backend, stage, source, settings, peak, quick)
                        yield {"preset": name, "attention": backend, "work": work, **row}
                yield from ({"preset": name, "attention": backend, **row} for row in mrl_rows(name, backend, quick))


def data(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Texts, and conversations of long interactions, of random words."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 7))) for _ in range(4_000)]

    def some(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    texts, conversations = folder / "texts.jsonl", folder / "conversations.jsonl"
    Tokenizer.train((some(400) for _ in range(300)), vocab_size=4_000).save(folder / "tokenizer")
    # Large enough that a store of packed rows is made of it.
    texts.write_text("".join(json.dumps({"text": some(400)}) + "\n" for _ in range(400 if quick else 8_000)))

    def interaction() -> dict[str, Any]:
        return {"query": some(12), "answer": some(50), "asks": []}

    with conversations.open("w") as file:
        for number in range(20 if quick else 2_000):
            row = {"id": f"r{number}", **interaction(), "interactions": [interaction() for _ in range(TURNS)]}
            file.write(json.dumps(row) + "\n")
    return texts, conversations


def stage_row(
    name: str, backend: AttentionBackend, stage: str, source: Path, settings: StageConfig, peak: float, quick: bool
) -> dict[str, Any]:
    """Times optimizer steps of a stage."""
    job = StageJob(stage, settings, [str(source)], preset=name, tokenizer=source.parent / "tokenizer").of_full_vocabulary()
    model, codec, task = job.open()
    model.use_attention(backend)
    with TemporaryDirectory() as folder:
        runner = StageRunner(stage, model, codec, task, settings, folder)
        flops = None
        if not settings.compile:
            with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
                runner.take_step()
            flops = counter.get_total_flops() / runner.tokens
        with PeakMemory(runner.processes.device) as memory:
            for _ in range(1 if quick else WARM_UP):
                runner.take_step()
            synchronize()
            before, steps, start = runner.tokens, 0, time.perf_counter()
            while steps < (1 if quick else MOST) and time.perf_counter() - start < SECONDS:
                runner.take_step()
                synchronize()
                steps += 1
            seconds = time.perf_counter() - start
    rate = (runner.tokens - before) / seconds
    return {
        "tokens_per_second": rate,
        "mfu": None if flops is None else rate * flops / peak,
        "flops_per_token": flops,
        "seconds": seconds / steps,
        "memory": memory.bytes,
    }


def mrl_rows(name: str, backend: AttentionBackend, quick: bool) -> Iterator[dict[str, Any]]:
    """Times the parts of an iteration of MRL; tokens are those of the answers."""
    with TemporaryDirectory() as folder:
        episodes, turns, answer = (4, 2, 8) if quick else (64, TURNS, 64)
        trainer = trainer_of(name, Path(folder), episodes, turns, answer, precision="bf16", attention_backend=backend)
        stage = trainer.scheduler.stage
        algorithm = trainer.begin(stage)
        with PeakMemory(trainer.processes.device) as memory:
            times: dict[str, float] = {}
            for _ in range(1 if quick else 2):
                trainer.clock.take()
                rollout = trainer.collect(stage, algorithm)
                targets, _ = trainer.learner.estimate(rollout, algorithm)
                trainer.learner.update(rollout, targets, algorithm)
                synchronize()
                times = trainer.clock.take()
        answers = int(rollout.answer.sum())
        generation = times["collect/generate"]
        rest = sum(times[part] for part in ("collect", "estimate", "update")) - generation
        for work, seconds in (("MRL: generation", generation), ("MRL: all but generation", rest)):
            yield {"work": work, "tokens_per_second": answers / seconds, "mfu": None, "seconds": seconds, "memory": memory.bytes}


def parity(presets: list[str]) -> dict[str, dict[str, float]]:
    """How far the GPU is from the CPU, in float32 with full products, after two turns of memory."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return {name: _parity(name) for name in presets}
    finally:
        torch.set_float32_matmul_precision(before)


def _parity(name: str) -> dict[str, float]:
    found = []
    ids = torch.randint(20, preset(name).vocab_size, (2, 3, 24), generator=torch.Generator().manual_seed(0))
    for device in ("cpu", "cuda"):
        model = ReactiveTransformer.from_preset(name, seed=0).to(device).eval()
        with torch.no_grad():
            for layer in model.decoder.layers:
                weight = layer.memory_cross_attention.out_proj.weight
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        here = ids.to(device)
        mask = torch.ones_like(here[0], dtype=torch.bool)
        stm = model.init_memory(3, torch.Generator().manual_seed(1))
        stm = model.write_memory(stm, here[0], mask)
        logits = model.decode(here[1], mask, stm)
        logits.square().mean().backward()
        gradient = torch.cat([each.grad.flatten() for each in model.memory_attention.parameters() if each.grad is not None])
        found.append({"memory": stm, "logits": logits, "gradient": gradient})
    one, other = found
    return {
        what: float((other[what].detach().double().cpu() - one[what].detach().double()).norm() / one[what].detach().double().norm())
        for what in one
    }


if __name__ == "__main__":
    main()
