from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rxrl.errors import CheckpointError, ConfigError, WriteError
from rxrl.models import ReactiveTransformer
from rxrl.models.config import AttentionConfig, DecoderConfig, GateConfig, MemoryAttentionConfig
from rxrl.models.interop.rxlm import export_rxlm, import_rxlm
from tests.models.golden_rxlm import same
from tests.models.small import config, interactions, memory_of, model_of


def variants() -> dict[str, MemoryAttentionConfig]:
    full, grouped = AttentionConfig(query_groups=2, kv_groups=2), AttentionConfig(query_groups=4, kv_groups=2)
    slots, layer = {"per_slot": True}, {"per_slot": False}
    return {
        "simple, none": MemoryAttentionConfig(variant="simple", attention=full, gate=GateConfig(type="none")),
        "self, static": MemoryAttentionConfig(
            variant="self", attention=full, self_attention=grouped, gate=GateConfig(type="static", **slots)
        ),
        "self, static of a layer": MemoryAttentionConfig(
            variant="self", attention=full, self_attention=grouped, gate=GateConfig(type="static", activation="tanh", **layer)
        ),
        "interlayer, elementwise": MemoryAttentionConfig(
            attention=full, mean_attention=grouped, gate=GateConfig(type="elementwise", slot_status="linear", **slots)
        ),
        "self-interlayer, elementwise of a layer": MemoryAttentionConfig(
            variant="self-interlayer", attention=grouped, mean_attention=full, gate=GateConfig(type="elementwise", **layer)
        ),
        "grouped, linear": MemoryAttentionConfig(
            variant="grouped-self-interlayer",
            attention=full,
            mean_attention=grouped,
            layer_groups=2,
            gate=GateConfig(activation="tanh", slot_status="linear"),
        ),
        "interlayer, linear of a layer": MemoryAttentionConfig(attention=full, mean_attention=full, gate=GateConfig(**layer)),
    }


GATES = {
    "self, static": {"gate": [5, 1]},
    "self, static of a layer": {"gate": [1]},
    "interlayer, elementwise": {"gate": [5, 1], "slot_status.weight": [1, 16], "slot_status.bias": [1]},
    "self-interlayer, elementwise of a layer": {"gate": [1]},
    "grouped, linear": {"gate.weight": [5, 5], "gate.bias": [5], "slot_status.weight": [1, 16], "slot_status.bias": [1]},
    "interlayer, linear of a layer": {"gate.weight": [1, 5], "gate.bias": [1]},
}


@pytest.mark.parametrize("order", ["concatenated", "interleaved"])
@pytest.mark.parametrize("variant", variants())
def test_import_after_export_is_the_identity(variant: str, order: str, tmp_path: Path) -> None:
    model = model_of(config(reads_memory=order == "concatenated", memory_attention=variants()[variant], name=variant), dtype=torch.float32)
    export_rxlm(model, tmp_path / "out", order)  # type: ignore[arg-type]
    found = import_rxlm(tmp_path / "out")
    assert same(found.model, model)
    assert set(found.rope_orders.values()) == {order}
    gates = {
        key.removeprefix("memory_attention.model.residual_gate_layers.1."): list(tensor.shape)
        for key, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
        if ".model.residual_gate_layers.1." in key
    }
    assert gates == GATES.get(variant, {})


@pytest.mark.parametrize(
    "changes",
    [
        {"experts": 1, "active_experts": 1},
        {"expert_biases": "global"},
        {"head_norm": "rms"},
        {"head_norm": "layer"},
    ],
    ids=str,
)
@pytest.mark.parametrize("separate", [False, True])
def test_decoders_of_every_kind_come_back(changes: dict, separate: bool, tmp_path: Path) -> None:
    sizes = config(initial_memory="learned")
    decoder = DecoderConfig.model_validate(sizes.decoder.model_dump() | changes)
    encoder = sizes.encoder.model_copy(update={"mlm_norm": True})
    model = model_of(sizes.model_copy(update={"decoder": decoder, "encoder": encoder}), dtype=torch.float32)
    written = export_rxlm(model, tmp_path, separate=separate)
    found = import_rxlm({path.name: path for path in written} if separate else tmp_path)
    assert same(found.model, model)
    assert found.notes == ()


def test_the_orders_differ_in_what_faces_rotated_vectors_only(tmp_path: Path) -> None:
    model = model_of(config(reads_memory=True), dtype=torch.float32)
    for order in ("concatenated", "interleaved"):
        export_rxlm(model, tmp_path / order, order)
    one, other = (load_file(tmp_path / order / "model.safetensors") for order in ("concatenated", "interleaved"))
    differ = {key for key in one if not torch.equal(one[key], other[key])}
    assert differ == {key for key in one if "memory_cross_attention.k_proj" in key or (".attention_layers." in key and "q_proj" in key)}


@pytest.mark.parametrize(
    ("changes", "order", "error", "message"),
    [
        ({"shared_experts": 1}, "interleaved", CheckpointError, r"no place for shared experts"),
        ({"expert_biases": "global"}, "concatenated", ConfigError, r"Stacked experts .* interleaved files only"),
        ({}, "interleave", ConfigError, r"Unknown rope order 'interleave'"),
    ],
)
def test_what_cannot_be_written_is_refused(changes: dict, order: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    sizes = config()
    model = ReactiveTransformer.from_config(sizes.model_copy(update={"decoder": sizes.decoder.model_copy(update=changes)}))
    with pytest.raises(error, match=message):
        export_rxlm(model, tmp_path / "out", order)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_nano_is_written_as_published(tmp_path: Path) -> None:
    model = ReactiveTransformer.from_preset("nano")
    export_rxlm(model, tmp_path, "concatenated")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        sizes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    assert len(sizes) == 560
    assert sum(torch.Size(size).numel() for size in sizes) == 13_290_212
    assert same(import_rxlm(tmp_path).model, model)


def test_two_exports_have_the_same_bytes(tmp_path: Path) -> None:
    """safetensors itself writes metadata in an order that differs from file to file."""
    model = model_of(config(reads_memory=True))
    for name in ("a", "b", "c", "d"):
        export_rxlm(model, tmp_path / name)
    for file in ("model.safetensors", "mlm_head/model.safetensors"):
        assert len({(tmp_path / name / file).read_bytes() for name in ("a", "b", "c", "d")}) == 1
        with safe_open(tmp_path / "a" / file, "pt") as opened:
            assert list(opened.metadata()) or file.startswith("mlm_head")


def test_an_export_computes_the_same(tmp_path: Path) -> None:
    model = model_of(config(reads_memory=True), dtype=torch.float32)
    export_rxlm(model, tmp_path, "concatenated")
    loaded = import_rxlm(tmp_path).model
    stm, batch = memory_of(model, 2), interactions([7, 4])
    written = model.write_memory(stm, batch.ids, batch.mask)
    assert torch.equal(written, loaded.write_memory(stm, batch.ids, batch.mask))
    assert torch.equal(model.decode(batch.ids, batch.mask, written), loaded.decode(batch.ids, batch.mask, written))


def test_a_file_that_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(WriteError, match="could not be written"):
        export_rxlm(ReactiveTransformer.from_config(config()), tmp_path / "out")


def test_a_memory_attention_over_groups_comes_back_alone_too(tmp_path: Path) -> None:
    sizes = config(layers=4, initial_memory="learned")
    attention = AttentionConfig(query_groups=2, kv_groups=2)
    part = MemoryAttentionConfig(variant="grouped-self-interlayer", attention=attention, mean_attention=attention, layer_groups=2)
    model = model_of(sizes.model_copy(update={"memory_attention": part}), dtype=torch.float32)
    written = export_rxlm(model, tmp_path, separate=True)
    found = import_rxlm({path.name: path for path in written})
    assert same(found.model, model)
    assert found.model.config.memory_attention == part
