"""The run that `test_resume.py` kills: two stages with carried memory, evaluations, a critic, several epochs, users who react."""

import os
import resource
import signal

import torch

from tests.training import toy
from tests.training.toy import tiny_model

STAGES = [
    {"steps": 1, "iterations": 3, "reset_ratio": 0.3, "train": ["memory_attention", "decoder_memory", "critic"]},
    {"steps": 2, "iterations": 4, "earlier_share": 0.5, "reset_ratio": 0.3},
]


def trainer_in(folder, seed=0, **changes):
    settings = {
        "algorithm": {"name": "impo", "minibatches": 2, "epochs": 2},
        "evaluation": {"every": 2, "conversations": 4},
        "checkpoint_every": 2,
        "source": toy.MIXED,
        "reward": toy.earned,
        "optimizer": {"learning_rate": 0.02, "learning_rates": {"encoder": 0.01}},
    }
    return toy.trainer_in(folder, STAGES, model=tiny_model(seed=seed), **settings | changes)


def weights_of(trainer):
    modules = {"model": trainer.model, "critic": trainer.learner.critic, "reference": trainer.learner.reference}
    return {f"{part}.{name}": value.clone() for part, module in modules.items() for name, value in module.state_dict().items()}


def run(folder, seconds=None):
    """Begins or goes on, and leaves the last weights; killed by the kernel after `seconds` of computing, wherever it is."""
    torch.set_num_threads(1)
    if seconds is not None:
        signal.setitimer(signal.ITIMER_PROF, seconds)
    # What stands in the model must not matter where there is a checkpoint.
    begun = os.path.isdir(os.path.join(folder, "checkpoints"))
    trainer = trainer_in(folder, seed=0)
    if begun:
        with torch.no_grad():
            for module in (trainer.model, trainer.learner.reference):
                for parameter in module.parameters():
                    parameter.add_(1.0)
    if not trainer.resume():
        trainer = trainer_in(folder)
        trainer.log.rewind()
    trainer.train()
    signal.setitimer(signal.ITIMER_PROF, 0)
    used = resource.getrusage(resource.RUSAGE_SELF)
    torch.save({"weights": weights_of(trainer), "stages": trainer.state.stages, "seconds": used.ru_utime}, os.path.join(folder, "end.pt"))
