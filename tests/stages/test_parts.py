"""A checkpoint of single parts, in the published layout, loads, trains on, and is exported part by part."""

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data.tokenizer import Tokenizer
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer

TINY = ["iterations=2", "batch_tokens=300", "validation_rows=4", "validate_every=1", "log_every=1", "mode=separate"]


def rxrl(*arguments):
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small Micro as its parts were published: encoder, MLM head and decoder, each in a folder."""
    folder = tmp_path_factory.mktemp("published")
    model = ReactiveTransformer.from_preset("micro", 0, vocab_size=300, dim=32, layers=2, slots=8, max_length=96)
    model.save_pretrained(folder / "model", tokenizer=Tokenizer.train(["the owl sat and sang"] * 3, 300))
    rxrl("export-rxlm", folder / "model", folder / "parts", "--separate")
    return folder / "parts"


@pytest.mark.parametrize(
    ("parts", "share", "stage"),
    [(("encoder", "mlm_head"), 1, "pretrain"), (("decoder",), 0, "pretrain"), (("encoder", "mlm_head", "decoder"), 0.5, "sft")],
)
def test_parts_train_on_and_are_exported_again(published, parts, share, stage, tmp_path):
    given = [option for part in parts for option in (f"--{part.replace('_', '-')}", published / part)]
    rxrl("import-rxlm", tmp_path / "start", *given, "--tokenizer", published)
    settings = [option for each in (*TINY, f"encoder_share={share}") for option in ("--set", each)]
    rxrl("stage", stage, "--from", tmp_path / "start", "--out", tmp_path / "run", *settings)
    model, _ = load_checkpoint(tmp_path / "run")
    assert set(model.config.absent) == {"encoder", "mlm_head", "decoder", "memory_attention"} - set(parts)
    rxrl("export-rxlm", tmp_path / "run", tmp_path / "out", "--separate")
    for part in parts:
        before, after = (load_file(each / part / "model.safetensors") for each in (published, tmp_path / "out"))
        assert before.keys() == after.keys()
        assert any(not torch.equal(value, after[name]) for name, value in before.items()), part
    # What came out goes in again, bit for bit.
    again = [option for part in parts for option in (f"--{part.replace('_', '-')}", tmp_path / "out" / part)]
    rxrl("import-rxlm", tmp_path / "again", *again, "--tokenizer", published)
    weights = load_checkpoint(tmp_path / "again")[0].state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
