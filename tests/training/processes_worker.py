"""What each process of `test_distributed.py` runs: `torchrun ... -m tests.training.processes_worker FOLDER SCENARIO ...`."""

import os
import sys
from pathlib import Path

import torch

from rxrl.errors import RxrlError
from rxrl.training.learner import Learner
from tests.training.toy import MIXED, lively, trainer_in

EVERYTHING = {
    "entropy": 0.05,
    "kl": 0.1,
    "balance": 0.1,
    "memory_difference": 0.1,
    "memory_cosine": 0.1,
    "consistency": 0.1,
    "value_clip": 1.0,
    "experimental": {"self_imitation": 0.1, "self_imitation_above": 5.0},
}
MEMORY = ["memory_attention", "decoder_memory", "critic"]
STAGES = [
    {"steps": 2, "iterations": 2, "train": MEMORY, "reset_ratio": 0.4},
    {"steps": 3, "iterations": 2, "earlier_share": 0.4, "reset_ratio": 0.4},
]
SCENARIOS = {
    # Five conversations in three minibatches: shares differ, and a process has none in some of them.
    "impo": {"episodes": 5, "algorithm": {"name": "impo", "minibatches": 3, "epochs": 2, **EVERYTHING}},
    "ppo": {"episodes": 4, "algorithm": {"name": "ppo", "target_kl": 1e-9, "epochs": 3, **EVERYTHING}, "micro_batch": 1},
    # Router counts of micro-batches, of which processes have different numbers, are exchanged only where they are needed.
    "balanced": {"episodes": 5, "algorithm": {"name": "impo", "minibatches": 2, "balance": 0.0}, "micro_batch": 1},
    # Users who react, mixed with conversations: what they say follows from answers that another process may have sampled.
    "mixed": {"episodes": 5, "algorithm": {"name": "impo", "minibatches": 2}, "source": MIXED},
    # Signals besides the reward: what each teaches is of one process, the total that it is divided by of all.
    "signals": {
        "episodes": 5,
        "algorithm": {"name": "impo", "minibatches": 2},
        "signals": {
            "reward": 1,
            "reference": 0.5,
            "probes": 0.3,
            "teacher": 0.2,
            "preference": 0.3,
            "imitation": {"coefficient": 0.2, "options": {"above": 3.0, "most": 100}},
        },
        "micro_batch": 2,
    },
    "grpo": {"episodes": 6, "algorithm": {"name": "grpo", "group_size": 2, "minibatches": 2}},
}
SGD = {"name": "sgd", "learning_rate": 0.05, "warmup": 0.0, "schedule": "constant", "max_grad_norm": 0.5}


def trainer_of(scenario, folder):
    settings = {"evaluation": {"every": 2, "conversations": 5}, "optimizer": SGD, "critic_optimizer": SGD, "checkpoint_every": 1}
    return trainer_in(folder, STAGES, reward=lively, **settings | SCENARIOS[scenario])


def recorded(trainer):
    """Trains, and returns what this process played, the gradients of every step, and the weights."""
    played, gradients, memory, collect, step = [], [], {}, trainer.collect, Learner._step

    def collecting(stage, algorithm):
        if trainer.left is not None:
            memory[trainer.state.iteration] = trainer.left
            memory[f"reference {trainer.state.iteration}"] = trainer.learner.reference_left
        rollout = collect(stage, algorithm)
        played.append(list(zip(rollout.turns.ids.transpose(0, 1).tolist(), rollout.rewards.T.tolist(), strict=True)))
        return rollout

    def stepping(learner, optimizer, groups, max_norm, take=True):
        def average(parameters):
            parameters = list(parameters)
            inner(parameters)
            gradients.append([None if p.grad is None else p.grad.clone() for p in parameters])

        inner, learner.processes.average_gradients = learner.processes.average_gradients, average
        try:
            return step(learner, optimizer, groups, max_norm, take)
        finally:
            learner.processes.average_gradients = inner

    trainer.collect, Learner._step = collecting, stepping
    try:
        trainer.train()
    finally:
        Learner._step = step
    modules = {"model": trainer.model.state_dict(), "critic": trainer.learner.critic.state_dict()}
    return {"played": played, "gradients": gradients, "memory": memory, "stages": trainer.state.stages, **modules}


def main():
    folder, *scenarios = sys.argv[1:]
    rank = int(os.environ["RANK"])
    if scenarios[0] == "die":
        dying(Path(folder), rank)
        return
    for scenario in scenarios:
        result = recorded(trainer_of(scenario, Path(folder) / scenario))
        torch.save(result, Path(folder) / f"{scenario}.{rank}.pt")


def dying(folder, rank):
    """The last process ends without a word in the fourth iteration."""
    trainer = trainer_of("impo", folder)
    collect = trainer.collect

    def collecting(stage, algorithm):
        if rank == 1 and trainer.state.iteration == 3:
            os._exit(17)
        return collect(stage, algorithm)

    trainer.collect = collecting
    try:
        trainer.train()
    except RxrlError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
