#!/usr/bin/env python
"""A curriculum of your own, and how the scheduler moves through it. Run it with `python examples/own_curriculum.py`.

The scheduler knows nothing of models: this program feeds it made-up retention and prints what it decides.
"""

from rxrl.curricula import Curriculum, StepScheduler

CURRICULUM = Curriculum.custom(
    [
        {"steps": 2, "train": ["memory_attention", "decoder_memory", "critic"]},
        4,
        {"steps": 8, "strategy": {"multi-step": 2, "long-range": 1}},
    ],
    name="mine",
    iterations=60,
    advance={"metric": "retention", "threshold": 0.8, "patience": 2},
    regress={"metric": "retention", "threshold": 0.2, "patience": 2, "limit": 1},
)


def learned(steps: int, iterations: int) -> float:
    """Retention of an imaginary model that learns short conversations fast and long ones slowly."""
    return min(0.95, 0.3 + iterations / (10 * steps))


def main() -> None:
    """Observes until the curriculum ends."""
    scheduler = StepScheduler(CURRICULUM)
    iterations = 0
    while not scheduler.finished:
        iterations += 5
        stage, retention = scheduler.stage, learned(scheduler.stage.steps, iterations)
        decision = scheduler.observe({"retention": retention}, iterations=5)
        print(f"iteration {iterations:3}  {stage.name:12} retention {retention:.2f}  {decision.action:8} {decision.reason}")


if __name__ == "__main__":
    main()
