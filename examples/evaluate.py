#!/usr/bin/env python
"""Measures what a checkpoint retains, by distance and against its controls; a short script to copy.

Run it with `python examples/evaluate.py runs/my-mrl/checkpoints/step-000080`.
"""

import argparse
import sys

from accelerate import Accelerator

from rxrl.data.world import GeneratedSource
from rxrl.errors import RxrlError
from rxrl.evaluation import CONTROLS, evaluate
from rxrl.factory import load_checkpoint, make_vector_env
from rxrl.policies import ModelPolicy

LONGEST_ANSWER = 16


def main() -> None:
    """Reads the command line, plays and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="folder of a checkpoint")
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--steps", type=int, default=16, help="turns of a conversation")
    parser.add_argument("--reward", default="retention", help="a name, pkg.mod:function or path/file.py:function")
    parser.add_argument("--out", help="folder for evaluation.json and the transcripts")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    model, tokenizer = load_checkpoint(arguments.checkpoint)
    model.to(Accelerator().device)  # a GPU where there is one; ACCELERATE_USE_CPU=true stays off it
    test = GeneratedSource(level=1, seed=arguments.seed, split="test")
    conversations = test.take(steps=arguments.steps, strategy="multi-step", start=0, count=arguments.conversations)
    env = make_vector_env(
        min(50, len(conversations)),
        conversations=conversations,
        memory=model,
        tokenizer=tokenizer,
        reward=arguments.reward,
        max_answer_tokens=LONGEST_ANSWER,
    )
    policy = ModelPolicy(model, max_new_tokens=LONGEST_ANSWER + 1)  # one more for [EOS]
    result = evaluate(env, policy, conversations, seed=arguments.seed, controls=CONTROLS)

    for row in result.summary["by_distance"]:
        print(f"distance {row['distance']:2}: retention {row['mean']:.3f} ({row['low']:.3f} to {row['high']:.3f}, {row['turns']} turns)")
    print(f"all: {result.summary['retention']:.3f}, chance: {result.controls['chance']:.3f}")
    for control in CONTROLS:
        print(f"{control}: {result.controls[control]['retention']}")
    if arguments.out:
        print(f"Wrote {result.save(arguments.out)}")


if __name__ == "__main__":
    try:
        main()
    except (RxrlError, OSError) as error:
        sys.exit(f"Error: {error}")
