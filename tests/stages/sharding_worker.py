"""What each process of `test_sharding.py` runs: `torchrun ... -m tests.stages.sharding_worker FOLDER`."""

import os
import sys
from pathlib import Path

import torch

from rxrl.runs.optim import OptimizerConfig
from rxrl.runs.sharding import gathered_model, is_sharded
from tests.stages import processes_worker
from tests.stages.small import runner_in
from tests.training.toy import tiny_model

STEPS = ("joint", "separate", "memory-attention", "smat")
"""Tasks that are trained with plain gradient descent, in two passes each."""
MUON = {"optimizer": OptimizerConfig(name="muon", learning_rate=0.01), "ema": 0.6}


def runner(folder, name, **options):
    model = tiny_model(double=True, initial_memory="learned")
    return runner_in(folder, name, model=model, task=processes_worker.TASKS[name](**options), checkpoint_every=2)


def weights(trained):
    return {name: value.detach().clone() for name, value in gathered_model(trained.model).state_dict().items()}


def trained(folder, name, **options):
    found = runner(folder, name, **options)
    found.train()
    return weights(found)


def resumed(folder, name, **options):
    """As `trained`, cut after two steps."""
    cut = runner(folder, name, **options)
    for _ in range(2):
        cut.take_step()
    cut.save_resumable()
    found = runner(folder, name, **options)
    assert found.resume()
    found.train()
    return weights(found)


def held(folder, name, **options):
    """Numbers that a process keeps between two steps, and those of the whole: weights and optimizer state."""
    found = runner(folder, name, **options)
    found.take_step()
    assert is_sharded(found.model)
    tensors = [*found.model.parameters(), *(v for state in found.optimizer.state.values() for v in state.values() if v.ndim)]
    return sum(each.to_local().numel() for each in tensors), sum(each.numel() for each in tensors)


def main():
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    found = {name: trained(folder / name, name, shard=True, accumulation=2) for name in STEPS}
    found["muon"] = trained(folder / "muon", "smat", shard=True, **MUON)
    found["resumed"] = resumed(folder / "resumed", "smat", shard=True, **MUON)
    found["held"] = held(folder / "held", "smat", shard=True, **MUON)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
