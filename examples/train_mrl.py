#!/usr/bin/env python
"""Reinforces the memory of a checkpoint with a reward of your own; copy it and change the reward, the curriculum, the numbers.

Run it with `python examples/train_mrl.py runs/smat/checkpoint --curriculum quickstart --out runs/my-mrl`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rxrl.config import parse_config
from rxrl.curricula import load_curriculum
from rxrl.data.world import GeneratedSource
from rxrl.errors import RxrlError
from rxrl.factory import load_checkpoint
from rxrl.rewards import held
from rxrl.training.callbacks import Callback, Progress
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer
from rxrl.types import Turn


def short_and_right(turns: Sequence[Turn]) -> list[float | None]:
    """0 to 10 for each turn: the share of asked facts that the answer holds, less for long answers; None where nothing is asked."""
    return [None if (share := held(turn)) is None else 10 * share / max(1, len(turn.answer.split()) / 8) for turn in turns]


class Show(Callback):
    """Prints one line an iteration."""

    def on_iteration(self, progress: Progress) -> None:
        """Called after each iteration."""
        print(f"{progress.stage.name} {progress.iteration}/{progress.total}: reward {progress.metrics['reward']:.2f}")


def main() -> None:
    """Reads the command line, trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder of a checkpoint, such as a stage's or a run's")
    parser.add_argument("--curriculum", default="quickstart", help="name or YAML file")
    parser.add_argument("--episodes", type=int, default=16, help="conversations an iteration")
    parser.add_argument("--iterations", type=int, help="stop after this many; without it, the curriculum decides")
    parser.add_argument("--out", type=Path, default=Path("runs/train-mrl"), help="folder for metrics and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    numbers = {"seed": arguments.seed, "episodes": arguments.episodes, "max_iterations": arguments.iterations}
    model, tokenizer = load_checkpoint(arguments.checkpoint)
    trainer = MRLTrainer(
        model,
        tokenizer,
        curriculum=load_curriculum(arguments.curriculum),
        source=GeneratedSource(level=1, seed=arguments.seed, split="train"),
        held_out=GeneratedSource(level=1, seed=arguments.seed, split="validation"),
        config=parse_config(numbers, MRLConfig, source="the arguments"),
        folder=arguments.out,
        reward=short_and_right,
        callbacks=[Show()],
    )
    trainer.train()
    print(f"Checkpoint: {trainer.save()}")


# Guarded, so that the reward can be named elsewhere: `--reward examples/train_mrl.py:short_and_right`.
if __name__ == "__main__":
    try:
        main()
    except (RxrlError, OSError) as error:
        sys.exit(f"Error: {error}")
