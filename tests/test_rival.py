"""SMAT continued, the rival of MRL in the main job: the same tokens, and gradients that flow back alike."""

from __future__ import annotations

import pytest

from rxrl.config import load_config
from rxrl.data.splits import open_sources
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig, job


class Stopped(Exception):
    """Enough is known."""


@pytest.mark.parametrize("growth", [1.0, None, 2.0])
def test_it_bounds_gradients_as_mrl_does(growth, tmp_path, monkeypatch):
    text = "null" if growth is None else str(growth)
    config = load_config(BUDGETS["tiny"], PipelineConfig, [f"mrl.algorithm.gradient_growth={text}", "interactive=null"])
    seen = []

    def make_task(name, settings, *_):
        seen.append((name, settings))
        raise Stopped

    monkeypatch.setattr(job, "make_task", make_task)

    class Model:
        config = type("Sizes", (), {"max_length": 96})

    with pytest.raises(Stopped):
        Pipeline(config, tmp_path).continue_smat(Model(), None, open_sources(config.data, 0), 1234)
    ((name, settings),) = seen
    assert name == "smat"
    assert settings.gradient_growth == growth
    assert settings.max_tokens == 1234
    assert [phase.steps for phase in settings.phases] == [max(stage.steps for stage in Pipeline(config, tmp_path).curriculum.stages)]
