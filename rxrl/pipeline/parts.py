"""The parts of the main job that its commands run one at a time: a tokenizer, a fresh model, the task of a stage, MRL."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rxrl.data.mixing import mix_of
from rxrl.data.origins import Origin
from rxrl.data.sources import RowsSource
from rxrl.data.splits import WORLD, DataConfig, Sources, generated
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError
from rxrl.evaluation import write_report
from rxrl.evaluation.provenance import made_with
from rxrl.models import ReactiveTransformer, preset
from rxrl.pipeline.config import PipelineConfig
from rxrl.runs.identity import save_settings
from rxrl.runs.tracking import read_metrics
from rxrl.stages.config import LanguageConfig, MemoryAttentionStageConfig, ReadingConfig, RereadingConfig, SmatConfig, StageConfig
from rxrl.stages.language_modelling import LanguageTask
from rxrl.stages.rereading import RereadingTask
from rxrl.stages.tasks import MemoryAttentionTask, ReadingTask, SmatTask, StageTask
from rxrl.template import segments, texts_of
from rxrl.training.trainer import MRLTrainer

CHECKPOINT = "checkpoint"
"""Folder, inside that of a run, of the weights that it ended with."""
TOKENIZER_CONVERSATIONS = 1000


def train_tokenizer(config: PipelineConfig, sources: Sources) -> Tokenizer:
    """A tokenizer of the model's vocabulary, trained on what the sources say."""
    stories = list(sources.stories("train")(0, TOKENIZER_CONVERSATIONS))
    only_texts = isinstance(sources.train, RowsSource) and not len(sources.train)
    told = [] if only_texts else sources.train.take(steps=1, strategy="multi-step", start=0, count=TOKENIZER_CONVERSATIONS)
    longest = WORLD in config.data.mix and all(map(generated, config.data.mix))
    longer = told if not longest else sources.train.take(steps=16, strategy="multi-step", start=0, count=TOKENIZER_CONVERSATIONS)
    said = [interaction for conversation in (*told, *longer) for interaction in conversation.interactions]
    texts = [text for interaction in said for text in texts_of(interaction) if text]
    size = int(config.model.get("vocab_size", preset(config.preset).vocab_size))
    return Tokenizer.train([*stories, *texts], size, template=any(map(segments, said)))


def fresh_model(
    size: str, tokenizer: Path | None, sources: Sources, data: Sequence[str] | None, seed: int, **changes: Any
) -> tuple[ReactiveTransformer, Tokenizer]:
    """A model with random weights and its tokenizer, which is trained on the data where none is given; `changes` are of the preset."""
    preset(size)
    config = PipelineConfig(seed=seed, preset=size, data=DataConfig(train=mix_of(data or WORLD)))
    codec = train_tokenizer(config, sources) if tokenizer is None else Tokenizer.load(tokenizer)
    return new_model(size, codec, seed, changes), codec


def new_model(size: str, codec: Tokenizer, seed: int, changes: Mapping[str, Any]) -> ReactiveTransformer:
    """A model with random weights for a tokenizer.

    Raises:
        ConfigError: The changes leave no room for its tokens.
        ModelError: They do not fit the preset.
    """
    own: dict[str, Any] = codec.model_settings
    if isinstance(given := changes.get("vocab_size"), int) and given < codec.vocab_size:
        raise ConfigError(f"vocab_size={given} is less than the {codec.vocab_size} tokens of the tokenizer: leave it out, or give more.")
    if changes.get("template", own["template"]) != own["template"]:
        raise ConfigError("Whether a model has the markers of the interaction template is decided by its tokenizer: leave template out.")
    return ReactiveTransformer.from_preset(size, seed=seed, **{**own, **changes})


def make_task(name: str, config: StageConfig, sources: Sources, tokenizer: Tokenizer, max_length: int) -> StageTask:
    """The task of a stage."""
    if isinstance(config, SmatConfig):
        kind = RereadingTask if isinstance(config, RereadingConfig) else SmatTask
        return kind(config, sources.train, sources.validation, tokenizer, max_length)
    if isinstance(config, ReadingConfig):
        return ReadingTask(config, sources.train, sources.validation, tokenizer, max_length)
    if isinstance(config, MemoryAttentionStageConfig):
        return MemoryAttentionTask(config, sources.train, sources.validation, tokenizer, max_length)
    assert isinstance(config, LanguageConfig), "stages have one of five configurations"
    if name == "pretrain" and sources.packed is not None:
        return LanguageTask.on_packed(config, sources.packed("train", max_length), sources.packed("validation", max_length))
    if name == "pretrain":
        return LanguageTask.on_texts(config, sources.stories("train"), sources.stories("validation"), tokenizer, max_length)
    return LanguageTask.on_interactions(config, sources.train, sources.validation, 1, tokenizer, max_length)


def run_training(trainer: MRLTrainer, say: Callable[[str], None], resume: bool = False, origins: Sequence[Origin] = ()) -> None:
    """Runs MRL, or goes on with it; leaves the settings, the last weights and a report in the folder of the run.

    Args:
        trainer: Made, not yet begun.
        say: Is told each step in a sentence.
        resume: Go on from the newest checkpoint in the folder, where there is one.
        origins: Where its data come from, for the report.
    """
    out, first = trainer.folder, trainer.processes.first
    if resume and not trainer.resume():
        trainer.log.rewind()
    if first:
        save_settings(trainer.config, out / "config.yaml")
        save_settings(trainer.curriculum, out / "curriculum.yaml")
    names = ", ".join(stage.name for stage in trainer.curriculum.stages)
    say(f"Memory Reinforcement Learning ({trainer.config.algorithm.name}): {names}.")
    started = time.perf_counter()
    trainer.train(say)
    if first:
        _finish(trainer, out, started, resume, origins)
    trainer.processes.wait()
    say(f"Wrote {out / CHECKPOINT} and {out / 'report.html'}.")


def _finish(trainer: MRLTrainer, out: Path, started: float, resumed: bool, origins: Sequence[Origin]) -> None:
    """Writes the last weights, to start from, and a report of the training."""
    run = {
        "title": "Memory Reinforcement Learning",
        "seed": trainer.config.seed,
        "made_with": made_with(),
        "data": [each.saved() for each in origins if each.use != "test"],
        "wall_seconds": round(time.perf_counter() - started, 1),
        "resumed": resumed,
        "preset": trainer.model.config.name,
        "stages": trainer.state.stages,
        "alarms": trainer.state.alarms,
        "notes": alarm_notes(trainer.state.alarms),
        "config": trainer.config.saved() | {"curriculum": trainer.curriculum.saved()},
    }
    write_report(run, read_metrics(out), None, out)
    trainer.save_result(out / CHECKPOINT)


def alarm_notes(alarms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences for a report on the alarms that have sounded."""
    return [f"Alarm {each['name']} at iteration {each['iteration']} ({each['stage']}): {each['message']}" for each in alarms]
