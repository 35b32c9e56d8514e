"""Settings of the main job, and the sets of them that come with the package."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from rxrl.config import BaseConfig, WrongValueError, load_config
from rxrl.data.splits import SCENARIO, WORLD, DataConfig
from rxrl.envs import scenarios
from rxrl.errors import ConfigError, unknown_name
from rxrl.stages.config import LanguageConfig, MemoryAttentionStageConfig, ReadingConfig, SmatConfig
from rxrl.supply import named_reward
from rxrl.training.config import MRLConfig

_FOLDER = Path(__file__).parent / "budgets"
BUDGETS = {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}
"""Files of settings by name."""
_OF_SCENARIOS = _FOLDER / "scenarios" / "any.yaml"


class StagesConfig(BaseConfig):
    """The supervised stages; null skips one."""

    pretrain: LanguageConfig | None = LanguageConfig(iterations=150)
    sft: LanguageConfig | None = LanguageConfig(iterations=100)
    reading: ReadingConfig | None = None
    memory_attention: MemoryAttentionStageConfig | None = MemoryAttentionStageConfig(iterations=60)
    smat: SmatConfig = SmatConfig()

    @property
    def most_turns(self) -> int:
        """Turns of the longest conversations that a stage trains on."""
        first = 1 if self.memory_attention is None else self.memory_attention.steps
        return max(first, *(phase.steps for phase in self.smat.phases))

    def shortened(self, steps: int) -> StagesConfig:
        """The stages with conversations of `steps` turns at most."""
        phases = tuple(phase.model_copy(update={"steps": min(phase.steps, steps)}) for phase in self.smat.phases)
        first = self.memory_attention
        if first is not None:
            first = first.model_copy(update={"steps": min(first.steps, steps)})
        return self.model_copy(update={"memory_attention": first, "smat": self.smat.model_copy(update={"phases": phases})})


class PipelineConfig(BaseConfig):
    """The main job; every field has a default that suits two CPU cores."""

    seed: int = Field(0, description="Key of every draw of the run.")
    preset: str = Field("pico", description="Model size, see `rxrl presets`.")
    model: dict[str, Any] = Field(default_factory=dict, description="Model fields that differ from the preset.")
    data: DataConfig = DataConfig()
    stages: StagesConfig = StagesConfig()
    curriculum: str = Field("quickstart", description="Name or path of the curriculum.")
    mrl: MRLConfig = MRLConfig()
    shorten: bool = Field(
        False, description="Where the data has no conversations as long as a phase or stage asks, it has as many turns as the longest ones."
    )
    smat_continued: bool = Field(True, description="Also train the supervised checkpoint on with SMAT, for as many tokens as MRL used.")
    stress_conversations: int = Field(
        40, ge=0, description="Test conversations that are also played with small talk inserted, and as many longer ones; 0: none."
    )
    threads: int | None = Field(None, ge=1, description="Threads of torch; null: as many as cores.")
    interactive: PipelineConfig | None = Field(
        None,
        description="A second job, on a scenario, in the folder `interactive` below this one; its result stands in the same report. "
        "With the key `budget`, the other keys are laid over the settings of that name.",
    )

    @model_validator(mode="before")
    @classmethod
    def _rewarded_as_the_data_needs(cls, value: Any) -> Any:
        """Where no reward is named, that of what is played: nothing else scores a scenario."""
        data, mrl = (value.get(name, {}) for name in ("data", "mrl")) if isinstance(value, Mapping) else (None, None)
        if not isinstance(data, Mapping) or not isinstance(mrl, Mapping) or "reward" in mrl:
            return value
        try:
            reward = named_reward(data.get("train"))
        except (ConfigError, TypeError, AttributeError):
            return value  # not what names data: the field says so
        return value if reward == MRLConfig().reward else {**value, "mrl": {**mrl, "reward": reward}}

    @field_validator("interactive", mode="before")
    @classmethod
    def _laid_over_a_budget(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "budget" not in value:
            return value
        try:
            settings = load_budget(str(value["budget"])).saved()
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return _laid_over(settings, {key: each for key, each in value.items() if key != "budget"})

    @model_validator(mode="after")
    def _scenarios_are_told_apart(self) -> Self:
        """The report names results by scenario."""
        second = {} if self.interactive is None else self.interactive.data.mix
        if both := sorted((self.data.mix.keys() & second.keys()) - {WORLD}):
            raise WrongValueError(
                f"the first job plays {both[0]} as well: set interactive to null, or name another scenario", "interactive"
            )
        return self


def load_budget(name: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Settings by name.

    Args:
        name: One of `BUDGETS`, or "scenario:" and what `rxrl.envs.scenarios.load` takes.
        overrides: Dotted assignments. With one of `data.train`, the level of a budget no longer holds: it is that of its own world.

    Raises:
        ConfigError: Nothing has that name, or an override does not fit.
    """
    if name in BUDGETS:
        others = ["data.level=null"] if any(each.startswith("data.train=") for each in overrides) else []
        return load_config(BUDGETS[name], PipelineConfig, [*others, *overrides])
    kind = name.removeprefix(SCENARIO)
    if kind == name:
        raise ConfigError(unknown_name("budget", name, [*BUDGETS, f"{SCENARIO}NAME"]))
    game = scenarios.load(kind).game
    own = [f"data.train={json.dumps(name)}", f"curriculum={game.curriculum}", f"mrl.critic={game.critic}"]
    if game.gamma:
        # An answer that finds something out is paid for later: rewards of later turns count.
        own += ["mrl.algorithm.advantage=gae", f"mrl.algorithm.gamma={game.gamma}", f"mrl.algorithm.gae_lambda={game.gae_lambda}"]
    return load_config(_OF_SCENARIOS, PipelineConfig, [*own, *overrides])


def _laid_over(settings: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with other values for some keys."""
    changed = {
        key: _laid_over(settings[key], value) if isinstance(value, Mapping) and isinstance(settings.get(key), Mapping) else value
        for key, value in own.items()
    }
    return {**settings, **changed}
