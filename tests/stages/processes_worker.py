"""What each process of `test_processes.py` runs: `torchrun ... -m tests.stages.processes_worker FOLDER`."""

import os
import sys
from pathlib import Path

import torch

from rxrl.runs.optim import OptimizerConfig
from tests.stages.small import memory_attention, pretrain, reading, runner_in, sft, smat
from tests.training.toy import tiny_model

SGD = OptimizerConfig(name="sgd", learning_rate=0.05, warmup=0.0, schedule="constant", max_grad_norm=0.5)
COMMON = {"optimizer": SGD, "batch_tokens": 100}
UNFREEZE = {"memory_attention": 0.25, "encoder": 0.5, "embedding": 0.5}
TASKS = {
    "joint": lambda **options: pretrain(**COMMON | options),
    "separate": lambda **options: pretrain(mode="separate", freeze_embedding=False, **COMMON | options),
    "sft": lambda **options: sft(**COMMON | options),
    "sft-separate": lambda **options: sft(mode="separate", **COMMON | options),
    "reading": lambda **options: reading(**COMMON | options),
    "memory-attention": lambda **options: memory_attention(**COMMON | options),
    "smat": lambda **options: smat(((1, 2, None), (3, 2, None)), unfreeze=UNFREEZE, **COMMON | options),
}


def recorded(folder, name, double=True, **options):
    """Trains, and returns the gradients of every step, the weights, and the tokens."""
    model = tiny_model(double=double, initial_memory="learned")
    runner = runner_in(folder, name, model=model, task=TASKS[name](**options), checkpoint_every=2)
    gradients, average = [], runner.processes.average_gradients

    def averaging(parameters):
        parameters = list(parameters)
        average(parameters)
        gradients.append([None if p.grad is None else p.grad.clone() for p in parameters])

    runner.processes.average_gradients = averaging
    runner.train()
    return {"gradients": gradients, "model": runner.model.state_dict(), "tokens": runner.tokens}


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    for name in TASKS:
        torch.save(recorded(folder / name, name), folder / f"{name}.{rank}.pt")


if __name__ == "__main__":
    main()
