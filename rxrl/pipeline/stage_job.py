"""One supervised stage as a library: its data, model and task, trained in the folder of a run from a checkpoint to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rxrl.data.mixing import mix_of
from rxrl.data.splits import WORLD, Sources
from rxrl.data.stores import Options, Reporter, is_store
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import ConfigError
from rxrl.models import ReactiveTransformer, preset
from rxrl.pipeline.checks import check_lengths, check_parts, reading_hint
from rxrl.pipeline.parts import CHECKPOINT, make_task
from rxrl.pipeline.supervised import open_stage
from rxrl.policies import rereads
from rxrl.runs.callbacks import RunCallback
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import save_settings
from rxrl.stages.config import BASELINE_STAGES, ReadingConfig, StageConfig
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import StageTask

DEFAULT_BASELINE = "pico-causal"
"""Preset of a model without memory, where none is named."""
Say = Callable[[str], None]
Reporting = Callable[[], AbstractContextManager[Reporter]]


def quietly() -> AbstractContextManager[Reporter]:
    """Tells nobody."""
    return nullcontext(Reporter())


@dataclass(frozen=True, slots=True)
class StageJob:
    """What a stage needs to run.

    Attributes:
        name: One of `rxrl.stages.config.STAGES` or `BASELINE_STAGES`.
        settings: Of the stage.
        data: Names of what to train on, as `--data` takes them; None: the generated world.
        held_out: What to validate on, one for each file of the data; empty: a part of it.
        level: Of the generated world and of scenarios.
        start: Checkpoint to start from; None: a new model.
        preset: Size of a new model.
        model: Fields of a new model that differ from the preset.
        tokenizer: Tokenizer of a new model; None: that of a token store, else one trained on the data.
        options: How a large source becomes a token store.
    """

    name: str
    settings: StageConfig
    data: Sequence[str] | None = None
    held_out: Sequence[str] = ()
    level: int | None = None
    start: Path | None = None
    preset: str = "pico"
    model: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None
    options: Options = field(default_factory=Options)

    def of_full_vocabulary(self) -> StageJob:
        """The same with a new model of the preset's vocabulary, where its tokenizer is trained, maybe on too little data to fill that."""
        known = self.start or self.tokenizer or any(map(is_store, mix_of(self.data or WORLD)))
        return self if known else replace(self, model={"vocab_size": preset(self.preset).vocab_size, **self.model})

    def prepare(self, report: Reporting = quietly) -> tuple[ReactiveTransformer, Tokenizer, Sources]:
        """Model, tokenizer and data.

        Args:
            report: Makes what is told of the data.

        Raises:
            RxrlError: Something is missing or wrong.
        """
        with report() as reporter:
            model, codec, sources = open_stage(
                self.name,
                self.settings.seed,
                start=self.start,
                size=self.preset,
                tokenizer=self.tokenizer,
                data=self.data,
                held_out=self.held_out,
                level=self.level,
                options=self.options,
                reporter=reporter,
                changes=self.model,
            )
        if self.name in BASELINE_STAGES and not rereads(model.config):
            raise ConfigError(
                f"The stage {self.name} trains a baseline without memory, such as --preset {DEFAULT_BASELINE}: name one of those."
            )
        check_parts(self.name, self.settings, model)
        check_lengths(self.settings, sources)
        return model, codec, sources

    def open(self, report: Reporting = quietly) -> tuple[ReactiveTransformer, Tokenizer, StageTask]:
        """Model, tokenizer and task; see `prepare`."""
        model, codec, sources = self.prepare(report)
        return model, codec, make_task(self.name, self.settings, sources, codec, model.config.max_length)

    def run(
        self,
        folder: RunFolder,
        resume: bool,
        say: Say,
        report: Reporting = quietly,
        callbacks: Sequence[RunCallback] = (),
        checkpoint_every: int | None = 100,
    ) -> Path:
        """Trains the stage, or goes on with it, in a claimed folder; returns the checkpoint that it ends with.

        Args:
            folder: Of the run.
            resume: Go on from the newest checkpoint in the folder, where there is one.
            say: Is told each step in a sentence.
            report: Makes what is told of the data.
            callbacks: Notified of events.
            checkpoint_every: Steps between two checkpoints to go on from.

        Raises:
            Interrupted: A signal came; a checkpoint was written.
            RxrlError: Something is missing or wrong.
        """
        model, codec, sources = self.prepare(report)
        if isinstance(self.settings, ReadingConfig) and (hint := reading_hint(sources)):
            say(hint)
        task = make_task(self.name, self.settings, sources, codec, model.config.max_length)
        runner = StageRunner(self.name, model, codec, task, self.settings, folder, callbacks, checkpoint_every)
        if resume and not runner.resume():
            runner.log.rewind()
        if runner.processes.first:
            save_settings(self.settings, folder.path / "config.yaml")
        say(f"Stage {self.name}: step {runner.step} of at most {self.settings.most_iterations}; {runner.processes.describe()}")
        runner.train(say)
        path = runner.save(folder.path / CHECKPOINT)
        say(f"Wrote {path}.")
        return path
