"""Optimizer, parameter groups and schedules."""

import copy
import math

import pytest
import torch

from rxrl.curricula.curriculum import GROUPS as CURRICULUM_GROUPS
from rxrl.errors import ConfigError
from rxrl.models import Critic
from rxrl.runs.optim import (
    GroupOptimizer,
    OptimizerConfig,
    is_inner_matrix,
    make_optimizer,
    orthogonalise,
    schedule_factor,
    set_learning_rates,
    train_only,
)
from rxrl.types import PARAMETER_GROUPS
from tests.training.toy import tiny_model


def seeded(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16), (3, 8, 20), (2, 3, 20, 8)])
def test_orthogonalised_matrices_have_singular_values_near_1_and_the_same_directions(shape):
    matrices = seeded(*shape)
    result = orthogonalise(matrices)
    values = torch.linalg.svdvals(result)
    assert result.shape == matrices.shape
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    nearest = u @ vh
    assert torch.cosine_similarity(result.flatten(-2), nearest.flatten(-2), dim=-1).min() > 0.9


def test_orthogonalising_does_not_depend_on_scale_or_on_neighbours_in_the_stack():
    matrices = seeded(3, 6, 9)
    scaled = matrices * torch.tensor([1.0, 1e-4, 1e4])[:, None, None]
    assert torch.allclose(orthogonalise(scaled), orthogonalise(matrices), atol=2e-2)
    assert torch.allclose(orthogonalise(matrices)[1], orthogonalise(matrices[1]), atol=1e-5)
    assert orthogonalise(torch.zeros(4, 4)).eq(0).all()


def train(optimizer, parameters, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator) + 0.1 * p.detach()
        optimizer.step()


def test_the_adamw_branch_equals_that_of_torch():
    mine, theirs = ([torch.nn.Parameter(seeded(5, 3)), torch.nn.Parameter(seeded(7, seed=1))] for _ in range(2))
    train(GroupOptimizer([{"params": mine}], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1), mine, 20)
    train(torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1), theirs, 20)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


def test_a_muon_step_has_the_root_mean_square_of_an_adamw_step():
    for shape in ((32, 32), (16, 64), (4, 24, 8)):
        p = torch.nn.Parameter(torch.zeros(shape))
        p.grad = seeded(*shape)
        GroupOptimizer([{"params": [p], "rule": "muon"}], lr=1.0, betas=(0.9, 0.98), weight_decay=0.0).step()
        # A semi-orthogonal matrix has the root mean square max(rows, columns) ** -0.5.
        assert float(p.detach().pow(2).mean().sqrt()) == pytest.approx(0.2, rel=0.25)
        assert (p * p.grad).sum() < 0


def mixed_groups(seed):
    return {
        "one": [("layer.weight", torch.nn.Parameter(seeded(6, 4, seed=seed))), ("layer.bias", torch.nn.Parameter(seeded(6, seed=seed)))],
        "two": [("stack", torch.nn.Parameter(seeded(2, 4, 6, seed=seed)))],
    }


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_state_goes_through_a_file_and_training_goes_on_bit_for_bit(name, tmp_path):
    config = OptimizerConfig(name=name)
    groups = mixed_groups(0)
    parameters = [p for named in groups.values() for _, p in named]
    optimizer = make_optimizer(groups, config)
    set_learning_rates(optimizer, 1.0)
    train(optimizer, parameters, 3)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    other = mixed_groups(9)
    copies = [p for named in other.values() for _, p in named]
    with torch.no_grad():
        for mine, theirs in zip(copies, parameters, strict=True):
            mine.copy_(theirs)
    resumed = make_optimizer(other, config)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each, chosen in ((optimizer, parameters), (resumed, copies)):
        train(each, chosen, 3, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def test_a_frozen_group_does_not_move_by_weight_decay_or_momentum():
    groups = mixed_groups(0)
    optimizer = make_optimizer(groups, OptimizerConfig(weight_decay=0.5, learning_rate=0.1))
    everything = [p for named in groups.values() for _, p in named]
    set_learning_rates(optimizer, 1.0)
    train(optimizer, everything, 2)
    train_only(groups, {"two"})
    frozen, before = [p for _, p in groups["one"]], copy.deepcopy([p for _, p in groups["one"]])
    moving = groups["two"][0][1]
    start = moving.detach().clone()
    assert all(p.grad is None for p in frozen)
    moving.grad = torch.ones_like(moving)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(frozen, before, strict=True))
    assert not torch.equal(moving, start)
    train_only(groups, {"one", "two"})
    assert all(p.requires_grad for p in everything)


def test_parameters_without_a_gradient_stay_and_a_closure_is_refused():
    p = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = make_optimizer({"g": [("w", p)]}, OptimizerConfig())
    optimizer.step()
    assert p.eq(1).all()
    with pytest.raises(ValueError, match="no closure"):
        optimizer.step(lambda: None)


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_every_parameter_is_in_exactly_one_part_of_its_group(name):
    model = tiny_model(initial_memory="learned")
    groups = model.group_parameters()
    optimizer = make_optimizer(groups, OptimizerConfig(name=name))
    for group, named in groups.items():
        held = [p for part in optimizer.param_groups if part["name"] == group for p in part["params"]]
        assert sorted(map(id, held)) == sorted(id(p) for _, p in named)
    assert ("muon" in {part["rule"] for part in optimizer.param_groups}) == (name == "muon")


def test_sgd_is_the_gradient_times_the_rate_and_keeps_nothing():
    groups = mixed_groups(0)
    optimizer = make_optimizer(groups, OptimizerConfig(name="sgd", learning_rate=0.5, weight_decay=0.0))
    set_learning_rates(optimizer, 0.5)
    parameters = [p for named in groups.values() for _, p in named]
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad = seeded(*p.shape, seed=3)
    optimizer.step()
    assert all(torch.allclose(p, start - 0.25 * p.grad) for p, start in zip(parameters, before, strict=True))
    assert not any(optimizer.state.values())


def test_muon_serves_inner_matrices_only():
    model = tiny_model(initial_memory="learned")
    chosen = {name for name, p in model.named_parameters() if is_inner_matrix(name, p)}
    assert {"encoder.layers.0.attention.qkv_proj.weight", "memory_attention.attention.kv_proj", "decoder.layers.0.ff.w1"} <= chosen
    outer = ("embedding.weight", "decoder.head.weight", "mlm_head.decoder.weight", "memory_attention.gate.weight", "initial_memory")
    assert not chosen & set(outer)
    assert not any("norm" in name or "bias" in name or "router" in name or name.endswith((".b1", ".b2")) for name in chosen)
    critic = {name for name, p in Critic(model.config).named_parameters() if is_inner_matrix(name, p)}
    assert "value.weight" in critic
    assert not critic & {"out.weight", "turn.weight", "steps.weight", "embedding.weight"}


def test_groups_have_their_own_learning_rates():
    groups = mixed_groups(0)
    optimizer = make_optimizer(groups, OptimizerConfig(learning_rate=0.1, learning_rates={"two": 0.3}))
    set_learning_rates(optimizer, 0.5)
    assert {part["name"]: part["lr"] for part in optimizer.param_groups} == {"one": 0.05, "two": 0.15}
    set_learning_rates(optimizer, 0.5, {"one": 1.0})
    assert {part["name"]: part["lr"] for part in optimizer.param_groups} == {"one": 0.5, "two": 0.15}


def test_a_rate_for_a_group_that_does_not_exist_is_an_error():
    with pytest.raises(ConfigError, match="encoder"):
        make_optimizer(tiny_model().group_parameters(), OptimizerConfig(learning_rates={"encodr": 0.1}))


def test_all_parts_speak_of_the_same_groups():
    assert set(PARAMETER_GROUPS) == set(CURRICULUM_GROUPS) - {"critic"}
    assert set(tiny_model().group_parameters()) == set(PARAMETER_GROUPS)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_then_end_at_their_final_share(schedule):
    config = OptimizerConfig(schedule=schedule, warmup=0.1, final=0.2)
    assert schedule_factor(config, 0.0) > 0
    assert schedule_factor(config, 0.05) == pytest.approx(0.5)
    assert schedule_factor(config, 0.1) == pytest.approx(1.0)
    assert schedule_factor(config, 1.0) == pytest.approx(1.0 if schedule == "constant" else 0.2)
    assert schedule_factor(config, 2.0) == schedule_factor(config, 1.0)
    middle = {"constant": 1.0, "linear": 0.6, "cosine": 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 2))}[schedule]
    assert schedule_factor(config, 0.55) == pytest.approx(middle)
    assert schedule_factor(OptimizerConfig(schedule=schedule, warmup=0.0), 0.0) == pytest.approx(1.0)
