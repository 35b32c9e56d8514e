"""`rxrl train`: Memory Reinforcement Learning from a checkpoint, through a curriculum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from rxrl.cli.console import plain_console
from rxrl.cli.progress import Terminal
from rxrl.cli.shared import (
    ConfigFile,
    HeldOut,
    LevelOption,
    Out,
    Overrides,
    Resume,
    Seed,
    TrainData,
    quoted,
    run_folder,
    seed_override,
)
from rxrl.config import load_config
from rxrl.curricula import Curriculum, Stage, load_curriculum
from rxrl.curricula.curriculum import GROUPS
from rxrl.errors import ConfigError
from rxrl.factory import checkpoint_folder, load_checkpoint
from rxrl.pipeline.checks import check_training
from rxrl.pipeline.parts import CHECKPOINT, run_training
from rxrl.runs.processes import Processes
from rxrl.supply import named_reward, open_named
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer

RewardName = Annotated[
    str | None, typer.Option(help="Reward: a name (rxrl list rewards), package.module:function or path/file.py:function.")
]
EnvName = Annotated[str | None, typer.Option(help="Environment: a name (rxrl list envs), package.module:Class or path/file.py:Class.")]
Coefficients = Annotated[
    str | None,
    typer.Option(
        help="What the update learns from, with coefficients: reward=1,reference=0.5 (rxrl list signals). What is not named is off. "
        "Default: reward=1."
    ),
]


class Wandb(StrEnum):
    """What to do with Weights & Biases."""

    off = "off"
    offline = "offline"
    online = "online"


def train(  # noqa: PLR0913, PLR0917
    start: Annotated[Path, typer.Option("--from", help="Checkpoint to start from. A frozen copy of it is the reference policy.")],
    out: Out,
    curriculum: Annotated[str, typer.Option(help="Curriculum: a name (rxrl list curricula) or a YAML file.")] = "quickstart",
    config: ConfigFile = None,
    override: Overrides = None,
    reward: RewardName = None,
    env: EnvName = None,
    algorithm: Annotated[str | None, typer.Option(help="Algorithm: a name (rxrl list algorithms). Default: impo.")] = None,
    signals: Coefficients = None,
    data: TrainData = None,
    held_out: HeldOut = None,
    level: LevelOption = None,
    seed: Seed = None,
    resume: Resume = False,
    wandb: Annotated[Wandb | None, typer.Option(help="Log to Weights & Biases. Default: off.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard event files to --out.")] = False,
    stop_on_alarm: Annotated[
        bool, typer.Option("--stop-on-alarm", help="When a metric raises an alarm, save a checkpoint and stop.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and stop.")] = False,
) -> None:
    """Train a model's memory with reinforcement learning, through a curriculum."""
    stages = load_curriculum(curriculum)
    # A reward may be a mapping, everything else is text as it stands.
    named = {"reward": reward, "env": quoted(env), "algorithm.name": quoted(algorithm), "signals": _pairs(signals), "tracking.wandb": wandb}
    chosen = _overrides(seed, named, {"tracking.tensorboard": tensorboard, "alarms.stop": stop_on_alarm})
    settings = load_config(config, MRLConfig, [*chosen, *(override or [])])
    if "reward" not in settings.model_fields_set:
        settings = settings.model_copy(update={"reward": named_reward(data)})
    processes = Processes(settings.precision)
    terminal = Terminal(plain_console(quiet=not processes.first))
    if dry_run:
        model, _ = load_checkpoint(start)
        check_training(stages, settings, model, open_named(data, held_out or (), level, settings.seed, say=terminal.say), processes.count)
        terminal.console.print(plan(stages, settings))
        return
    with closing(terminal), run_folder(out, resume, processes.first) as folder:
        if (out / CHECKPOINT).exists():
            terminal.say(f"Nothing to do: {out / CHECKPOINT} is finished.")
            return
        # Resolved once: model, tokenizer and critic all come from here.
        start = checkpoint_folder(start)
        model, tokenizer = load_checkpoint(start)
        sources = open_named(data, held_out or (), level, settings.seed, say=terminal.say)
        source, validation = sources.played
        check_training(stages, settings, model, sources, processes.count)
        trainer = MRLTrainer(
            model,
            tokenizer,
            curriculum=stages,
            source=source,
            held_out=validation,
            config=settings,
            folder=folder,
            callbacks=(terminal,),
            start=start,
        )
        run_training(trainer, terminal.say, resume, sources.origins)


def _pairs(signals: str | None) -> str | None:
    """`reward=1,reference=0.5` as YAML.

    Raises:
        ConfigError: It has another form.
    """
    if signals is None:
        return None
    pairs = dict(each.strip().rpartition("=")[::2] for each in signals.split(","))
    try:
        coefficients = {name: float(value) for name, value in pairs.items()}
    except ValueError:
        coefficients = {}
    if "" in pairs or len(coefficients) != len(signals.split(",")):
        raise ConfigError(f"--signals takes one coefficient for each name, such as reward=1,reference=0.5, got {signals!r}.")
    return json.dumps(coefficients)


def _overrides(seed: int | None, named: Mapping[str, str | None], switches: Mapping[str, bool]) -> list[str]:
    """What the options of the command say, as overrides of the settings."""
    given = [f"{key}={value}" for key, value in named.items() if value is not None]
    return [*seed_override(seed), *given, *(f"{key}=true" for key, on in switches.items() if on)]


def plan(curriculum: Curriculum, config: MRLConfig) -> Table:
    """What trains when."""
    table = Table(title=f"Curriculum {curriculum.name}", title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("stage", "steps", "strategy", "iterations", "learns, at rate"):
        table.add_column(heading)
    for stage in curriculum.stages:
        table.add_row(stage.name, str(stage.steps), _strategies(stage), _iterations(stage), _rates(stage, config))
    total = sum(stage.iterations for stage in curriculum.stages)
    table.caption = (
        f"At most {min(total, config.max_iterations or total)} iterations of {config.episodes} conversations with "
        f"{config.algorithm.name}; signals: {_named(config)}; reward: {config.reward}; "
        f"rates: {config.optimizer.schedule} schedule."
    )
    return table


def _named(config: MRLConfig) -> str:
    return ", ".join(f"{name} {each.coefficient:g}" for name, each in config.signals.items())


def _strategies(stage: Stage) -> str:
    mix = stage.strategies
    earlier = [f"{stage.earlier_share:.0%} from before"] if stage.earlier_share else []
    return "\n".join([*(name if len(mix) == 1 else f"{name} {share:.0%}" for name, share in mix.items()), *earlier])


def _iterations(stage: Stage) -> str:
    rule = stage.advance
    early = [] if rule is None else [f"or {rule.metric} {rule.threshold:g}", f"({rule.patience} times)"]
    changes = [f"{stage.episodes} conversations"] if stage.episodes else []
    return "\n".join([f"up to {stage.iterations}", *early, *changes, *(f"{key}: {value}" for key, value in stage.algorithm.items())])


def _rates(stage: Stage, config: MRLConfig) -> str:
    stage_rates: Mapping[str, float] = {str(group): rate for group, rate in stage.learning_rates.items()}
    own = {"critic": config.critic_optimizer.learning_rate, **config.optimizer.learning_rates, **stage_rates}
    named = stage.trained_groups if "all" not in stage.train else {group for group in own if group in stage.trained_groups}
    lines = [f"{group} {own.get(group, config.optimizer.learning_rate):g}" for group in GROUPS if group in named]
    return "\n".join(lines if "all" not in stage.train else [f"all {config.optimizer.learning_rate:g}", *lines])
