from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from rxrl.cli.main import app
from rxrl.errors import ModelError
from rxrl.models import PRESETS, ModelConfig, ReactiveTransformer, count_parameters, preset

PUBLISHED = {
    "nano": {
        "encoder": 2_049_024,
        "decoder": 9_458_508,
        "decoder_active": 3_521_868,
        "memory_attention": 1_186_688,
        "total": 11_734_220,
    },
    "micro": {"encoder": 1_878_784, "mlm_head": 661_512, "decoder": 8_766_856, "decoder_active": 2_830_216, "total": 11_192_328},
    "mini": {
        "encoder": 9_140_224,
        "mlm_head": 2_635_792,
        "decoder": 57_505_552,
        "decoder_active": 13_322_000,
        "memory_attention": 18_901_248,
    },
}


def counts(name: str) -> dict[str, int]:
    with torch.device("meta"):
        return count_parameters(ReactiveTransformer(PRESETS[name]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_exactly_the_published_ones(name: str):
    assert {part: counts(name)[part] for part in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PRESETS)
def test_parts_add_up(name: str):
    found = counts(name)
    embedding = PRESETS[name].vocab_size * PRESETS[name].dim
    assert found["total"] == found["encoder"] + found["decoder"] - embedding + found["memory_attention"]
    assert PRESETS[name].name == name


def test_the_command_prints_exactly_the_counts():
    result = CliRunner().invoke(app, ["presets", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {name: counts(name) for name in PRESETS}
    assert list(json.loads(result.stdout)["nano"]) == ["encoder", "decoder", "decoder_active", "memory_attention", "mlm_head", "total"]


def test_the_table_shows_every_count_in_full():
    result = CliRunner().invoke(app, ["presets"])
    assert result.exit_code == 0
    for name in PRESETS:
        assert all(f"{count:,}" in result.stdout for count in counts(name).values()), name
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 80


def test_a_preset_can_be_changed_but_not_into_nonsense():
    changed = preset("pico", vocab_size=300)
    assert changed.vocab_size == 300
    assert changed.dim == PRESETS["pico"].dim
    model = ReactiveTransformer.from_preset("pico", vocab_size=300)
    assert model.config == changed
    with pytest.raises(ModelError, match=r"Unknown preset 'piko'.* Did you mean 'pico'\?"):
        preset("piko")
    with pytest.raises(ModelError, match=r"Preset 'pico' cannot be changed like this: .*dim / heads"):
        preset("pico", dim=66)
    with pytest.raises(ModelError, match="slotz: Extra inputs"):
        preset("pico", slotz=4)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("decoder", {"active_experts": 5}, r"active_experts \(5\) cannot exceed experts \(4\)"),
        ("encoder", {"self_attention": {"query_groups": 3, "kv_groups": 2}}, r"query_groups \(3\) must be a multiple of kv_groups \(2\)"),
        ("encoder", {"self_attention": {"query_groups": 8, "kv_groups": 2}}, r"query_groups \(8\) cannot exceed heads"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(part: str, changes: dict, reason: str):
    whole = PRESETS["pico"].model_dump()
    with pytest.raises(ValueError, match=reason):
        ModelConfig.model_validate(whole | {part: whole[part] | changes})
