"""Stages over a world of eighteen words: tasks, runners, and what they changed."""

import json

import torch

from rxrl.runs.callbacks import RunCallback
from rxrl.runs.optim import OptimizerConfig
from rxrl.runs.processes import Share
from rxrl.stages.config import LanguageConfig, MemoryAttentionStageConfig, ReadingConfig, SmatConfig, SmatPhase
from rxrl.stages.language_modelling import LanguageTask
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import MemoryAttentionTask, ReadingTask, SmatTask
from scripts.learning import CODEC
from tests.training.toy import ToySource, tiny_model

LENGTH = 32
COMMON = {"batch_tokens": 60, "validation_rows": 6, "validate_every": 2, "log_every": 1, "optimizer": OptimizerConfig(learning_rate=0.01)}


class Each(RunCallback):
    """Calls a function with stage, step, steps in all and metrics of every line."""

    def __init__(self, function):
        self.function = function

    def on_iteration(self, progress):
        self.function(progress.phase, progress.iteration, progress.total, progress.metrics)


def sentences(start, count):
    return [" ".join(["ann has cat", "bob has dog and", "owl"][: 1 + index % 3]) for index in range(start, start + count)]


def pretrain(**changes):
    return LanguageTask.on_texts(LanguageConfig(**COMMON | {"iterations": 4} | changes), sentences, sentences, CODEC, LENGTH)


def sft(**changes):
    return LanguageTask.on_interactions(LanguageConfig(**COMMON | {"iterations": 4} | changes), ToySource(), ToySource(), 2, CODEC, LENGTH)


def memory_attention(**changes):
    config = MemoryAttentionStageConfig(**COMMON | {"iterations": 4, "steps": 2} | changes)
    return MemoryAttentionTask(config, ToySource(), ToySource(), CODEC, LENGTH)


def reading(**changes):
    return ReadingTask(ReadingConfig(**COMMON | {"iterations": 4} | changes), ToySource(), ToySource(), CODEC, LENGTH)


def smat(phases=((2, 4, None),), **changes):
    steps = tuple(SmatPhase(steps=s, iterations=i, accuracy=a) for s, i, a in phases)
    return SmatTask(SmatConfig(**COMMON | {"phases": steps} | changes), ToySource(), ToySource(), CODEC, LENGTH)


TASKS = {"pretrain": pretrain, "sft": sft, "reading": reading, "memory-attention": memory_attention, "smat": smat}


def runner_in(folder, name="smat", model=None, task=None, **options):
    task = task or TASKS[name]()
    return StageRunner(name, model or tiny_model(initial_memory="learned"), CODEC, task, task.config, folder, **options)


def taken(task, step, progress=0.0):
    """The whole batch of a step."""
    rows = task.size(step)
    return task.take(step, Share(0, rows, rows), progress, lambda columns: columns)


def by_group(model):
    return {group: torch.cat([p.detach().flatten() for _, p in named]) for group, named in model.group_parameters().items()}


def changed(before, after):
    return {group for group in before if not torch.equal(before[group], after[group])}


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
