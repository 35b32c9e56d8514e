"""Does it learn: the smallest tasks whose answer can come from memory alone."""

import pytest

from rxrl.runs.optim import OptimizerConfig
from rxrl.stages.config import SmatConfig, SmatPhase
from rxrl.stages.runner import StageRunner
from rxrl.stages.tasks import SmatTask
from scripts.learning import ALGORITHMS, CODEC, LEARNED, LENGTH, TASKS, RecallSource, accuracy, recall_trainer, small_model

pytestmark = pytest.mark.slow


def test_supervised_training_learns_to_recall_one_of_four_words(tmp_path):
    config = SmatConfig(
        phases=(SmatPhase(steps=1, iterations=150, accuracy=0.99),),
        batch_tokens=160,
        validate_every=10,
        optimizer=OptimizerConfig(learning_rate=0.02),
    )
    model = small_model()
    task = SmatTask(config, RecallSource(4), RecallSource(4), CODEC, LENGTH)
    before = task.validate(model, 0.0)
    after = StageRunner("smat", model, CODEC, task, config, tmp_path).train()
    assert before["asking_accuracy"] < 0.5
    assert after["asking_accuracy"] >= 0.95
    # It is memory that knows: without it, or with another conversation's, the answer is a guess.
    assert after["loss_true_memory"] < 0.3
    assert after["loss_empty_memory"] > 0.5
    assert after["loss_other_memory"] > 0.5


@pytest.mark.parametrize("name", ALGORITHMS)
def test_reward_alone_teaches_to_recall_one_of_two_words(name, tmp_path):
    trainer = recall_trainer(name, tmp_path, TASKS["at once"])
    before = trainer.evaluate(trainer.scheduler.stage)
    trainer.train()
    # Always the same word is right half the time.
    assert accuracy(before.records) < 0.6
    after = trainer.evaluate(trainer.scheduler.stage, controls=["empty_memory"])
    assert accuracy(after.records) >= LEARNED
    assert accuracy(after.control_records["empty_memory"]) < 0.7
