"""Wrong settings of every configuration of rxrl get a sentence of ours, none of pydantic's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from rxrl.config import parse_config
from rxrl.curricula import Curriculum
from rxrl.errors import RxrlError
from rxrl.models import ModelConfig
from rxrl.pipeline import PipelineConfig
from rxrl.rewards import BUILT_IN
from rxrl.training.config import MRLConfig
from rxrl.validation import models_at

WRONG: tuple[Any, ...] = ("word", "", -1, 0.5, 10**30, float("nan"), float("inf"), None, True, [], [{}], {}, {"a": "b"}, {3: 4}, object())
MODELS: tuple[type[BaseModel], ...] = (
    PipelineConfig,
    MRLConfig,
    Curriculum,
    ModelConfig,
    *(each for each in BUILT_IN.values() if isinstance(each, type) and issubclass(each, BaseModel)),
)


def places(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Locations of all fields, nested ones included."""
    for name in model.model_fields:
        yield (*at, name)
        for inner in models_at(model, (name,)):
            if len(at) < 3:
                yield from places(inner, (*at, name))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_wrong_value_gets_a_sentence_of_ours(model: type[BaseModel]) -> None:
    refused = 0
    for place in places(model):
        for wrong in WRONG:
            data: Any = wrong
            for part in reversed(place):
                data = {part: data}
            try:
                parse_config(data, model)
            except RxrlError as error:
                refused += 1
                message = str(error)
                assert message.endswith((".", "?")), message
                for foreign in ("Input should", "valid value", "validation error", "Extra inputs", "Field required", "pydantic", "\n"):
                    assert foreign not in message, message
    assert refused >= 5 * len(model.model_fields)
