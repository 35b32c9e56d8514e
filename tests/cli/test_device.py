"""Where commands compute: as accelerate chooses, or where they are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rxrl.cli.device import find_device, load_on
from rxrl.data.world import GeneratedSource
from rxrl.players import make_play
from tests.cli.test_bad_input import refused


def test_without_a_name_accelerate_chooses() -> None:
    assert find_device(None) == torch.device("cpu")
    assert find_device("cpu") == torch.device("cpu")


def test_a_checkpoint_goes_where_it_is_wanted(checkpoint: Path) -> None:
    model, _ = load_on("meta", checkpoint)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    talks = GeneratedSource(level=1, seed=0, split="test").take(steps=2, strategy="multi-step", start=0, count=1)
    envs, policy = make_play(str(checkpoint), talks, device="meta")
    assert policy.model is envs.backend.model
    assert policy.model.device.type == "meta"


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "CHECKPOINT"),
        ("chat", "CHECKPOINT"),
        ("complete", "CHECKPOINT"),
        ("fill-mask", "CHECKPOINT", "a [MASK]"),
        ("play", "--policy", "CHECKPOINT"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_device_that_is_not_here_is_refused_with_a_sentence(arguments: tuple[str, ...], invoke: Any, checkpoint: Path) -> None:
    given = [checkpoint if part == "CHECKPOINT" else part for part in arguments]
    message = refused(invoke(*given, "--device", "nowhere", code=2))
    assert "--device nowhere cannot be used here" in message
    assert "such as cpu" in message
