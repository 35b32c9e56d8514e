"""Settings of the main job, and the sets of them that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from rxrl.config import BaseConfig
from rxrl.data.splits import DataConfig
from rxrl.stages.config import JointConfig, MemoryAttentionStageConfig, ReadingConfig, SmatConfig
from rxrl.training.config import MRLConfig

BUDGETS = {path.stem: path for path in sorted((Path(__file__).parent / "budgets").glob("*.yaml"))}
"""Files of settings by name."""


class StagesConfig(BaseConfig):
    """The supervised stages; null skips one."""

    pretrain: JointConfig | None = JointConfig(iterations=150)
    sft: JointConfig | None = JointConfig(iterations=100)
    reading: ReadingConfig | None = None
    memory_attention: MemoryAttentionStageConfig | None = MemoryAttentionStageConfig(iterations=60)
    smat: SmatConfig = SmatConfig()


class PipelineConfig(BaseConfig):
    """The main job; every field has a default that suits two CPU cores."""

    seed: int = Field(0, description="Key of every draw of the run.")
    preset: str = Field("pico", description="Model size, see `rxrl presets`.")
    model: dict[str, Any] = Field(default_factory=dict, description="Model fields that differ from the preset.")
    data: DataConfig = DataConfig()
    stages: StagesConfig = StagesConfig()
    curriculum: str = Field("quickstart", description="Name or path of the curriculum.")
    mrl: MRLConfig = MRLConfig()
    smat_continued: bool = Field(True, description="Also train the supervised checkpoint on with SMAT, for as many tokens as MRL used.")
    threads: int | None = Field(None, ge=1, description="Threads of torch; null: as many as cores.")
