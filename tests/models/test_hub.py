from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from rxrl.data.tokenizer import SMALLEST_VOCABULARY, Tokenizer
from rxrl.errors import CheckpointError, DataError
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer
from rxrl.models.interop.card import model_card
from rxrl.models.interop.hub import local_folder
from tests.models.small import config, model_of

EVALUATION = {
    "conversations": 40,
    "retention_at_16": 0.625,
    "retention_at_16_interval": [0.5, 0.75],
    "retention_at_16_turns": 80,
    "retention_far": None,
    "retention": 0.5,
    "retention_interval": [0.4, 0.6],
    "retention_turns": 100,
    "chance": 0.125,
    "by_distance": [{"distance": 1, "mean": 0.75, "low": 0.5, "high": 1.0, "turns": 12}],
    "controls": {"empty_memory": {"retention": 0.1, "retention_interval": [0.0, 0.2], "retention_turns": 100, "retention_at_16": None}},
}


class FakeHub:
    """Keeps what would be uploaded."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses = refuses
        self.made: dict[str, Any] = {}
        self.uploaded: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.refuses:
            raise self.refuses
        self.made = {"repo_id": repo_id, **options}
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, folder_path: str, **options: Any) -> None:
        self.uploaded = options
        self.files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.fixture
def model() -> ReactiveTransformer:
    return model_of(config(vocab_size=300, name="test-model"))


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["a small text"], SMALLEST_VOCABULARY)


def rows(card: str) -> dict[str, list[str]]:
    """Rows of the card's tables by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    return {first: others for first, *others in cells}


def test_what_is_pushed_can_be_loaded(model: ReactiveTransformer, tokenizer: Tokenizer, tmp_path: Path) -> None:
    hub = FakeHub()
    address = model.push_to_hub("someone/model", tokenizer=tokenizer, private=True, revision="trial", api=hub)
    assert address == "https://hub.example/someone/model"
    assert hub.made == {"repo_id": "someone/model", "private": True, "exist_ok": True}
    assert hub.uploaded["repo_id"] == "someone/model"
    assert hub.uploaded["revision"] == "trial"
    assert set(hub.files) == {"config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer.sha256", "README.md"}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    loaded, codec = load_checkpoint(tmp_path)
    assert loaded.config == model.config
    assert codec.hash == tokenizer.hash
    assert json.loads(hub.files["config.json"])["format_version"] == 1


def test_no_checkpoint_holds_a_batch_size(model: ReactiveTransformer, tmp_path: Path) -> None:
    model.init_memory(7)
    model.save_pretrained(tmp_path)
    assert "batch" not in (tmp_path / "config.json").read_text()
    assert all(7 not in value.shape for value in model.state_dict().values())


@pytest.mark.parametrize("refusal", [HFValidationError("no such name"), OSError("no network"), RuntimeError("no route")])
def test_a_refusal_is_one_sentence(model: ReactiveTransformer, refusal: Exception) -> None:
    with pytest.raises(CheckpointError, match=f"someone/model cannot be written on the Hub .*{refusal}.*token") as caught:
        model.push_to_hub("someone/model", api=FakeHub(refusal))
    assert "\n" not in str(caught.value)


def test_the_card_tells_sizes_and_results(model: ReactiveTransformer) -> None:
    card = model_card(model, EVALUATION, license="apache-2.0", repo_id="someone/model")
    assert card.startswith("---\nlibrary_name: rxrl\n")
    assert "license: apache-2.0" in card.split("---")[1]
    assert 'load_checkpoint("someone/model")' in card
    table = rows(card)
    assert table["vocabulary"] == ["300"]
    assert table["experts in the decoder"] == ["2 of 4 a token"]
    assert table["Short-Term Memory"] == ["2 layers x 5 slots (160 values)"]
    assert table["decoder, self-attention"] == ["SQA, 2 query and 2 key/value heads"]
    assert table["MLM head"] == [f"{sum(each.numel() for each in model.mlm_head.parameters()):,}"]
    assert table["retention at 16 turns"] == ["0.625", "0.500 to 0.750", "80"]
    assert table["the same with empty memory"] == ["0.100", "0.000 to 0.200", "100"]
    assert table["chance"][0] == "0.125"
    assert table["1"] == ["0.750", "0.500 to 1.000", "12"]
    assert "retention, distance 9 to 16" not in table


def test_a_card_without_results_has_no_place_for_them(model: ReactiveTransformer) -> None:
    card = model_card(model)
    assert "Evaluation" not in card
    assert "license" not in card


@pytest.mark.parametrize("other", [{"controls": [1]}, {"retention": "x"}, {"retention": 0.5, "controls": [1]}, {"a": 1}])
def test_results_of_something_else_are_refused(model: ReactiveTransformer, other: dict) -> None:
    with pytest.raises(DataError, match="not what an evaluation writes"):
        model_card(model, other)


def test_the_report_of_a_run_serves_as_well(model: ReactiveTransformer) -> None:
    controls = EVALUATION["controls"]
    report = {"after_supervised": {"retention": 0.2}, "after_mrl": {"retention": 0.5, "retention_interval": [0, 1]}, "controls": controls}
    table = rows(model_card(model, report))
    assert table["retention, all asking turns"][0] == "0.500"
    assert table["the same with empty memory"][0] == "0.100"


def test_a_card_leaves_absent_parts_out(model: ReactiveTransformer) -> None:
    lacking = ReactiveTransformer(model.config.model_copy(update={"absent": ("decoder", "memory_attention")}))
    card = model_card(lacking)
    assert "absent: decoder, memory attention" in card
    assert not any(name.startswith("decoder") for name in rows(card))
    assert "encoder, self-attention" in rows(card)


def test_a_name_is_fetched_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: ReactiveTransformer) -> None:
    asked: dict[str, Any] = {}

    def fetch(repo_id: str, **options: Any) -> str:
        asked.update(repo_id=repo_id, **options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model.save_pretrained(tmp_path)
    assert ReactiveTransformer.from_pretrained("someone/model@v1").config == model.config
    assert asked["repo_id"] == "someone/model"
    assert asked["revision"] == "v1"
    assert all(not pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow_patterns"])


def test_paths_are_not_taken_for_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(*arguments: Any, **options: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("runs/modle", str(tmp_path / "modle"), "modle", "a/b/c"):
        with pytest.raises(CheckpointError, match=r"There is no checkpoint .*: give its folder, or its name on the Hub"):
            local_folder(path)
    with pytest.raises(CheckpointError, match=r"There is no folder someone/model, and it cannot be fetched .*offline"):
        local_folder("someone/model")
