from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from rxrl.cli.main import app
from rxrl.errors import ModelError
from rxrl.models import BASELINES, PRESETS, AttentionConfig, ModelConfig, ReactiveTransformer, count_parameters, preset

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
        return count_parameters(ReactiveTransformer(preset(name)))


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
    found = json.loads(result.stdout)
    parts = ["encoder", "decoder", "decoder_active", "memory_attention", "mlm_head", "total", "total_active"]
    assert list(found["nano"]) == [*parts, "bytes", "memory_values", "memory_bytes"]
    assert {name: {part: each[part] for part in parts} for name, each in found.items()} == {
        name: counts(name) for name in (*PRESETS, *BASELINES)
    }
    assert (found["mini"]["memory_values"], found["mini"]["memory_bytes"]) == (2_097_152, 4 * 2_097_152)
    assert found["nano"]["bytes"] == 4 * 11_734_220
    assert found["nano"]["total_active"] == 11_734_220 - 9_458_508 + 3_521_868


def test_the_table_shows_every_count_in_full():
    result = CliRunner().invoke(app, ["presets"])
    assert result.exit_code == 0
    for name in (*PRESETS, *BASELINES):
        assert all(f"{count:,}" in result.stdout for count in counts(name).values()), name
        assert f"{counts(name)['total'] * 4 / 1e6:,.3f}" in result.stdout, name
    assert max(len(line) for line in result.stdout.splitlines() if line.startswith(("│", "┃"))) <= 80


@pytest.mark.parametrize(
    ("queries", "keys", "heads", "types"),
    [(8, 8, 8, ("mha",)), (8, 2, 8, ("gqa",)), (8, 1, 8, ("mqa",)), (4, 4, 8, ("sqa",)), (4, 1, 8, ("sqa",)), (1, 1, 1, ("mha", "mqa"))],
)
def test_groups_make_the_type(queries: int, keys: int, heads: int, types: tuple[str, ...]):
    assert AttentionConfig(query_groups=queries, kv_groups=keys).types(heads) == types
    for name in types:
        assert AttentionConfig.of_type(name, heads, queries, keys).type == name


def test_the_type_makes_the_groups_where_it_leaves_nothing_open():
    def groups(*arguments: object) -> tuple[int, int]:
        found = AttentionConfig.of_type(*arguments)
        return found.query_groups, found.kv_groups

    assert groups("mha", 8) == (8, 8)
    assert groups("mqa", 8) == (8, 1)
    assert groups("gqa", 8, None, 2) == (8, 2)
    assert groups("sqa", 8, 4) == (4, 4)
    assert groups("sqa", 8, 4, 2) == (4, 2)
    with pytest.raises(ValueError, match="type sqa needs query_groups"):
        AttentionConfig.of_type("sqa", 8)
    with pytest.raises(ValueError, match="type gqa needs kv_groups"):
        AttentionConfig.of_type("gqa", 8)
    with pytest.raises(ValueError, match="type is mha, but 8 query and 2 key and value groups of 8 heads are gqa"):
        AttentionConfig.of_type("mha", 8, 8, 2)


def test_counts_follow_the_layout_of_experts_and_norms():
    pico = PRESETS["pico"]
    with torch.device("meta"):
        changed = {"shared_experts": 2, "expert_biases": "global", "head_norm": "rms"}
        model = ReactiveTransformer(pico.model_copy(update={"decoder": pico.decoder.model_copy(update=changed)}))
    found, plain = count_parameters(model), counts("pico")
    dim, hidden, layers = 64, 48, 2
    biases = layers * (dim - 4 * (2 * hidden + dim))
    shared = layers * (dim * 4 * hidden + 4 * hidden + 2 * hidden * dim + dim)
    assert found["decoder"] == plain["decoder"] + biases + shared + dim
    assert found["decoder"] - found["decoder_active"] == layers * 2 * 3 * dim * hidden


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
    with pytest.raises(ModelError, match=r"Unknown key 'slotz'.*Did you mean 'slots'"):
        preset("pico", slotz=4)


@pytest.mark.parametrize(
    ("part", "changes", "reason"),
    [
        ("decoder", {"active_experts": 5}, r"active_experts \(5\) cannot exceed experts \(4\)"),
        ("encoder", {"self_attention": {"query_groups": 3, "kv_groups": 2}}, r"query_groups \(3\) must be a multiple of kv_groups \(2\)"),
        ("encoder", {"self_attention": {"query_groups": 8, "kv_groups": 2}}, r"query_groups \(8\) cannot exceed heads"),
        (
            "encoder",
            {"self_attention": {"query_groups": 4, "kv_groups": 2, "type": "sqa"}},
            r"encoder.self_attention.type is sqa, but 4 query and 2 key and value groups of 4 heads are gqa",
        ),
        ("decoder", {"experts": 1, "active_experts": 1, "shared_experts": 2}, r"shared_experts \(2\) stand beside routed ones"),
        ("decoder", {"experts": 1, "active_experts": 1, "expert_biases": "global"}, r"a layout of routed experts"),
        ("memory_attention", {"variant": "simple"}, r"variant 'simple' has no mean_attention: leave it out"),
        ("memory_attention", {"variant": "self", "mean_attention": None}, r"variant 'self' needs self_attention"),
        ("memory_attention", {"mean_attention": None}, r"variant 'interlayer' needs mean_attention"),
        ("memory_attention", {"layer_groups": 2}, r"variant 'interlayer' has no layer_groups"),
        ("memory_attention", {"variant": "grouped-self-interlayer"}, r"variant 'grouped-self-interlayer' needs layer_groups"),
        ("memory_attention", {"variant": "grouped-self-interlayer", "layer_groups": 3}, r"layer_groups \(3\) must divide layers \(2\)"),
        ("memory_attention", {"gate": {"type": "none", "activation": "tanh"}}, r"a gate of type 'none' has no values"),
        ("memory_attention", {"gate": {"type": "static", "slot_status": "linear"}}, r"a gate of type 'static' reads no slot status"),
    ],
)
def test_a_combination_that_makes_no_sense_is_refused(part: str, changes: dict, reason: str):
    whole = PRESETS["pico"].model_dump()
    with pytest.raises(ValueError, match=reason):
        ModelConfig.model_validate(whole | {part: whole[part] | changes})
