"""What a curriculum is: stages of growing `steps` as data, written in Python or in YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from rxrl.config import BaseConfig, WrongValueError, load_config, parse_config
from rxrl.errors import ConfigError
from rxrl.registry import Registry, called, first_paragraph
from rxrl.types import ParameterGroup, Strategy
from rxrl.validation import is_whole

Group = Literal[ParameterGroup, "critic"]
GROUPS: tuple[Group, ...] = get_args(Group)
"""Parameter groups that a stage can train, each with its own learning rate."""

Share = Annotated[float, Field(ge=0, le=1)]
MAX_STEPS, MAX_LONG_STEPS = 16, 32


class Rule(BaseConfig):
    """Leave a stage when a held-out metric has been good (or, to regress, bad) for long enough."""

    metric: str = Field("retention", description="Name of the observed metric.", min_length=1)
    threshold: float = Field(description="Advance at or above this value; regress below it.")
    patience: int = Field(1, ge=1, description="Observations in a row that must agree.")


class RegressRule(Rule):
    """Return to the previous stage when a held-out metric collapses."""

    limit: int = Field(2, ge=1, description="Times this stage may send back; afterwards it stays, so that every curriculum ends.")


class StageSettings(BaseConfig):
    """Everything about a stage but its name and number of steps."""

    strategy: Strategy | dict[Strategy, Annotated[float, Field(ge=0)]] = Field(
        "multi-step", description="Strategy of the episodes, or a mix: a weight for each strategy (weights need not sum to 1)."
    )
    iterations: int = Field(50, ge=1, description="Most iterations (collect, update) the stage may take.")
    min_iterations: int = Field(0, ge=0, description="Iterations before any rule is looked at.")
    advance: Rule | None = Field(None, description="When to go on early; null runs all iterations.")
    regress: RegressRule | None = Field(None, description="When to return to the stage before; null never does.")
    earlier_share: float = Field(0.0, ge=0, lt=1, description="Share of conversations drawn from the earlier stages, evenly.")
    train: tuple[Group | Literal["all"], ...] = Field(
        ("all",), min_length=1, description=f"Parameter groups that learn: [all], or some of {', '.join(GROUPS)}."
    )
    learning_rates: dict[Group, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="Learning rate by parameter group; groups left out keep the run's own."
    )
    reset_ratio: Share = Field(1.0, description="Share of episodes that start from fresh memory; 1 never carries memory over.")
    reset_from_iteration: int = Field(0, ge=0, description="Iteration of the stage from which reset_ratio holds; before it, 1.")
    teacher_forcing: bool = Field(False, description="Write the reference answer into memory instead of the generated one.")
    reward: str | dict[str, Any] | None = Field(None, description="Reward of this stage; null keeps the run's own.")
    algorithm: dict[str, Any] = Field(default_factory=dict, description="Algorithm options that differ in this stage.")
    signals: dict[str, Any] = Field(default_factory=dict, description="Signals whose settings differ in this stage, as in `mrl.signals`.")
    episodes: int | None = Field(None, ge=1, description="Conversations an iteration; null keeps the run's own.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.strategy, dict) and not any(self.strategy.values()):
            raise WrongValueError("expected a mix with at least one weight above 0", "strategy")
        if self.min_iterations > self.iterations:
            raise WrongValueError(f"{self.min_iterations} is more than iterations ({self.iterations}); lower it", "min_iterations")
        if "all" in self.train and len(self.train) > 1:
            raise WrongValueError("'all' stands alone; give either [all] or a list of groups", "train")
        if len(set(self.train)) < len(self.train):
            raise WrongValueError(f"a group is named twice in {list(self.train)}; name it once", "train")
        for group in self.learning_rates:
            if group not in self.trained_groups:
                raise WrongValueError(f"{group!r} is not trained here; add it to train or drop its rate", "learning_rates", group)
        advance, regress = self.advance, self.regress
        if advance and regress and advance.metric == regress.metric and regress.threshold > advance.threshold:
            message = f"{regress.threshold:g} is above the threshold to advance ({advance.threshold:g}); lower it"
            raise WrongValueError(message, "regress", "threshold")
        return self

    @property
    def trained_groups(self) -> frozenset[Group]:
        """The parameter groups that learn, `all` resolved."""
        return frozenset(GROUPS if "all" in self.train else (group for group in self.train if group != "all"))

    @property
    def strategies(self) -> dict[Strategy, float]:
        """The mix of strategies as positive weights that sum to 1."""
        if isinstance(self.strategy, str):
            return {self.strategy: 1.0}
        largest = max(self.strategy.values())
        scaled = {name: weight / largest for name, weight in self.strategy.items()}
        return {name: weight / sum(scaled.values()) for name, weight in scaled.items() if weight > 0}

    def reset_ratio_at(self, iteration: int) -> float:
        """Share of episodes that start from fresh memory in an iteration of the stage (counted from 0)."""
        return self.reset_ratio if iteration >= self.reset_from_iteration else 1.0


class Stage(StageSettings):
    """One stage of a curriculum: episodes of `steps` turns, trained until its rule or its iterations end it."""

    name: str = Field("", description="Name in reports; made from steps and strategy where it is left out.")
    steps: int = Field(ge=1, le=MAX_LONG_STEPS, description="Turns of an episode: 1 to 16, or to 32 where the curriculum allows it.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not data.get("name"):
            strategy = data.get("strategy", "multi-step")
            suffix = {"multi-step": "", "long-range": "-lr"}.get(strategy, f"-{strategy}") if isinstance(strategy, str) else "-mix"
            return {**data, "name": f"steps-{data.get('steps')}{suffix}"}
        return data

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        if "single-step" in self.strategies and self.steps != 1:
            raise WrongValueError(f"single-step episodes have 1 step, got {self.steps}; use multi-step", "steps")
        if "long-range" in self.strategies and self.steps == 1:
            raise WrongValueError("long-range episodes need at least 2 steps (one to leave the topic, one to return), got 1", "steps")
        return self


class Curriculum(BaseConfig):
    """Stages in the order in which they are trained."""

    name: str = Field("custom", min_length=1, description="Name in reports.")
    description: str = Field("", description="What the curriculum is for, one sentence.")
    allow_long: bool = Field(False, description="Allow stages of 17 to 32 steps.")
    defaults: StageSettings = Field(StageSettings(), description="Settings of every stage that does not say otherwise.")
    stages: tuple[Stage, ...] = Field(min_length=1, description="Stages; a plain number is a stage of that many steps.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """Applies `defaults` to the stages and turns plain numbers into stages."""
        if not isinstance(data, Mapping) or not isinstance(data.get("stages"), list | tuple):
            return data
        defaults = data.get("defaults") or {}
        if isinstance(defaults, StageSettings):
            defaults = {key: getattr(defaults, key) for key in defaults.model_fields_set}
        return {**data, "stages": [_filled_in(stage, defaults) for stage in data["stages"]]}

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        names: set[str] = set()
        for index, stage in enumerate(self.stages):
            if stage.steps > MAX_STEPS and not self.allow_long:
                message = f"expected 1 to {MAX_STEPS}, got {stage.steps}; set allow_long: true for up to {MAX_LONG_STEPS}"
                raise WrongValueError(message, "stages", index, "steps")
            if stage.name in names:
                raise WrongValueError(f"two stages are named {stage.name!r}; give one of them another name", "stages", index, "name")
            names.add(stage.name)
        return self

    def shortened(self, steps: int) -> Self:
        """The curriculum with `steps` turns a stage at most; stages that are named by their turns are renamed where the name is free."""
        stages = list(self.stages)
        for index, stage in enumerate(stages):
            if stage.steps > steps:
                name = stage.name.replace(f"steps-{stage.steps}", f"steps-{steps}")
                name = stage.name if name in {each.name for each in stages} else name
                stages[index] = stage.model_copy(update={"steps": steps, "name": name})
        return self.model_copy(update={"stages": tuple(stages)})

    @classmethod
    def linear(cls, max_steps: int = MAX_STEPS, *, start: int = 1, allow_long: bool = False, **settings: Any) -> Self:
        """Stages of `start`, `start + 1`, ..., `max_steps` steps; `settings` are fields of `StageSettings` for all of them.

        Raises:
            ConfigError: A value does not fit.
        """
        return cls.custom(range(start, max_steps + 1), name="linear", allow_long=allow_long, **settings)

    @classmethod
    def exponential(cls, max_steps: int = MAX_STEPS, *, start: int = 1, allow_long: bool = False, **settings: Any) -> Self:
        """Stages of `start`, `2 * start`, `4 * start`, ... steps; the last has `max_steps`, also where doubling would pass it.

        Raises:
            ConfigError: A value does not fit.
        """
        if start > max_steps:
            raise ConfigError(f"start ({start}) must not be above max_steps ({max_steps}): the last stage has max_steps.")
        steps = [max_steps]
        doubled = max(start, 1)
        before = []
        while doubled < max_steps:
            before.append(doubled)
            doubled *= 2
        return cls.custom(before + steps if start >= 1 else [start], name="exponential", allow_long=allow_long, **settings)

    @classmethod
    def custom(
        cls,
        stages: Sequence[int | Stage | Mapping[str, Any]],
        *,
        name: str = "custom",
        description: str = "",
        allow_long: bool = False,
        **settings: Any,
    ) -> Self:
        """A curriculum from a list of stages.

        Args:
            stages: Numbers of steps, stages, or mappings with the fields of a stage.
            name: Name in reports.
            description: What it is for.
            allow_long: Allow 17 to 32 steps.
            settings: Fields of `StageSettings` for all stages that do not set them; `Stage` objects are taken as they are.

        Raises:
            ConfigError: A value does not fit.
        """
        data = {"name": name, "description": description, "allow_long": allow_long, "defaults": settings, "stages": list(stages)}
        return parse_config(data, cls, source=f"curriculum {name!r}")

    def mixture(self, index: int) -> list[tuple[Stage, float]]:
        """The stages that the conversations of a stage are drawn from, with their shares, which sum to 1.

        Args:
            index: Position of the stage, from 0.
        """
        stage, earlier = self.stages[index], self.stages[:index]
        if not earlier or stage.earlier_share == 0:
            return [(stage, 1.0)]
        return [(stage, 1 - stage.earlier_share), *((other, stage.earlier_share / len(earlier)) for other in earlier)]


def load_curriculum(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Reads a curriculum.

    Args:
        name_or_path: Name of a built-in one (`rxrl list curricula`) or of one that a package registers, a YAML file,
            `package.module:name` or `path/file.py:name` of a `Curriculum` or of a function that makes one.
        overrides: Dotted overrides, such as `stages.0.iterations=10`.

    Raises:
        ConfigError: There is no such curriculum, or it is wrong; the message names file, line and reason.
    """
    text = str(name_or_path)
    if text not in CURRICULA and (Path(text).suffix in {".yaml", ".yml"} or Path(text).is_file()):
        return load_config(text, Curriculum, overrides)
    found = CURRICULA.find(text)
    if isinstance(found, Path):
        return load_config(found, Curriculum, overrides)
    made = found if isinstance(found, Curriculum) else called("curriculum", text, "no arguments", found)
    if not isinstance(made, Curriculum):
        raise ConfigError(f"The curriculum {text!r} must be or make an rxrl.curricula.Curriculum, but gave a {type(made).__name__}.")
    return parse_config(made.model_dump(), Curriculum, overrides, source=f"curriculum {text!r}") if overrides else made


def _described(found: Any) -> str:
    """What a curriculum says about itself."""
    if isinstance(found, Path):
        found = load_config(found, Curriculum)
    return found.description if isinstance(found, Curriculum) else first_paragraph(found)


CURRICULA = Registry(
    "curriculum",
    "curricula",
    {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))},
    describe=_described,
    others="A file of your own ends in .yaml.",
)
"""Curricula by name: YAML files, and what packages register: `Curriculum` objects, or functions that make one."""


def _filled_in(stage: Any, defaults: Any) -> Any:
    if is_whole(stage):
        stage = {"steps": stage}
    return {**defaults, **stage} if isinstance(stage, Mapping) and isinstance(defaults, Mapping) else stage
