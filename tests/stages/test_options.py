"""Options of stages: compiled layers teach the same, and trackers get the metrics."""

import pytest
import torch
from torch import nn

from tests.stages.small import lines, pretrain, runner_in, smat
from tests.training.toy import tiny_model


@pytest.mark.slow
@pytest.mark.parametrize("make", [pretrain, smat])
def test_compiled_layers_train_as_others_do(make, tmp_path, monkeypatch):
    compiled = []

    def compile_eagerly(module, **options):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    torch.compiler.reset()
    model = tiny_model(double=True, initial_memory="learned")
    runner_in(tmp_path / "compiled", "smat", model=model, task=make(compile=True)).train()
    torch.compiler.reset()
    assert len(compiled) == 2 * model.config.layers + 1
    runner_in(tmp_path / "plain", "smat", model=tiny_model(double=True, initial_memory="learned"), task=make()).train()
    for mine, theirs in zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True):
        assert mine == {key: pytest.approx(value, rel=1e-5) if isinstance(value, float) else value for key, value in theirs.items()}


def test_trackers_get_the_metrics_of_a_stage(tmp_path):
    runner_in(tmp_path, "pretrain", task=pretrain(tracking={"tensorboard": True})).train()
    assert list(tmp_path.rglob("events.out.tfevents*"))
