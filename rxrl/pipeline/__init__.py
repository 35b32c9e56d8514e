"""The main job as a library: `Pipeline(PipelineConfig(), "runs/first").run()`."""

from rxrl.pipeline.config import BUDGETS, PipelineConfig, load_budget
from rxrl.pipeline.job import Pipeline

__all__ = ["BUDGETS", "Pipeline", "PipelineConfig", "load_budget"]
