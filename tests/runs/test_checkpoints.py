"""Checkpoints are whole or absent, and metrics files go back to where a checkpoint was."""

import json

import pytest
import torch

from rxrl.errors import CheckpointError, WriteError
from rxrl.manifest import MANIFEST_FILE, write_manifest
from rxrl.models import Critic, ReactiveTransformer
from rxrl.runs.checkpoints import STATE_FILE, TENSORS_FILE, load_critic, load_state, newest_position, numbered, prune, save_checkpoint
from rxrl.runs.tracking import MetricsLog, read_metrics
from rxrl.writing import sweep
from tests.training.toy import CODEC, tiny_model


def saved(folder, name="step-000001", model=None, **given):
    return save_checkpoint(folder / name, model or tiny_model(), CODEC, state={"step": 1}, **{"tensors": {"x": torch.arange(3)}} | given)


def test_what_is_saved_comes_back(tmp_path):
    model, critic = tiny_model(), Critic(tiny_model().config)
    path = saved(tmp_path, model=model, critic=critic)
    state, tensors = load_state(path)
    assert state == {"step": 1}
    assert tensors["x"].tolist() == [0, 1, 2]
    loaded = ReactiveTransformer.from_pretrained(path).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
    other = Critic(model.config)
    assert load_critic(path, other)
    assert all(torch.equal(a, b) for a, b in zip(critic.state_dict().values(), other.state_dict().values(), strict=True))
    assert not load_critic(saved(tmp_path, "plain"), other)


def test_what_was_loaded_is_saved_in_the_same_bytes(tmp_path):
    # A name that stands in two places is one object in code; read from a checkpoint and joined with those of the code, it is two.
    name, again = "encoder.norm", "".join(["encoder", ".norm"])
    assert name is not again
    one = saved(tmp_path, "step-000001", tensors={"good": {name: torch.ones(2)}, "other": [name, {"a": (name,)}]})
    other = saved(tmp_path, "step-000002", tensors={"good": {again: torch.ones(2)}, "other": [name, {"a": (name,)}]})
    assert (one / TENSORS_FILE).read_bytes() == (other / TENSORS_FILE).read_bytes()


def test_a_failed_write_leaves_the_older_checkpoint(tmp_path):
    path = saved(tmp_path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    class Broken:
        def save(self, folder):
            raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match="No space left on device"):
        save_checkpoint(path, tiny_model(seed=3), Broken(), state={})
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [each.name for each in tmp_path.iterdir()] == ["step-000001"]


def test_a_failed_rename_brings_the_older_checkpoint_back(tmp_path, monkeypatch):
    path = saved(tmp_path)
    rename = type(path).rename

    def failing(self, target):
        if self.name.endswith(".new"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", failing)
    with pytest.raises(WriteError, match="older ones are untouched"):
        saved(tmp_path, model=tiny_model(seed=3))
    monkeypatch.undo()
    assert load_state(path)[0] == {"step": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["step-000001"]


def test_leftovers_of_a_killed_write_are_no_checkpoints(tmp_path):
    (tmp_path / ".step-000002.new").mkdir()
    (tmp_path / "step-000003").mkdir()
    saved(tmp_path)
    assert [path.name for path in numbered(tmp_path)] == ["step-000001"]


def test_what_a_killed_replacement_has_set_aside_comes_back(tmp_path):
    path = saved(tmp_path)
    path.rename(tmp_path / ".step-000001.old")
    (tmp_path / ".step-000001.new").mkdir()
    sweep(tmp_path)
    assert load_state(path)[0] == {"step": 1}
    path.with_name(".step-000001.old").mkdir()
    sweep(tmp_path)
    assert load_state(path)[0] == {"step": 1}
    prune(tmp_path, 2)
    assert [each.name for each in tmp_path.iterdir()] == ["step-000001"]


def test_pruning_keeps_the_last(tmp_path):
    for step in (1, 10, 9):
        saved(tmp_path, f"step-{step:06d}")
    prune(tmp_path, 2)
    assert [path.name for path in numbered(tmp_path)] == ["step-000009", "step-000010"]


def test_a_broken_or_missing_state_is_one_sentence(tmp_path):
    path = saved(tmp_path)
    (path / TENSORS_FILE).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"training_state.pt is not the file that was written"):
        load_state(path)
    write_manifest(path, [TENSORS_FILE, STATE_FILE])
    with pytest.raises(CheckpointError, match="use an older checkpoint"):
        load_state(path)
    with pytest.raises(CheckpointError, match="is missing; start from it instead"):
        load_state(saved(tmp_path, "start", tensors=None))


@pytest.mark.parametrize("other", [Critic(tiny_model(dim=8).config), Critic(tiny_model().config, memory=True)])
def test_a_critic_of_another_size_or_kind_is_left_where_it_is(other, tmp_path, caplog):
    path = saved(tmp_path, critic=Critic(tiny_model().config))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    assert not load_critic(path, other)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert "another kind or size" in caplog.text
    (path / "critic.safetensors").write_bytes(b"nonsense")
    (path / MANIFEST_FILE).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_critic(path, other)


def test_metrics_go_back_to_the_position_of_a_checkpoint(tmp_path):
    log = MetricsLog(tmp_path)
    log.write({"iteration": 1, "loss": torch.tensor(0.123456789)}, {"collect": 1.0})
    position = log.position()
    log.write({"iteration": 2, "loss": 5.0})
    log.rewind(position)
    log.write({"iteration": 2, "loss": 6.0})
    assert read_metrics(tmp_path) == [{"iteration": 1, "loss": 0.123457}, {"iteration": 2, "loss": 6.0}]


def test_times_stand_apart_from_metrics(tmp_path):
    MetricsLog(tmp_path).write({"phase": "mrl", "iteration": 1}, {"collect": 1.23456})
    assert "collect" not in (tmp_path / "metrics.jsonl").read_text()
    assert json.loads((tmp_path / "timings.jsonl").read_text())["collect"] == 1.2346
    assert read_metrics(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "critic.safetensors", "training_state.json", "training_state.pt"])
def test_a_flipped_bit_in_any_file_is_noticed_when_it_is_read(name, tmp_path):
    critic = Critic(tiny_model().config)
    path = saved(tmp_path, critic=critic)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 0x04
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is not the file that was written .*manifest.json"):
        _ = ReactiveTransformer.from_pretrained(path), load_critic(path, critic), load_state(path)


def test_what_the_manifest_names_must_be_there_and_a_run_needs_its_manifest(tmp_path):
    critic = Critic(tiny_model().config)
    path = saved(tmp_path, critic=critic)
    (path / "critic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is not whole: critic.safetensors is missing"):
        load_critic(path, critic)
    (path / MANIFEST_FILE).write_text("[]")
    with pytest.raises(CheckpointError, match=r"manifest\.json (is not a table of hashes|cannot be read as JSON)"):
        ReactiveTransformer.from_pretrained(path)
    (path / MANIFEST_FILE).unlink()
    assert not load_critic(path, critic)
    with pytest.raises(CheckpointError, match=r"cannot be checked: manifest.json is missing"):
        load_state(path)


def test_checkpoints_are_ordered_by_number(tmp_path):
    for name in ("step-1000000", "step-999999", "step-000002", "step-note"):
        saved(tmp_path, name)
    assert [path.name for path in numbered(tmp_path)] == ["step-000002", "step-999999", "step-1000000"]


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", 0),
        (b'{"iteration": 1}\n', 1),
        (b'{"iteration": 1}\n{"itera', 1),
        (b'{"iteration": 1}\n' + bytes(40), 1),
        (b"\xff\xfe\n", 0),
        (b"[]\n", 0),
    ],
)
def test_metrics_that_have_lost_lines_go_on_after_those_that_are_left(left, kept, tmp_path, caplog):
    log = MetricsLog(tmp_path)
    for iteration in (1, 2, 3):
        log.write({"iteration": iteration})
    position = log.position()
    (tmp_path / "metrics.jsonl").write_bytes(left)
    log.rewind(position)
    log.write({"iteration": 4})
    assert [line["iteration"] for line in read_metrics(tmp_path)] == [*range(1, kept + 1), 4]
    assert "metrics.jsonl has lost its last lines" in caplog.text


def test_a_number_that_is_not_finite_is_null_in_the_file(tmp_path):
    MetricsLog(tmp_path).write({"loss": float("nan"), "kl": torch.tensor(float("inf")), "terms": [float("-inf"), 1.0]})
    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail) == {
        "loss": None,
        "kl": None,
        "terms": [None, 1.0],
    }


def test_the_metrics_of_a_job_go_back_to_the_newest_checkpoint_of_all_its_parts(tmp_path):
    """Also where a killed replacement has left the last part under another name."""

    def part(name, size, **given):
        save_checkpoint(tmp_path / name, tiny_model(), CODEC, state={"log": {"metrics.jsonl": size}}, **given)

    assert newest_position(tmp_path) is None
    part("pretrain", 100)
    part("sft", 300)
    part("sft/step-000008", 200, tensors={})
    part("sft/step-000010", 250, tensors={})
    assert newest_position(tmp_path) == {"metrics.jsonl": 300}
    (tmp_path / "sft").rename(tmp_path / ".sft.old")
    (tmp_path / ".sft.new").mkdir()
    sweep(tmp_path)
    part("step-000002", 400, tensors={})
    part("best-000009", 900)
    part("abandoned-step-000009", 900, tensors={})
    assert newest_position(tmp_path) == {"metrics.jsonl": 400}
