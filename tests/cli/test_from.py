"""`--from` stands for one folder: model, tokenizer and critic of a run all come from it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rxrl.cli import train as command
from rxrl.errors import CheckpointError
from rxrl.factory import checkpoint_folder
from rxrl.training.trainer import MRLTrainer


@pytest.fixture(scope="module")
def trained(run_mrl: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose critic has learned."""
    folder = tmp_path_factory.mktemp("trained")
    run_mrl(folder, "--algorithm", "impo")
    assert (folder / "checkpoint" / "critic.safetensors").is_file()
    return folder


@pytest.mark.parametrize("inside", ["", "checkpoint", "checkpoints/best"])
def test_the_trained_critic_comes_along(inside: str, trained: Path, run_mrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(trained.glob("checkpoints/best-*")) if inside == "checkpoints/best" else trained / inside
    begun: list[MRLTrainer] = []

    class Noted(MRLTrainer):
        def train(self, *arguments: Any) -> Any:
            begun.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "MRLTrainer", Noted)
    run_mrl(tmp_path, "--algorithm", "impo", start=source, code=130)
    [trainer] = begun
    folder = checkpoint_folder(source)
    for module, name in ((trainer.learner.critic, "critic.safetensors"), (trainer.model, "model.safetensors")):
        kept, found = load_file(folder / name), module.state_dict()
        assert kept.keys() == found.keys()
        assert all(torch.equal(found[key], value) for key, value in kept.items())
    assert trainer.learner.critic_ready


def test_a_run_that_has_not_ended_names_a_checkpoint_to_take(trained: Path, run_mrl: Any, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "unfinished")
    shutil.rmtree(tmp_path / "unfinished" / "checkpoint")
    with pytest.raises(CheckpointError, match=r"is a run that has not ended: .*checkpoints/step-000006"):
        checkpoint_folder(tmp_path / "unfinished")
    assert "has not ended" in run_mrl(tmp_path / "next", start=tmp_path / "unfinished", code=2).stderr
    assert not (tmp_path / "next").exists()
