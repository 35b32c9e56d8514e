"""Recipes: all stages of a published model in order, each in a folder of its own, from data to a model trained with MRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from rxrl.config import BaseConfig, load_config
from rxrl.curricula import load_curriculum
from rxrl.data.mixing import mix_of
from rxrl.data.splits import WORLD, generated, of_texts, paired
from rxrl.errors import ConfigError, some_of, unknown_name
from rxrl.factory import checkpoint_folder, load_checkpoint
from rxrl.models import preset
from rxrl.pipeline.checks import check_training
from rxrl.pipeline.config import StagesConfig
from rxrl.pipeline.estimate import Estimate, estimate_mrl, estimate_stage
from rxrl.pipeline.parts import CHECKPOINT, run_training
from rxrl.pipeline.stage_job import Reporting, Say, StageJob, quietly
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import WATCHING, absolute_paths, differences
from rxrl.runs.processes import Processes
from rxrl.runs.tracking import METRICS_FILE
from rxrl.stages.config import STAGES, StageConfig
from rxrl.supply import named_reward, open_named
from rxrl.training.callbacks import Callback
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer

RECIPES = {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
"""Files of recipes by name."""


class Recipe(BaseConfig):
    """A model size with the settings of all its stages."""

    about: str = Field("", description="What the recipe is.")
    preset: str = Field(description="Model size, see `rxrl presets`.")
    model: dict[str, Any] = Field(default_factory=dict, description="Model fields that differ from the preset.")
    stages: StagesConfig = StagesConfig()
    curriculum: str = Field("published", description="Name or path of the curriculum of MRL.")
    mrl: MRLConfig | None = Field(MRLConfig(), description="Memory Reinforcement Learning; null: the supervised stages alone.")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name, or from a YAML file.

    Raises:
        ConfigError: There is none, or a setting is wrong.
    """
    path = RECIPES.get(name, Path(name))
    if name not in RECIPES and not (path.suffix in (".yaml", ".yml") and path.exists()):
        raise ConfigError(unknown_name("recipe", name, [*RECIPES, "a YAML file"]))
    return load_config(path, Recipe, overrides)


@dataclass(frozen=True, slots=True)
class RecipeData:
    """What a recipe trains on.

    Attributes:
        texts: Of pre-training; names as `--data` takes them; None: the generated world.
        conversations: Of all other stages.
        held_out: Conversations to validate on, one for each file of `conversations`; empty: a part of it.
    """

    texts: Sequence[str] | None = None
    conversations: Sequence[str] | None = None
    held_out: Sequence[str] = ()

    @classmethod
    def named(cls, data: Sequence[str] | None, conversations: Sequence[str] | None, held_out: Sequence[str], say: Say) -> RecipeData:
        """Data by name: where it holds plain texts and there are no conversations, these come from the generated world."""
        texts = data is not None and any(of_texts(name) for name in mix_of(data) if not generated(name))
        if texts and conversations is None:
            say("The data holds plain texts, so the stages after pre-training use the generated world; --conversations names others.")
        return cls(data, conversations if conversations is not None or texts else data, held_out)


class RecipeRun:
    """Runs the stages of a recipe one after the other: skips those that are done and goes on with one that was cut.

    Args:
        recipe: What to train.
        data: On what.
        out: Each stage has a numbered folder below it.
        processes: Those that train; all stages compute in their precision.
        seed: Key of every draw.
        say: Is told each step in a sentence.
        report: Makes what is told of the data.
        callbacks: Notified of the events of all trainings.

    Raises:
        ConfigError: The preset or the curriculum does not exist, or held-out conversations go with none that are trained on.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: RecipeData,
        out: str | Path,
        *,
        processes: Processes,
        seed: int = 0,
        say: Callable[[str], None] = lambda text: None,
        report: Reporting = quietly,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        preset(recipe.preset)
        paired(mix_of(data.conversations or WORLD), data.held_out)
        self.recipe, self.data, self.out, self.say, self.callbacks = recipe, data, Path(out), say, tuple(callbacks)
        self.report, self.processes, self.curriculum = report, processes, load_curriculum(recipe.curriculum)
        self._shared = {"seed": seed, "precision": processes.precision}

    def stages(self) -> Iterator[tuple[Path, StageJob]]:
        """The supervised stages with their folders; each starts from what the one before it ends with."""
        start: Path | None = None
        for name in STAGES:
            settings: StageConfig | None = getattr(self.recipe.stages, name.replace("-", "_"))
            if settings is None:
                continue
            folder = self.out / f"{list(STAGES).index(name) + 1}-{name}"
            data = self.data.texts if name == "pretrain" else self.data.conversations
            # What pre-training holds out is a part of its own texts.
            held_out = self.data.held_out if data is self.data.conversations else ()
            yield (
                folder,
                StageJob(
                    name,
                    settings.model_copy(update=self._shared),
                    data,
                    held_out,
                    start=start,
                    preset=self.recipe.preset,
                    model=self.recipe.model,
                ),
            )
            start = folder / CHECKPOINT

    def run(self) -> Path:
        """Trains everything that is not done yet; returns the folder of the last stage.

        Raises:
            ConfigError: A stage that is done or cut was trained with other settings.
            Interrupted: A signal came; a checkpoint was written.
            RunInUse: Another process writes there.
        """
        folder = self.out
        for folder, job in self.stages():
            self._run(folder, job.settings, partial(job.run, say=self.say, report=self.report, callbacks=self.callbacks))
        if self.recipe.mrl is not None:
            start, folder = folder / CHECKPOINT, self.out / f"{len(STAGES) + 1}-mrl"
            self._run(folder, self._mrl(), partial(self._reinforce, start=start))
        return folder

    def estimates(self) -> Iterator[Estimate]:
        """What each stage takes, from a few steps of it with a model of random weights; nothing is kept.

        Raises:
            RxrlError: Something is missing or wrong.
        """
        for _, job in self.stages():
            self.say(f"Timing {job.name} ...")
            fresh = replace(job, start=None).of_full_vocabulary()
            yield from estimate_stage(fresh, self.report)
        if self.recipe.mrl is not None:
            self.say("Timing mrl ...")
            model, codec, _ = fresh.prepare(self.report)
            config = self._mrl()
            sources = open_named(self.data.conversations, self.data.held_out, None, config.seed)
            yield estimate_mrl(model, codec, self.curriculum, config, sources)

    def _run(self, folder: Path, settings: BaseConfig, train: Callable[[RunFolder, bool], Any]) -> None:
        """Trains in a folder, unless what it holds is finished."""
        run = RunFolder(folder)
        with run.claimed(self.processes.first):
            self._check_same(folder, settings)
            if (folder / CHECKPOINT).exists():
                self.say(f"{folder.name} is done.")
            else:
                train(run, (folder / METRICS_FILE).exists())

    def _check_same(self, folder: Path, settings: BaseConfig) -> None:
        file = folder / "config.yaml"
        if not file.exists():
            return
        saved = load_config(file, type(settings))
        if changed := differences(absolute_paths(saved.saved()), absolute_paths(settings.saved()), WATCHING):
            raise ConfigError(
                f"{folder} was trained with other settings ({some_of(changed)}): give the same, remove it to train the stage again, or "
                "choose another folder."
            )

    def _mrl(self) -> MRLConfig:
        assert self.recipe.mrl is not None, "asked for where there is MRL"
        changes: dict[str, Any] = dict(self._shared)
        if "reward" not in self.recipe.mrl.model_fields_set:
            changes["reward"] = named_reward(self.data.conversations)
        return self.recipe.mrl.model_copy(update=changes)

    def _reinforce(self, folder: RunFolder, resume: bool, start: Path) -> None:
        config, start = self._mrl(), checkpoint_folder(start)
        model, tokenizer = load_checkpoint(start)
        sources = open_named(self.data.conversations, self.data.held_out, None, config.seed, say=self.say)
        source, held_out = sources.played
        check_training(self.curriculum, config, model, sources, self.processes.count)
        trainer = MRLTrainer(
            model,
            tokenizer,
            curriculum=self.curriculum,
            source=source,
            held_out=held_out,
            config=config,
            folder=folder,
            callbacks=self.callbacks,
            start=start,
        )
        run_training(trainer, self.say, resume, sources.origins)
