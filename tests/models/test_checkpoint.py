from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rxrl.errors import CheckpointError
from rxrl.manifest import MANIFEST_FILE
from rxrl.models import ReactiveTransformer
from tests.models.small import config, interactions, memory_of, model_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model_of(config(), dtype=torch.float32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_model_comes_back_exactly(tmp_path: Path, dtype: torch.dtype):
    model = model_of(config(reads_memory=True, initial_memory="learned"), dtype=dtype)
    model.save_pretrained(tmp_path / "a" / "b")
    loaded = ReactiveTransformer.from_pretrained(tmp_path / "a" / "b")
    assert loaded.config == model.config
    assert loaded.dtype == dtype
    for (name, one), (other_name, other) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other_name
        assert other.requires_grad
        assert torch.equal(one, other), name
    if dtype == torch.float64:
        stm, batch = memory_of(model, 2), interactions([5, 3])
        assert torch.equal(model.decode(batch.ids, batch.mask, stm), loaded.decode(batch.ids, batch.mask, stm))


def test_a_loaded_model_does_not_hang_on_its_file(saved: Path):
    loaded = ReactiveTransformer.from_pretrained(saved)
    expected = [parameter.clone() for parameter in loaded.parameters()]
    file = saved / "model.safetensors"
    with file.open("r+b") as raw:
        raw.write(bytes(file.stat().st_size))
    assert all(torch.equal(one, other) for one, other in zip(loaded.parameters(), expected, strict=True))
    loaded.save_pretrained(saved)
    again = ReactiveTransformer.from_pretrained(saved)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), expected, strict=True))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10\x00")


def rename_key(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["embeding.weight"] = weights.pop("embedding.weight")
    save_file(weights, folder / "model.safetensors")


def change_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["decoder.head.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")


def write_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["decoder.head.bias"][1] = float("nan")
    save_file(weights, folder / "model.safetensors")


def without(name: str):
    return lambda folder: (folder / name).unlink()


def edit_config(**changes: object):
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def write_config(text: str):
    return lambda folder: (folder / "config.json").write_text(text)


def write_whole_numbers(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["decoder.head.bias"] = weights["decoder.head.bias"].long()
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "model.safetensors cannot be read .*: copy the checkpoint again"),
        (cut_header, "model.safetensors cannot be read .*: copy the checkpoint again"),
        (rename_key, "missing: embedding.weight; unknown: embeding.weight"),
        (change_shape, r"decoder.head.bias is \[3\], expected \[24\]"),
        (write_nan, "NaN or infinite weights in decoder.head.bias: use an earlier checkpoint"),
        (without("config.json"), "is not a model checkpoint: config.json is missing"),
        (without("model.safetensors"), "is not a model checkpoint: model.safetensors is missing"),
        (edit_config(format_version=2), "not a configuration of this version: format_version: expected 1, got 2"),
        (edit_config(colour="red"), "not a configuration of this version: Unknown key 'colour'"),
        (edit_config(layers=10**30), "not a configuration of this version: layers: expected"),
        (edit_config(slots=10**9), "not a configuration of this version: slots: expected"),
        (write_whole_numbers, r"should hold floating-point weights, but not so .*decoder.head.bias \(int64\)"),
        (edit_config(heads=3), "not a configuration of this version: its values: .*dim / heads must be an even whole number"),
        (edit_config(slots=6), r"memory_attention.gate.bias is \[2, 5\], expected \[2, 6\]"),
        (write_config("{"), "config.json cannot be read as JSON"),
        (write_config("[]"), "not a configuration of this version: its values: expected a mapping, got"),
    ],
)
def test_a_broken_checkpoint_gets_one_clear_sentence(saved: Path, damage, message: str):
    damage(saved)
    # What reads a file stands without the manifest too, which many a checkpoint lacks.
    (saved / MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        ReactiveTransformer.from_pretrained(saved)
    assert "\n" not in str(caught.value)
    assert str(saved) in str(caught.value)


def test_a_checkpoint_that_is_not_there(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"There is no checkpoint .*nowhere: give its folder"):
        ReactiveTransformer.from_pretrained(tmp_path / "nowhere")


def test_a_checkpoint_is_loaded_without_torchs_compiler():
    """Importing it takes longer than everything else that a chat does before its first token."""
    code = """
import sys
from rxrl.models import PRESETS, ReactiveTransformer
from rxrl.models.skeleton import skeleton
from tests.models.small import GATES, VARIANTS, config, writing
from rxrl.models import AttentionConfig
heads = AttentionConfig(query_groups=4, kv_groups=2)
extra = [config(initial_memory="learned", reads_memory=True)]
extra += [config(memory_attention=writing(variant, heads, heads, gate=gate)) for variant in VARIANTS for gate in GATES]
for each in (*PRESETS.values(), *extra):
    assert {parameter.device.type for parameter in skeleton(ReactiveTransformer, each).parameters()} == {"meta"}
print(sorted({"torch._dynamo", "sympy"} & sys.modules.keys()))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == "[]"
