from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rxrl.errors import CheckpointError, ConfigError, ModelError
from rxrl.models import ReactiveTransformer
from rxrl.models.interop.rxlm import export_rxlm, import_rxlm
from tests import skips
from tests.models import golden_rxlm as golden
from tests.models.golden_rxlm import same
from tests.models.small import interactions

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "rxlm"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"{skips.FILES}: checkpoints of the authors' library")
CLOSE = {"atol": 1e-5, "rtol": 0.0}


# Examples of the authors' library


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "given", "order"),
    [
        ("alpha-early-interlayer", None, "concatenated"),
        ("alpha-interlayer", "interleaved", "interleaved"),
        ("alpha-interlayer-vectorised-experts", None, "interleaved"),
    ],
)
@torch.no_grad()
def test_whole_models_give_the_published_values(name: str, given: str | None, order: str, tmp_path: Path) -> None:
    found = import_rxlm(FIXTURES / name, given)
    assert set(found.rope_orders.values()) == {order}
    values, model = load_file(FIXTURES / name / "expected.safetensors"), found.model
    ids, mask, next_ids, next_mask = (values[key] for key in ("interaction_ids", "interaction_mask", "next_ids", "next_mask"))
    mask, next_mask = mask.bool(), next_mask.bool()
    encoded = model.encode(ids, mask)
    written = model.write_memory(values["stm_before"], ids, mask)
    torch.testing.assert_close(encoded[:, mask], values["encoded_data"][:, mask], **CLOSE)
    torch.testing.assert_close(written, values["stm_after"], **CLOSE)
    logits = model.decode(next_ids, next_mask, written)
    torch.testing.assert_close(logits[next_mask], values["logits"][next_mask], **CLOSE)
    # Read in the other order, the same file gives something else.
    other = import_rxlm(FIXTURES / name, "interleaved" if order == "concatenated" else "concatenated").model
    assert (other.write_memory(values["stm_before"], ids, mask) - written).abs().max() > 1e-3
    assert (other.decode(next_ids, next_mask, written) - logits)[next_mask].abs().max() > 1e-3

    export_rxlm(model, tmp_path / "out", order)  # type: ignore[arg-type]
    published, ours = load_file(FIXTURES / name / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert published.keys() == ours.keys()
    # The three parts had memories of their own; a model has one initial memory, the decoder's.
    for key in published.keys() - {"encoder.model.stm.memory", "memory_attention.model.stm.memory"}:
        assert torch.equal(published[key], ours[key]), key
    with safe_open(FIXTURES / name / "model.safetensors", "pt") as one, safe_open(tmp_path / "out" / "model.safetensors", "pt") as two:
        assert one.metadata().items() <= two.metadata().items()
    assert same(import_rxlm(tmp_path / "out").model, model)


@needs_fixtures
@torch.no_grad()
def test_separate_parts_give_the_published_values() -> None:
    found = import_rxlm({part: FIXTURES / f"parts-{part}" for part in ("encoder", "decoder", "mlm_head")})
    assert found.rope_orders == {"encoder": "concatenated", "decoder": "concatenated"}
    assert "encoder: cross_att_groups is 1 in config.json, but the weights have 2 groups" in found.notes
    values, model = load_file(FIXTURES / "parts-expected.safetensors"), found.model
    mask, next_mask = values["interaction_mask"].bool(), values["next_mask"].bool()
    encoded = model.encode(values["interaction_ids"], mask, values["stm"])
    torch.testing.assert_close(encoded[:, mask], values["encoded_data"][:, mask], **CLOSE)
    torch.testing.assert_close(model.mlm_head(encoded[-1])[mask], values["mlm_logits"][mask], **CLOSE)
    logits = model.decode(values["next_ids"], next_mask, values["stm"])
    torch.testing.assert_close(logits[next_mask], values["decoder_logits"][next_mask], **CLOSE)


# Examples of our own


@pytest.mark.parametrize("case", golden.CASES)
def test_golden_checkpoints_give_the_stored_values(case: str, tmp_path: Path) -> None:
    write, order = golden.CASES[case]
    model = import_rxlm(write(tmp_path), order).model
    found = golden.outputs(model)
    expected = golden.expected(case)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **CLOSE)


@pytest.fixture
def early(tmp_path: Path) -> Path:
    return golden.write_whole(tmp_path / "early", "single", later=False)


def test_order_is_told_by_the_file_or_asked_for(tmp_path: Path, early: Path) -> None:
    stacked, later = (golden.write_whole(tmp_path / name, name, later=True) for name in ("stacked", "single"))
    assert set(import_rxlm(early).rope_orders.values()) == {"concatenated"}
    assert set(import_rxlm(stacked).rope_orders.values()) == {"interleaved"}
    with pytest.raises(ConfigError, match=r"of the decoder and the memory attention: .*--rope-order.*'concatenated' .*'interleaved'"):
        import_rxlm(later)
    one, other = import_rxlm(later, "interleaved").model, import_rxlm(later, "concatenated").model
    assert not same(one, other)
    found = import_rxlm(early, "interleaved")
    assert same(found.model, import_rxlm(early, "interleaved").model)
    assert any("looks concatenated, read as interleaved" in note for note in found.notes)
    with pytest.raises(ConfigError, match=r"Unknown rope order 'interleave'.* Did you mean 'interleaved'"):
        import_rxlm(early, "interleave")  # type: ignore[arg-type]


def test_parts_tell_the_order_for_one_another(tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path)
    found = import_rxlm(parts)
    assert set(found.rope_orders) == {"encoder", "decoder", "memory_attention"}
    assert set(found.rope_orders.values()) == {"concatenated"}
    assert "encoder: rope order concatenated, as the other parts tell" in found.notes
    with pytest.raises(ConfigError, match="Nothing in the files tells the order of rotary embedding of the encoder:"):
        import_rxlm(parts["encoder"])


def test_a_part_alone_is_a_model_that_has_only_that_part(tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path)
    whole = import_rxlm(parts).model
    assert whole.config.absent == ()
    batch = interactions([6], seed=1)
    batch.ids.remainder_(golden.VOCAB)
    stm = whole.init_memory(1)

    decoder = import_rxlm(parts["decoder"]).model
    assert decoder.config.absent == ("encoder", "memory_attention", "mlm_head")
    assert torch.equal(decoder.decode(batch.ids, batch.mask, stm), whole.decode(batch.ids, batch.mask, stm))
    with pytest.raises(ModelError, match="has no encoder"):
        decoder.write_memory(stm, batch.ids, batch.mask)

    encoder = import_rxlm({name: parts[name] for name in ("encoder", "mlm_head")}, "concatenated").model
    encoded = encoder.encode(batch.ids, batch.mask, stm)
    assert torch.equal(encoder.mlm_head(encoded[-1]), whole.mlm_head(whole.encode(batch.ids, batch.mask, stm)[-1]))
    with pytest.raises(ModelError, match="has no decoder"):
        encoder.decode(batch.ids, batch.mask, stm)

    memory = import_rxlm(parts["memory_attention"], "concatenated").model
    assert torch.equal(memory.update_memory(stm, encoded, batch.mask), whole.update_memory(stm, encoded, batch.mask))
    with pytest.raises(ModelError, match="has no embedding"):
        memory.encode(batch.ids, batch.mask)

    with pytest.raises(CheckpointError, match="An MLM head alone is no model"):
        import_rxlm(parts["mlm_head"])


def test_a_model_of_some_parts_is_saved_and_loaded(tmp_path: Path) -> None:
    model = import_rxlm(golden.write_parts(tmp_path)["decoder"]).model
    model.save_pretrained(tmp_path / "saved")
    assert same(ReactiveTransformer.from_pretrained(tmp_path / "saved"), model)


def test_missing_parts_are_made_on_request(tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path)
    alone, made = import_rxlm(parts["decoder"]).model, import_rxlm(parts["decoder"], fresh=True, seed=3).model
    assert made.config.absent == ()
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in alone.state_dict().items())
    assert same(made, import_rxlm(parts["decoder"], fresh=True, seed=3).model)
    assert not same(made, import_rxlm(parts["decoder"], fresh=True, seed=4).model)
    batch = interactions([6], seed=1)
    batch.ids.remainder_(golden.VOCAB)
    assert made.write_memory(made.init_memory(1), batch.ids, batch.mask).isfinite().all()
    with pytest.raises(ConfigError, match="need a token embedding"):
        import_rxlm(parts["memory_attention"], "concatenated", fresh=True)


def test_the_stored_memory_is_where_conversations_start(early: Path) -> None:
    model = import_rxlm(early).model
    stored = load_file(early / "model.safetensors")["decoder.model.stm.memory"]
    assert torch.equal(model.init_memory(3), stored.expand(-1, 3, -1, -1))


def test_a_memory_of_several_conversations_is_no_start(early: Path) -> None:
    edit_weights(early, lambda t: t.update({key: t[key].repeat(1, 2, 1, 1) for key in t if "stm.memory" in key}))
    found = import_rxlm(early)
    assert found.model.config.initial_memory == "normal"
    assert any("no memory of batch 1" in note for note in found.notes)


def test_bfloat16_files_stay_bfloat16(tmp_path: Path, early: Path) -> None:
    edit_weights(early, lambda t: t.update({key: value.bfloat16() for key, value in t.items()}))
    model = import_rxlm(early).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    export_rxlm(model, tmp_path / "out", "concatenated")
    assert same(import_rxlm(tmp_path / "out").model, model)


# What does not fit


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata=metadata)


def edit_config(folder: Path, edit: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["decoder.model.layers.1.norm4.weight"] = tensors.pop("decoder.model.layers.1.norm3.weight")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def without_experts(tensors: dict[str, torch.Tensor]) -> None:
    """The trap: keys that another layout does not have, so that a lenient loader leaves its own experts as they were."""
    for key in [key for key in tensors if ".ff.experts." in key]:
        del tensors[key]


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "model.safetensors cannot be read .*: copy the checkpoint again"),
    "renamed": (
        lambda folder: edit_weights(folder, rename),
        "missing: decoder.model.layers.1.norm3.weight; unknown: decoder.model.layers.1.norm4.weight.*Nothing was loaded",
    ),
    "a wrong shape": (
        lambda folder: edit_weights(folder, lambda t: t.update({"decoder.model.head.bias": torch.zeros(7)})),
        r"wrong shape: decoder.model.head.bias is \[7\], expected \[12\]",
    ),
    "a wrong projection": (
        lambda folder: edit_weights(folder, lambda t: t.update({"decoder.model.layers.0.attention.k_proj.weight": torch.zeros(4, 16)})),
        r"wrong shape: decoder.model.layers.0.attention.k_proj.weight is \[4, 16\], expected \[8, 16\]",
    ),
    "a wrong memory": (
        lambda folder: edit_weights(folder, lambda t: t.update({"decoder.model.stm.memory": torch.zeros(2, 1, 5, 8)})),
        r"wrong shape: decoder.model.stm.memory is \[2, 1, 5, 8\]",
    ),
    "no experts": (lambda folder: edit_weights(folder, without_experts), r"missing: .*ff.experts.0.* and 16 more"),
    "a foreign key": (
        lambda folder: edit_weights(folder, lambda t: t.update({"critic.weight": torch.zeros(1)})),
        "not critic.weight: use an intact file",
    ),
    "another embedding": (
        lambda folder: edit_weights(folder, lambda t: t.update({"encoder.model.embedding.weight": torch.zeros(12, 16)})),
        "Encoder and decoder hold different token embeddings",
    ),
    "a later key": (
        lambda folder: edit_config(folder, lambda c: c["decoder_config"].update(use_linear_attention=True, gated_attention="silu")),
        "does not support: decoder: use_linear_attention = True; decoder: gated_attention = 'silu'. Nothing was loaded",
    ),
    "stateless layers": (
        lambda folder: edit_config(folder, lambda c: c["decoder_config"].update(stateless_layers_config=["moe"])),
        r"does not support: decoder: stateless_layers_config = \['moe'\]",
    ),
    "layer norms": (
        lambda folder: edit_config(folder, lambda c: c["encoder_config"].update(use_rms_norm=False)),
        "does not support: encoder: use_rms_norm = False",
    ),
    "another rope": (
        lambda folder: edit_config(folder, lambda c: c["encoder_config"].update(rope_base=500000)),
        "does not support: encoder: rope_base = 500000",
    ),
    "other tokens": (
        lambda folder: edit_config(folder, lambda c: c["tokenizer_config"].update(eos_token_id=2)),
        "special tokens .* other ids .*eos_token_id = 2, not 3",
    ),
    "no size": (
        lambda folder: edit_config(folder, lambda c: c["memory_attention_config"].pop("stm_size")),
        "config.json, memory_attention: expected a number for stm_size, got nothing",
    ),
    "sizes that disagree": (
        lambda folder: edit_config(folder, lambda c: c["encoder_config"].update(stm_size=7)),
        r"do not belong together: stm_size is 7 \(encoder\), 5 \(decoder\)|5 \(decoder\), 7 \(encoder\)",
    ),
    "a variant": (
        lambda folder: edit_config(folder, lambda c: c.update(memory_attention_variant="interlayers")),
        "Unknown memory_attention_variant 'interlayers'.*Did you mean 'interlayer'",
    ),
    "a variant without its weights": (
        lambda folder: edit_config(folder, lambda c: c.update(memory_attention_variant="self")),
        "missing: memory_attention.model.self_attention_layers.0",
    ),
    "a gate": (
        lambda folder: edit_config(folder, lambda c: c["memory_attention_config"].update(residual_gate_type="cubic")),
        "expected static, elementwise or linear for residual_gate_type, got 'cubic'",
    ),
    "no part": (lambda folder: edit_config(folder, lambda c: c.pop("encoder_config")), "config.json has no encoder_config"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "half a configuration": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "should hold a JSON object, got list"),
    "nothing": (shutil.rmtree, "There is no checkpoint .*: give its folder, or its name on the Hub"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_gets_one_clear_sentence(what: str, early: Path) -> None:
    damage, message = WRONG[what]
    damage(early)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_rxlm(early)
    assert "\n" not in str(caught.value)
    assert str(early) in str(caught.value)


@pytest.mark.parametrize("what", ["decoder", "memory_attention"])
def test_parts_of_different_models_are_refused(what: str, tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path)
    edit_config(parts[what], lambda c: c.update(embed_dim=32))
    with pytest.raises(CheckpointError, match=rf"do not belong together: embed_dim is .*32 \({what}\)"):
        import_rxlm(parts)
    with pytest.raises(CheckpointError, match=rf"holds encoder, not {what}"):
        import_rxlm({what: parts["encoder"]})
    with pytest.raises(ConfigError, match="Unknown part 'encodr'"):
        import_rxlm({"encodr": parts["encoder"]})


def test_weights_decide_where_the_configuration_is_wrong_about_them(tmp_path: Path) -> None:
    right = import_rxlm(golden.write_whole(tmp_path / "right", "single", later=False))
    folder = golden.write_whole(tmp_path / "wrong", "single", later=False)
    edit_config(folder, lambda c: c.update(memory_attention_variant="self-interlayer"))
    edit_config(folder, lambda c: c["decoder_config"].update(cross_att_groups=2))
    edit_config(folder, lambda c: c["decoder_config"].update(use_vectorized_moe=True))
    edit_config(folder, lambda c: c["encoder_config"].update(skip_memory_cross_attention=False))
    found = import_rxlm(folder, "concatenated")
    assert found.model.config == right.model.config.model_copy(update={"name": "wrong"})
    assert set(found.notes) - set(right.notes) == {
        "memory_attention_variant is self-interlayer in config.json, but the weights are those of interlayer",
        "decoder: cross_att_groups is 2 in config.json, but the weights have 1 group",
        "decoder: use_vectorized_moe is True in config.json, but the weights have experts one by one",
        "encoder: skip_memory_cross_attention is False in config.json, but the weights have no memory cross-attention",
    }
