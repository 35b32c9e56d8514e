"""Step curricula: how the number of turns, the strategy and what is trained grow during Memory Reinforcement Learning.

Example:
    scheduler = StepScheduler(load_curriculum("general"))  # also Curriculum.linear(), Curriculum.custom([2, 4, 8]), a YAML path
    decision = scheduler.observe({"retention": 0.7})  # hold, advance, regress or finish
"""

from rxrl.curricula.curriculum import (
    CURRICULA,
    GROUPS,
    Curriculum,
    RegressRule,
    Rule,
    Stage,
    StageSettings,
    load_curriculum,
)
from rxrl.curricula.scheduler import Decision, FinishedStage, StepScheduler

__all__ = [
    "CURRICULA",
    "GROUPS",
    "Curriculum",
    "Decision",
    "FinishedStage",
    "RegressRule",
    "Rule",
    "Stage",
    "StageSettings",
    "StepScheduler",
    "load_curriculum",
]
