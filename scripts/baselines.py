"""Models to compare pico with: the same conversations and tokens for each, then retention, the cost of a turn, and bytes of memory.

The stages are the supervised ones of the budget `easy`, without the accuracies that end a phase early, so that every model sees the same
conversations in the same order. `python scripts/results.py baselines` trains and measures what is missing, and prints the tables.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rxrl.config import load_config
from rxrl.data.splits import DataConfig, open_sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import TranscriptMemory
from rxrl.evaluation import evaluate, measure_stress, stress_axes
from rxrl.evaluation.stress import with_small_talk
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer, preset
from rxrl.pipeline import BUDGETS, PipelineConfig
from rxrl.pipeline.parts import CHECKPOINT, fresh_model
from rxrl.pipeline.stage_job import StageJob
from rxrl.players import Play, model_play
from rxrl.policies import StmBackend, rereads
from rxrl.rewards import load_reward
from rxrl.runs.folder import RunFolder
from rxrl.stages.config import RereadingConfig, SmatConfig, StageConfig
from rxrl.types import ANSWER_TOKENS, Conversation, Scenario, TokenBatch, interaction_ids, prompt_ids
from rxrl.writing import write_json

STRESSED = 50
"""Test conversations with small talk, and of 64 turns."""
TURNS = (1, 16, 64, 256)
"""Turns whose cost is counted."""
AXES = {"turns_64": "64 turns", "small_talk_48_spread": "48 of small talk, spread", "small_talk_48_first": "48 of small talk, first"}


class Row(NamedTuple):
    """A row of the table: a model, how it is trained, and what it reads."""

    model: str
    memory: str | None = None
    rate: float | None = None


ROWS = {
    "pico (memory attention)": Row("pico"),
    "GRU": Row("pico-gru"),
    "memory tokens (RMT)": Row("pico-rmt"),
    "memory tokens (RMT), learning rate 0.001": Row("pico-rmt", rate=0.001),
    "re-reads everything": Row("pico-causal"),
    "re-reads everything, learning rate 0.001": Row("pico-causal", rate=0.001),
    "re-reads the last 4 interactions": Row("pico-causal", "transcript:4"),
    "re-reads the last 4, learning rate 0.001": Row("pico-causal", "transcript:4", rate=0.001),
}


def run_baselines(out: Path, seeds: Sequence[int], only: Sequence[str], say: Callable[[str], None]) -> None:
    """Trains and measures what is missing."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name, row in ROWS.items():
            folder = folder_of(out, seed, row)
            if (only and name not in only) or result_of(folder, row).exists():
                continue
            say(f"--- seed {seed}, {name}")
            found = measured(row, train(row, seed, folder, say), seed)
            write_json(result_of(folder, row), found)


def folder_of(out: Path, seed: int, row: Row) -> Path:
    """Where the runs of one model and seed are."""
    return out / f"seed{seed}" / (row.model if row.rate is None else f"{row.model}-{row.rate}")


def result_of(folder: Path, row: Row) -> Path:
    """What was measured of one row."""
    return folder / f"{(row.memory or 'own').replace(':', '-')}.json"


def stages_of(row: Row, seed: int) -> Iterator[tuple[str, StageConfig]]:
    """The stages of one model, by name and in order."""
    stages = load_config(BUDGETS["easy"], PipelineConfig, [f"seed={seed}"]).stages
    assert stages.pretrain is not None, "that budget begins with language modelling"
    assert stages.sft is not None, "that budget has single interactions"
    alone = {} if "encoder" not in preset(row.model).absent else {"mode": "separate", "encoder_share": 0.0, "freeze_embedding": False}
    for name, language in (("pretrain", stages.pretrain), ("sft", stages.sft)):
        yield name, language.model_copy(update={"seed": seed, **alone})
    if not alone and stages.memory_attention is not None:
        yield "memory-attention", stages.memory_attention.model_copy(update={"seed": seed})
    settings = stages.smat.model_dump()
    phases = [{"steps": each.steps, "iterations": each.iterations} for each in stages.smat.phases]
    optimizer = settings["optimizer"] | ({} if row.rate is None else {"learning_rate": row.rate})
    kind = RereadingConfig if rereads(preset(row.model)) else SmatConfig
    name = "rereading" if kind is RereadingConfig else "smat"
    changes = {"seed": seed, "phases": phases, "optimizer": optimizer, "validate_every": 300}
    yield name, kind.model_validate(settings | changes)


def train(row: Row, seed: int, folder: Path, say: Callable[[str], None]) -> Path:
    """The checkpoint that the stages end with; what is finished is not run again."""
    start: Path | None = None
    for name, settings in stages_of(row, seed):
        out = folder / name
        if not (out / CHECKPOINT).exists():
            with RunFolder(out).claimed() as claimed:
                StageJob(name, settings, start=start, preset=row.model).run(claimed, resume=True, say=say, checkpoint_every=None)
        start = out / CHECKPOINT
    assert start is not None, "there is at least one stage"
    return start


def measured(row: Row, checkpoint: Path, seed: int) -> dict[str, Any]:
    """Retention at 16 turns and under stress."""
    model, codec = load_checkpoint(checkpoint)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    sources = open_sources(DataConfig(), seed)
    known, reward = sources.train.take(steps=1, strategy="multi-step", start=0, count=500), load_reward("retention")

    def make(played: Sequence[Scenario]) -> Play:
        return model_play(
            model, codec, played, reward=reward, known=known, max_answer_tokens=ANSWER_TOKENS,
            **({} if row.memory is None else {"memory": row.memory}),
        )  # fmt: skip

    summary = evaluate(*make(sources.test), sources.test, seed=seed).summary
    axes = {name: each for name, each in stress_axes(sources.test, sources.longer, seed=seed, count=STRESSED).items() if name in AXES}
    return {
        "retention": {key: summary[key] for key in ("retention", "retention_interval")},
        "stress": measure_stress(make, axes, seed=seed),
        "tokens": trained_tokens(checkpoint),
    }


def trained_tokens(checkpoint: Path) -> int:
    """Tokens of the last stage."""
    lines = (checkpoint.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["tokens"])


def cost_of(model: ReactiveTransformer, codec: Tokenizer, talk: Conversation, memory: str | None, turn: int) -> dict[str, float]:
    """One turn of a conversation: the answer of the data is said, then written.

    Returns:
        `flops`: of all matrix products, counted; `seconds`: of one thread, the least of five; `memory_bytes`: what is kept at that turn,
        transcripts as int16 tokens.
    """
    said = [(codec.encode(each.query), codec.encode(each.answer)) for each in talk.interactions]
    prompt, whole = prompt_ids(said[turn][0]), interaction_ids(*said[turn])
    before = [interaction_ids(*pair) for pair in said[:turn]]
    last = int(memory.partition(":")[2]) if memory else None
    history = [token for ids in before[-(last or turn) :] for token in ids] if rereads(model.config) else []
    ids = torch.tensor([[*history, *whole]])
    written, backend = TokenBatch.pad([whole]), TranscriptMemory(last) if rereads(model.config) else StmBackend(model)

    @torch.no_grad()
    def take() -> None:
        stm = model.init_memory(1).detach()
        hidden = model.decode_hidden(ids, torch.ones_like(ids, dtype=torch.bool), stm)
        model.decoder.head(hidden[:, len(history) + len(prompt) - 1 : -1])
        if isinstance(backend, StmBackend):
            backend.write(stm, written, torch.tensor([True]))

    seconds = []
    for _ in range(5):
        begun = time.thread_time()
        take()
        seconds.append(time.thread_time() - begun)
    chosen = model.config.attention_backend
    model.use_attention("sdpa")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        take()
    model.use_attention(chosen)
    kept = 2 * len(history) if rereads(model.config) else 4 * model.config.memory_values
    return {"flops": counter.get_total_flops(), "seconds": min(seconds), "memory_bytes": kept}


def baselines_tables(out: Path, seeds: Sequence[int]) -> list[str]:
    """Markdown rows: retention by seed with the mean, then cost of a turn and memory."""
    heads = ["16 turns", *AXES.values()]
    quality = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    cost = [f"| | {' | '.join(f'turn {turn}' for turn in TURNS)} | memory at turn 16 | at turn 256 |", "|---" * (len(TURNS) + 3) + "|"]
    for name, row in ROWS.items():
        found = [
            json.loads(path.read_text(encoding="utf-8")) for seed in seeds if (path := result_of(folder_of(out, seed, row), row)).exists()
        ]
        if not found:
            continue
        columns = [[each["retention"]["retention"] for each in found]]
        columns += [[each["stress"][axis]["mean"] for each in found] for axis in AXES]
        quality.append(f"| {name} | {' | '.join(map(_by_seed, columns))} |")
        if row.rate is None:
            cost.append(f"| {name} | {' | '.join(_costs(row, seeds[0]))} |")
    return [*quality, "", *cost]


def _costs(row: Row, seed: int) -> Iterator[str]:
    """Cost of the turns, which no training changes, and bytes of memory at turns 16 and 256."""
    sources = open_sources(DataConfig(test_conversations=1), seed)
    model, codec = fresh_model(row.model, None, sources, None, seed)
    model.requires_grad_(False).eval()
    first = [each for each in sources.test if isinstance(each, Conversation)]
    [talk] = with_small_talk(first, max(TURNS) - first[0].steps, "spread", seed=seed)
    found = {turn: cost_of(model, codec, talk, row.memory, turn) for turn in TURNS}
    yield from (f"{each['flops'] / 1e6:.1f} ({1000 * each['seconds']:.1f} ms)" for each in found.values())
    yield from (f"{found[turn]['memory_bytes'] / 1000:.1f} KB" for turn in (16, 256))


def _by_seed(values: Sequence[float]) -> str:
    mean = f"**{sum(values) / len(values):.3f}**"
    return mean + (f" ({', '.join(f'{each:.3f}' for each in values)})" if len(values) > 1 else "")
