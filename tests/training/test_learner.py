"""The learner: steps do not depend on how a minibatch is cut, frozen groups keep their optimizer state, one clip for each optimizer."""

import pytest
import torch
from accelerate.state import AcceleratorState

from rxrl.errors import ConfigError
from rxrl.runs.processes import Processes
from tests.training.processes_worker import EVERYTHING, SGD, recorded
from tests.training.resume_worker import trainer_in, weights_of
from tests.training.toy import lines


def one_of(folder, name, **changes):
    """Two iterations of one stage, recorded."""
    algorithm = {"name": name, "minibatches": 2, **EVERYTHING} | changes.pop("algorithm", {})
    trainer = trainer_in(folder, algorithm=algorithm, optimizer=SGD, critic_optimizer=SGD, episodes=6, max_iterations=4, **changes)
    return trainer, recorded(trainer)


@pytest.mark.parametrize("changes", [{}, {"loss_per": "episode", "checkpoint_turns": True}, {"loss_per": "turn", "bptt_turns": 1}])
@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_give_the_gradients_and_metrics_of_the_whole_minibatch(size, changes, tmp_path):
    (whole, expected), (cut, found) = (
        one_of(tmp_path / name, "impo", micro_batch=each, algorithm=changes) for name, each in (("whole", None), ("cut", size))
    )
    for mine, theirs in zip(found["gradients"], expected["gradients"], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert (a is None) == (b is None)
            assert a is None or torch.allclose(a, b, atol=2e-6, rtol=1e-5)
    for mine, theirs in zip(lines(cut), lines(whole), strict=True):
        for key, value in theirs.items():
            assert mine[key] == (pytest.approx(value, rel=1e-3, abs=2e-5) if isinstance(value, float) else value), key
        assert mine["first_ratio_deviation"] == 0


def test_norms_of_groups_make_up_the_whole_and_frozen_groups_have_none(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.train()
    for line in lines(trainer):
        norms = {key.partition("/")[2]: value for key, value in line.items() if key.startswith("grad_norm/")}
        assert set(norms) == set(trainer.learner.groups)
        assert sum(value**2 for value in norms.values()) ** 0.5 == pytest.approx(line["grad_norm"], rel=0.2)
        frozen = {"embedding", "encoder", "decoder"} if line["steps"] == 1 else set()
        assert {name for name, value in norms.items() if not value} == frozen


@pytest.mark.parametrize("bound", [1e9, 0.01])
def test_each_optimizer_clips_by_its_own_norm(bound, tmp_path):
    settings = SGD | {"max_grad_norm": bound, "learning_rate": 1.0, "weight_decay": 0.0}
    trainer = trainer_in(tmp_path, optimizer=settings, critic_optimizer=SGD, max_iterations=1, algorithm={"name": "impo"})
    before = weights_of(trainer)
    trainer.train()
    after = {name: value for name, value in weights_of(trainer).items() if name.startswith("model.")}
    moved = sum(float((value - before[name]).pow(2).sum()) for name, value in after.items()) ** 0.5
    [line] = lines(trainer)
    assert moved == pytest.approx(min(bound, line["grad_norm"]), rel=1e-3)
    assert line["grad_norm"] > 0.01


def test_thawing_keeps_the_optimizer_state_of_what_stays_trained_and_what_was_frozen_goes_on_from_its_own(tmp_path):
    trainer = trainer_in(tmp_path)
    first, second = trainer.curriculum.stages
    optimizer, groups = trainer.learner.optimizer, trainer.learner.groups

    def step(stage):
        trainer.learner.prepare(stage, 0.5)
        for _, parameter in (each for named in groups.values() for each in named):
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        optimizer.step()

    def states(group):
        return {id(p): {key: torch.as_tensor(value).clone() for key, value in optimizer.state[p].items()} for _, p in groups[group]}

    step(first)
    assert not any(states("encoder").values())
    trained = states("memory_attention")
    assert all(trained.values())
    trainer.learner.prepare(second, 0.5)
    for key, state in states("memory_attention").items():
        assert all(torch.equal(state[name], value) for name, value in trained[key].items())
    step(second)
    assert all(states("encoder").values())
    waiting, moving = states("encoder"), states("memory_attention")
    step(first)
    assert all(torch.equal(states("encoder")[key][name], value) for key, state in waiting.items() for name, value in state.items())
    now = states("memory_attention")
    assert any(not torch.equal(now[key][name], value) for key, state in moving.items() for name, value in state.items())


@pytest.fixture
def fresh_accelerate():
    """Lets a test choose its own precision: a process has one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("name", ["ppo", "impo"])
def test_mixed_precision_trains_float32_weights_and_the_first_ratio_is_still_1(name, tmp_path):
    trainer = trainer_in(tmp_path, precision="bf16", algorithm={"name": name, "epochs": 2, "minibatches": 2})
    dtypes = set()
    handle = trainer.model.decoder.layers[0].attention.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    before = weights_of(trainer)
    trainer.train()
    handle.remove()
    assert torch.bfloat16 in dtypes
    assert {value.dtype for value in weights_of(trainer).values()} == {torch.float32}
    assert any(not torch.equal(before[key], value) for key, value in weights_of(trainer).items() if key.startswith("model."))
    assert all(line["first_ratio_deviation"] == 0 for line in lines(trainer))
    assert all(line["sampler_gap"] < 0.5 for line in lines(trainer))


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_process_has_one_precision():
    Processes("no")
    with pytest.raises(ConfigError, match="one process has one precision"):
        Processes("bf16")
