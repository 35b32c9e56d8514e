"""The main job: data, tokenizer, supervised stages, MRL through a curriculum, SMAT continued beside it, evaluation, report."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rxrl.curricula import Curriculum, load_curriculum
from rxrl.data.origins import Origin
from rxrl.data.splits import Sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ENVIRONMENTS
from rxrl.errors import ConfigError
from rxrl.evaluation import (
    CONTROLS,
    WHOLE_CONTROLS,
    Evaluation,
    compare_scenarios,
    evaluate,
    measure_stress,
    read_report,
    stress_axes,
    stress_by_axis,
    summarise_comparisons,
    write_report,
)
from rxrl.evaluation.provenance import made_with
from rxrl.factory import TokenEmbeddings
from rxrl.models import ReactiveTransformer
from rxrl.pipeline.beside import Teller, Voice, beside
from rxrl.pipeline.checks import check_fit, check_rewards, check_supply, check_thoughts, check_turns, longest_turns, short_answers
from rxrl.pipeline.config import PipelineConfig
from rxrl.pipeline.parts import CHECKPOINT, alarm_notes, make_task, new_model, train_tokenizer
from rxrl.players import Play, model_play
from rxrl.rewards import load_reward
from rxrl.runs.checkpoints import newest_position
from rxrl.runs.folder import RunFolder
from rxrl.runs.identity import save_settings
from rxrl.runs.processes import Processes
from rxrl.runs.tracking import MetricsLog, read_metrics
from rxrl.stages.config import STAGES, SmatPhase, StageConfig
from rxrl.stages.runner import StageRunner
from rxrl.supply import named_reward, open_configured
from rxrl.training.callbacks import Callback
from rxrl.training.episodes import stage_rewards
from rxrl.training.rules import check_rules, check_signals, check_stages, without_idle_signals
from rxrl.training.trainer import MRLTrainer
from rxrl.types import Scenario
from rxrl.writing import write_json

CONTINUED = "smat-continued"
INTERACTIVE = "interactive"
"""Folder of the second job, below that of the first."""
PATIENCE = 10.0
"""Seconds that a second job beside the first waits for its folder."""
CHECKPOINT_EVERY = 200
"""Steps of a supervised stage between two checkpoints to go on from."""


class Pipeline:
    """Runs the main job in a folder; tells what it does through `say` and the callbacks.

    Args:
        config: Of the whole job.
        folder: Everything goes here; a claimed `RunFolder` where the caller holds it.
        say: Is told each step in a sentence.
        callbacks: Notified of the events of all trainings.
        label: Name of the settings, for the report.
        beside: Runs the second job at the same time, in a process of its own, and is told what that says, from another thread;
            None: the second job comes after the first.
    """

    def __init__(
        self,
        config: PipelineConfig,
        folder: str | Path | RunFolder,
        *,
        say: Callable[[str], None] = lambda text: None,
        callbacks: tuple[Callback, ...] = (),
        label: str = "",
        beside: Voice | None = None,
    ) -> None:
        self.config, self.run_folder, self.say = config, RunFolder.of(folder), say
        self.folder, self.callbacks, self.label, self.beside = self.run_folder.path, callbacks, label, beside
        self.curriculum: Curriculum = load_curriculum(config.curriculum)
        # As the settings say, until the data shows what it cannot feed.
        self.stages, self.mrl = config.stages, config.mrl
        self.notes: list[str] = []
        self.reward = load_reward(named_reward(config.data.mix))
        self.started = time.perf_counter()
        self.resumes = False
        self._prepared: tuple[Sources, Pipeline | None] | None = None
        self._stress: dict[str, dict[str, Any]] = {}

    def run(self, resume: bool = False) -> Path:
        """From nothing, or from what the folder holds of this run, to the report; returns its path.

        Raises:
            Interrupted: A signal came; a checkpoint was written.
            RunInUse: Another process writes in the folder.
        """
        with self.run_folder.claimed():
            return self._run(resume)

    def _run(self, resume: bool) -> Path:
        self.resumes, self.started = resume, time.perf_counter()
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        sources, second = self.prepare()
        with self._second_job(second) as finish_second:
            return self._first_job(sources, finish_second)

    def _first_job(self, sources: Sources, finish_second: Callable[[], object]) -> Path:
        resume = self.resumes
        save_settings(self.config, self.folder / "config.yaml")
        save_settings(self.curriculum, self.folder / "curriculum.yaml")
        if resume:
            MetricsLog(self.folder).rewind(newest_position(self.folder / "checkpoints"))
        tokenizer = self._tokenizer(sources)
        model = new_model(self.config.preset, tokenizer, self.config.seed, self.config.model)
        check_thoughts(self.mrl, model.config.template)
        steps = max(stage.steps for stage in self.curriculum.stages)
        check_fit(sources, tokenizer, model.config.max_length, steps)
        # Where a user reacts, nobody has to say what the conversations of supervised training say.
        if self.config.data.told and (short := short_answers(sources, tokenizer, self.mrl.max_answer_tokens, steps)) is not None:
            self._note(short)
        self.supervise(model, tokenizer, sources)
        supervised = copy.deepcopy(model)
        after_supervised = self.measure(model, tokenizer, sources, "supervised", ())
        self.say(headline("after supervised training", after_supervised))
        trainer = self.reinforce(model, tokenizer, sources)
        if not (self.folder / CHECKPOINT).exists():
            # Saved again after a fault further on, it would name a later place in the metrics.
            trainer.save_result(self.folder / CHECKPOINT)
        controls = (*(CONTROLS if self.config.data.told else ()), *(WHOLE_CONTROLS if self.config.data.reacts else ()))
        after_mrl = self.measure(model, tokenizer, sources, "mrl", controls)
        self.say(headline("after MRL", after_mrl))
        smat = self.continue_smat(supervised, tokenizer, sources, trainer.state.tokens) if self.config.smat_continued else None
        finish_second()
        return self.report(after_supervised, after_mrl, smat, trainer, sources)

    def prepare(self) -> tuple[Sources, Pipeline | None]:
        """Opens the data, and refuses what a later part of this job or of the second could not be trained with; writes nothing.

        Returns:
            The data, and the second job; the same each time.

        Raises:
            RxrlError: Something is missing or wrong.
        """
        if (count := Processes(self.mrl.precision).count) > 1:
            raise ConfigError(f"The main job runs in one process, here are {count}: `rxrl pipeline`, `rxrl stage` and `rxrl train` share.")
        if self._prepared is None:
            sources = open_configured(self.config.data, self.config.seed, self.say)
            self._adapt(sources)
            self._check(sources)
            self._prepared = sources, self._second()
        return self._prepared

    def _second(self) -> Pipeline | None:
        """The job on a scenario that goes with this one."""
        if self.config.interactive is None:
            return None
        shared = {"seed": self.config.seed, "threads": self.config.threads}
        config = self.config.interactive.model_copy(update=shared)
        job = Pipeline(config, self.folder / INTERACTIVE, say=self.say, callbacks=self.callbacks, label=", ".join(config.data.mix))
        job.prepare()
        return job

    @contextmanager
    def _second_job(self, second: Pipeline | None) -> Iterator[Callable[[], object]]:
        """Starts the second job if it is to run beside the first; yields what does it, or waits for its end."""
        if second is None:
            yield lambda: None
        elif self.beside is None:
            yield partial(self._run_second, second)
        else:
            self.say(f"The second job runs at the same time: a user who reacts ({second.label}).")
            with beside(_run_beside, (second.config, second.folder, second.label, self.resumes), self.beside) as wait:
                yield wait

    def _run_second(self, second: Pipeline) -> None:
        self.say(f"The second job: a user who reacts ({second.label}).")
        second.run(self.resumes)

    def _check(self, sources: Sources) -> None:
        """Refuses what a later part could not be trained with before the first begins."""
        ENVIRONMENTS.find(self.mrl.env)
        rewards = stage_rewards(self.curriculum, self.mrl, TokenEmbeddings())
        check_rules(self.curriculum, sources.played[1], self.mrl.evaluation.conversations)
        check_stages(self.curriculum, self.mrl, 1)
        check_supply(self.curriculum, sources)
        check_signals(self.curriculum, self.mrl, sources.played[0])
        check_rewards(self.curriculum, rewards, sources)
        check_turns(self.stages, sources)

    def _adapt(self, sources: Sources) -> None:
        """Leaves out what the settings want only where the data has it; says so, now and in the report."""
        if self.config.shorten:
            self._shorten(sources)
        self.mrl, idle = without_idle_signals(self.curriculum, self.mrl, sources.played[0])
        for name, missing in idle.items():
            self._note(f"The signal {name!r} is left out: it needs {missing}, and the data has none.")

    def _note(self, text: str) -> None:
        self.say(text)
        self.notes.append(text)

    def _shorten(self, sources: Sources) -> None:
        """Cuts phases and stages of the curriculum down to the turns that the conversations have."""
        wanted = max(self.stages.most_turns, *(stage.steps for stage in self.curriculum.stages))
        if (longest := longest_turns(sources, wanted)) == wanted:
            return
        self._note(f"The data cannot train and validate {wanted} turns: phases and stages that ask for more than {longest} have {longest}.")
        self.stages, self.curriculum = self.stages.shortened(longest), self.curriculum.shortened(longest)

    def supervise(self, model: ReactiveTransformer, tokenizer: Tokenizer, sources: Sources) -> None:
        """Runs the supervised stages one after the other, each from checkpoint to checkpoint."""
        for name in STAGES:
            config: StageConfig | None = getattr(self.stages, name.replace("-", "_"))
            if config is None:
                continue
            seeded = config.model_copy(update={"seed": self.config.seed})
            task = make_task(name, seeded, sources, tokenizer, model.config.max_length)
            runner = StageRunner(name, model, tokenizer, task, seeded, self.run_folder, self.callbacks, CHECKPOINT_EVERY)
            self.say(f"Stage {name}: at most {seeded.most_iterations} steps.")
            runner.complete(self.resumes, self.say)

    def reinforce(self, model: ReactiveTransformer, tokenizer: Tokenizer, sources: Sources) -> MRLTrainer:
        """Memory Reinforcement Learning through the curriculum."""
        config = self.mrl.model_copy(update={"seed": self.config.seed})
        names = ", ".join(stage.name for stage in self.curriculum.stages)
        self.say(f"Memory Reinforcement Learning ({config.algorithm.name}): {names}.")
        trainer = MRLTrainer(
            model,
            tokenizer,
            curriculum=self.curriculum,
            source=sources.played[0],
            held_out=sources.played[1],
            config=config,
            folder=self.run_folder,
            callbacks=self.callbacks,
        )
        if self.resumes:
            trainer.resume(rewind=False)
        trainer.train(self.say)
        return trainer

    def continue_smat(self, model: ReactiveTransformer, tokenizer: Tokenizer, sources: Sources, tokens: int) -> Evaluation:
        """The supervised checkpoint trained on with SMAT, on conversations as MRL's and for as many tokens."""
        longest = max(stage.steps for stage in self.curriculum.stages)
        config = self.stages.smat.model_copy(
            update={
                "seed": self.config.seed + 1,
                # Tokens decide, and with them the schedule: how many a batch holds differs with the length of conversations.
                "phases": (SmatPhase(steps=longest, iterations=tokens),),
                "max_tokens": tokens,
                "unfreeze": {},
                "validate_every": 10**9,
                # A rival whose gradients explode is none.
                "gradient_growth": self.mrl.algorithm.gradient_growth,
            }
        )
        task = make_task("smat", config, sources, tokenizer, model.config.max_length)
        runner = StageRunner(CONTINUED, model, tokenizer, task, config, self.run_folder, self.callbacks, CHECKPOINT_EVERY)
        self.say(f"For comparison, SMAT continued for the same {tokens:,} tokens.")
        runner.complete(self.resumes, self.say)
        evaluation = self.measure(model, tokenizer, sources, CONTINUED, ())
        self.say(headline("after SMAT continued", evaluation))
        return evaluation

    def measure(self, model: ReactiveTransformer, tokenizer: Tokenizer, sources: Sources, name: str, controls: Sequence[str]) -> Evaluation:
        """Greedy answers on the test conversations, always from fresh memory; then the same under stress."""
        known = sources.train.take(steps=1, strategy="multi-step", start=0, count=500)
        limits = {name: getattr(self.mrl, name) for name in ("max_answer_tokens", "max_think_tokens")}

        def make(played: Sequence[Scenario]) -> Play:
            return model_play(model, tokenizer, played, reward=self.reward, known=known, **limits)

        folder, seed = self.folder / "evaluation" / name, self.config.seed
        evaluation = evaluate(*make(sources.test), sources.test, seed=seed, controls=tuple(controls))
        evaluation.save(folder)
        axes = stress_axes(sources.test, sources.longer, seed=seed, count=self.config.stress_conversations)
        stress = measure_stress(make, axes, seed=seed)
        write_json(folder / "stress.json", stress)
        self._stress[f"after_{name.replace('-', '_')}"] = stress
        return evaluation

    def report(self, supervised: Evaluation, mrl: Evaluation, smat: Evaluation | None, trainer: MRLTrainer, sources: Sources) -> Path:
        """`report.html` and `report.json`."""
        run = {
            "title": "Memory Reinforcement Learning",
            "seed": self.config.seed,
            "made_with": made_with(),
            "data": [each.saved() for each in (*sources.origins, Origin.of_played(", ".join(self.config.data.mix), sources.test))],
            "wall_seconds": round(time.perf_counter() - self.started, 1),
            "resumed": self.resumes,
            "preset": self.config.preset,
            "budget": self.label,
            "after_supervised": supervised.summary,
            "after_mrl": mrl.summary,
            "controls": mrl.controls,
            "stress": stress_by_axis(self._stress),
            "comparisons": summarise_comparisons(
                mrl=mrl.records, supervised=supervised.records, smat=() if smat is None else smat.records, seed=self.config.seed
            ),
            "scenarios": self._scenarios(supervised, mrl),
            "stages": trainer.state.stages,
            "alarms": trainer.state.alarms,
            "cost": mrl.cost,
            "config": self.config.saved() | {"curriculum": self.curriculum.saved()},
        }
        run["notes"] = notes = [*self.notes, *alarm_notes(trainer.state.alarms)]
        if self.config.interactive is not None:
            notes += [f"The dialogues and learning curves of the second job are in {INTERACTIVE}/report.html."]
        if smat is not None:
            run["after_smat_continued"] = smat.summary
        write_report(run, read_metrics(self.folder), mrl.records, self.folder)
        return self.folder / "report.html"

    def _scenarios(self, supervised: Evaluation, mrl: Evaluation) -> dict[str, Any]:
        """What was played here and in the second job, before and after MRL."""
        found = compare_scenarios(supervised.scenarios, mrl.scenarios, (supervised.records, mrl.records), seed=self.config.seed)
        return found if self.config.interactive is None else found | read_report(self.folder / INTERACTIVE)["scenarios"]

    def _tokenizer(self, sources: Sources) -> Tokenizer:
        tokenizer = train_tokenizer(self.config, sources)
        self.say(f"Tokenizer: {tokenizer.vocab_size} tokens, {tokenizer.hash[:12]}.")
        return tokenizer


def _run_beside(config: PipelineConfig, folder: Path, label: str, resume: bool, teller: Teller) -> None:
    """The second job, in a process of its own."""
    # The process of a run that was killed may take a moment to end.
    patient = RunFolder(folder, PATIENCE)
    Pipeline(config, patient, say=teller.say, callbacks=(teller,), label=label).run(resume)


def headline(when: str, evaluation: Evaluation) -> str:
    """One line of the main numbers."""
    parts = [
        f"{name} {each['score']:.2f} of 10 (without memory at best {each['blind']:.2f}, at best {each['best']:.2f})"
        for name, each in evaluation.scenarios.items()
    ]
    summary = evaluation.summary
    found = {name: summary.get(name) for name in ("retention_at_16", "retention_far", "retention_near")}
    parts += [f"{name} {value:.3f}" for name, value in found.items() if value is not None]
    mean = (summary.get("reward") or {}).get("mean")
    parts += [] if mean is None or evaluation.scenarios else [f"reward {mean:.2f} of 10"]
    return f"Held-out {when}: {', '.join(parts)}"
