"""Does it learn: the smallest tasks whose answer can come from memory alone."""

import pytest

from rxrl.curricula import Curriculum
from rxrl.models import ReactiveTransformer
from rxrl.stages.config import SmatConfig, SmatPhase
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import SmatTask
from rxrl.training.config import MRLConfig
from rxrl.training.optim import OptimizerConfig
from rxrl.training.trainer import MRLTrainer
from tests.training.toy import CODEC, RecallSource, recall

LENGTH = 16


def small_model():
    return ReactiveTransformer.from_preset("pico", 0, vocab_size=CODEC.vocab_size, dim=32, layers=1, slots=4, max_length=LENGTH)


def test_supervised_training_learns_to_recall_one_of_four_words(tmp_path):
    config = SmatConfig(
        phases=(SmatPhase(steps=1, iterations=150, accuracy=0.99),),
        batch_tokens=160,
        validate_every=10,
        optimizer=OptimizerConfig(learning_rate=0.02),
    )
    model = small_model()
    task = SmatTask(config, RecallSource(4), RecallSource(4), CODEC, LENGTH)
    before = task.validate(model)
    after = StageRunner("smat", model, CODEC, task, config, tmp_path).run()
    assert before["asking_accuracy"] < 0.5
    assert after["asking_accuracy"] >= 0.95
    # It is memory that knows: without it, or with another conversation's, the answer is a guess.
    assert after["loss_true_memory"] < 0.3
    assert after["loss_empty_memory"] > 0.5
    assert after["loss_other_memory"] > 0.5


ALGORITHMS = {
    "ppo": {"epochs": 2},
    "impo": {"epochs": 2},
    "a2c": {"entropy": 0.05},
    "grpo": {"epochs": 2, "entropy": 0.05},
    # Advantages in units of the reward, up to 10, so the bonus is larger too.
    "rloo": {"entropy": 0.5},
    "reinforce": {"entropy": 0.05},
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_reward_alone_teaches_to_recall_one_of_two_words(name, tmp_path):
    iterations = 50
    trainer = MRLTrainer(
        small_model(),
        CODEC,
        curriculum=Curriculum.custom([{"steps": 2, "iterations": iterations}]),
        source=RecallSource(2),
        held_out=RecallSource(2),
        config=MRLConfig(
            episodes=32,
            max_answer_tokens=1,
            algorithm={"name": name, "kl": 0.0, **ALGORITHMS[name]},
            optimizer=OptimizerConfig(learning_rate=0.01, warmup=0.0),
            evaluation={"every": iterations, "conversations": 64},
        ),
        folder=tmp_path,
        reward=recall,
    )
    before = trainer.evaluate(trainer.scheduler.stage)
    trainer.train()
    # Always the same word is right half the time.
    assert accuracy(before.records) < 0.6
    after = trainer.evaluate(trainer.scheduler.stage, controls=["empty_memory"])
    assert accuracy(after.records) >= 0.95
    assert accuracy(after.control_records["empty_memory"]) < 0.7


def accuracy(records):
    return sum(record.reward for record in records) / (10 * len(records))
