"""`import-rxlm`, `export-rxlm` and `push`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from rxrl.data.tokenizer import SMALLEST_VOCABULARY, Tokenizer
from rxrl.models import ReactiveTransformer
from tests.cli.test_bad_input import refused
from tests.models import golden_rxlm as golden
from tests.models.small import config, model_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A checkpoint of ours with a tokenizer."""
    tokenizer = Tokenizer.train(["a small text"], SMALLEST_VOCABULARY)
    model = model_of(config(vocab_size=tokenizer.vocab_size)).float()
    model.save_pretrained(tmp_path / "saved", tokenizer=tokenizer)
    return tmp_path / "saved"


@pytest.mark.parametrize("order", ["concatenated", "interleaved"])
@pytest.mark.parametrize("separate", [False, True])
def test_export_and_import_give_the_same_files(order: str, separate: bool, invoke: Any, saved: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    invoke("export-rxlm", saved, out, "--rope-order", order, *(["--separate"] if separate else []))
    parts = ("encoder", "decoder", "memory_attention", "mlm_head")
    options = [piece for part in parts for piece in (f"--{part.replace('_', '-')}", out / part)]
    result = invoke("import-rxlm", *([*options, "--tokenizer", out] if separate else [out]), back)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer.sha256"):
        assert (back / name).read_bytes() == (saved / name).read_bytes(), name
    assert f"rope order {order}" in result.output
    assert "Note" not in result.output


def test_what_is_absent_and_odd_is_told(invoke: Any, tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path / "parts")
    result = invoke("import-rxlm", "--decoder", parts["decoder"], "--encoder", parts["encoder"], tmp_path / "mine")
    assert "Imported mine: dim 16, 2 layers" in result.output
    assert "absent: memory attention, mlm head" in result.output
    assert "Note: encoder: rope order concatenated, as the other parts tell." in result.output
    assert "no tokenizer.json" in result.output
    assert ReactiveTransformer.from_pretrained(tmp_path / "mine").config.absent == ("memory_attention", "mlm_head")


def test_missing_parts_are_made_on_request(invoke: Any, tmp_path: Path) -> None:
    parts = golden.write_parts(tmp_path / "parts")
    result = invoke("import-rxlm", parts["decoder"], tmp_path / "mine", "--fresh")
    assert "absent" not in result.output
    assert ReactiveTransformer.from_pretrained(tmp_path / "mine").config.absent == ()


IMPORTS = {
    "one folder": (lambda folder: [folder / "early"], "Expected SOURCE and OUT"),
    "three folders": (lambda folder: [folder / "early", "a", "b"], "Expected SOURCE and OUT"),
    "parts and a source": (lambda folder: ["--encoder", "x", folder / "early", folder / "out"], "Expected OUT alone beside separate parts"),
    "an order": (lambda folder: [folder / "early", folder / "out", "--rope-order", "x"], "Unknown rope order 'x'"),
    "no source": (lambda folder: [folder / "nothing", folder / "out"], "There is no checkpoint"),
    "a folder that is there": (lambda folder: [folder / "early", folder / "early"], "exists already"),
    "a tokenizer": (lambda folder: [folder / "early", folder / "out", "--tokenizer", folder], "No tokenizer.json"),
    "a large tokenizer": (lambda folder: [folder / "early", folder / "out", "--tokenizer", folder / "saved"], "but the model knows 12"),
    "ours": (lambda folder: ["--encoder", folder / "saved", folder / "out"], "is no part of a published"),
}


@pytest.mark.parametrize("what", IMPORTS)
def test_wrong_imports_write_nothing(what: str, invoke: Any, saved: Path, tmp_path: Path) -> None:
    golden.write_whole(tmp_path / "early", "single", later=False)
    arguments, message = IMPORTS[what]
    before = sorted(path for path in tmp_path.rglob("*"))
    assert message in refused(invoke("import-rxlm", *arguments(tmp_path), code=2))
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("order", ["x", "concatenated"])
def test_wrong_exports_write_nothing(order: str, invoke: Any, saved: Path, tmp_path: Path) -> None:
    stacked = config().decoder.model_copy(update={"expert_biases": "global"})
    model_of(config().model_copy(update={"decoder": stacked})).save_pretrained(tmp_path / "stacked")
    refused(invoke("export-rxlm", tmp_path / "stacked", tmp_path / "out", "--rope-order", order, code=2))
    assert "exists already" in refused(invoke("export-rxlm", saved, saved, code=2))
    assert "There is no checkpoint" in refused(invoke("export-rxlm", tmp_path / "none", tmp_path / "out", code=2))
    assert not (tmp_path / "out").exists()


def test_push_uploads_and_prints_the_address(invoke: Any, saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uploads: list[str] = []

    class FakeHub:
        def __init__(self, **options: Any) -> None: ...

        def create_repo(self, repo_id: str, **options: Any) -> str:
            return f"https://hub.example/{repo_id}"

        def upload_folder(self, *, folder_path: str, **options: Any) -> None:
            uploads.extend(path.name for path in Path(folder_path).iterdir())

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    assert "# custom" in invoke("push", saved, "someone/model", "--dry-run").output
    assert not uploads
    assert invoke("push", saved, "someone/model").output == "Uploaded to https://hub.example/someone/model.\n"
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(uploads)
    broken = tmp_path / "evaluation.json"
    broken.write_text("[")
    assert "evaluation.json cannot be read as JSON" in refused(invoke("push", saved, "a/b", "--evaluation", broken, code=2))
    shutil.rmtree(saved)
    assert "There is no checkpoint" in refused(invoke("push", saved, "a/b", code=2))
