"""One folder, one run: a lock that dies with its process, and a run that is never moved away while it runs."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rxrl.cli.main import app
from rxrl.errors import RunInUse, WriteError
from rxrl.runs.folder import LOCK_FILE, RunFolder, claimed_around
from rxrl.training.callbacks import Callback
from tests.training.resume_worker import trainer_in

HOLDER = """
import os, sys, time
from rxrl.runs.folder import RunFolder
with RunFolder(sys.argv[1]).claimed():
    if "fork" in sys.argv:
        begun, begin = os.pipe()
        if os.fork() == 0:
            os.close(1)
            os.write(begin, b"!")
            time.sleep(600)
        os.read(begun, 1)
    print("claimed", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Starts processes that hold a folder until they are told to end."""
    started = []

    def start(folder, *options):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout.readline() == "claimed\n"
        return process

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        process.wait()


def test_the_second_process_is_refused_with_the_first_ones_id_and_takes_over_when_that_is_killed(holder, tmp_path):
    first = holder(tmp_path / "run")
    with (
        pytest.raises(RunInUse, match=rf"run is in use by process {first.pid} on .*: wait .*or choose another folder"),
        RunFolder(tmp_path / "run").claimed(),
    ):
        pass
    first.kill()
    first.wait()
    with RunFolder(tmp_path / "run").claimed():
        assert str(os.getpid()) in (tmp_path / "run" / LOCK_FILE).read_text()
    assert not (tmp_path / "run").exists() or os.listdir(tmp_path / "run") == []


def test_whoever_is_patient_takes_a_folder_over_as_soon_as_it_is_free(holder, tmp_path):
    first = holder(tmp_path / "run")
    threading.Timer(0.2, first.kill).start()
    with RunFolder(tmp_path / "run", patience=60).claimed():
        assert str(os.getpid()) in (tmp_path / "run" / LOCK_FILE).read_text()


def test_a_child_of_a_killed_process_does_not_keep_its_folder(holder, tmp_path):
    first = holder(tmp_path / "run", "fork")
    first.kill()
    first.wait()
    with RunFolder(tmp_path / "run").claimed():
        pass


def test_what_ends_in_good_order_leaves_no_lock_and_a_folder_without_content_is_removed(holder, tmp_path):
    first = holder(tmp_path / "run")
    first.communicate("\n")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path / "mine").claimed():
        (tmp_path / "mine" / "metrics.jsonl").touch()
    assert os.listdir(tmp_path / "mine") == ["metrics.jsonl"]


def test_two_trainings_of_one_process_do_not_share_a_folder_but_parts_of_one_job_do(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.claimed():
        with folder.claimed():
            pass
        with pytest.raises(RunInUse, match="this process itself"), RunFolder(tmp_path).claimed():
            pass
        with RunFolder(tmp_path).claimed(first=False):
            pass


def test_two_threads_do_not_share_a_folder(tmp_path):
    refused = []

    def second():
        try:
            trainer_in(tmp_path).train()
        except RunInUse as error:
            refused.append(str(error))

    class Beside(Callback):
        def on_update(self, metrics):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()

    trainer_in(tmp_path, callbacks=[Beside()], max_iterations=2).train()
    assert len(refused) == 2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("path", ["file/below", "/proc/self/run"])
def test_a_folder_that_cannot_be_made_is_one_sentence(path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="could not be written"), RunFolder(tmp_path / path).claimed():
        pass


def test_what_a_killed_process_has_left_is_removed_when_the_folder_is_claimed(tmp_path):
    for left in (
        ".config.yaml.new",
        "checkpoints/.step-000002.new",
        "checkpoints/smat/.step-000004.new",
        "evaluation/mrl/.transcripts.jsonl.new",
    ):
        (tmp_path / left / "inside").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".sft.old" / "step-000002").mkdir(parents=True)
    (tmp_path / ".mine.new").touch()
    with RunFolder(tmp_path).claimed():
        pass
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob(".*")) == [".mine.new"]
    assert (tmp_path / "checkpoints" / "sft" / "step-000002").is_dir()


def test_a_file_belongs_to_the_nearest_run_above_it_and_elsewhere_to_none(holder, tmp_path):
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").touch()
    first = holder(tmp_path / "run")
    with pytest.raises(RunInUse, match=str(first.pid)), claimed_around(tmp_path / "run" / "evaluation" / "scored.jsonl"):
        pass
    for path in (tmp_path / "free.jsonl", None):
        with claimed_around(path):
            pass


COMMANDS = {
    "quickstart": ["quickstart", "--budget", "tiny", "--out", "RUN"],
    "quickstart resumed": ["quickstart", "--budget", "tiny", "--out", "RUN", "--resume"],
    "stage": ["stage", "smat", "--out", "RUN"],
    "train": ["train", "--from", "nowhere", "--out", "RUN", "--resume"],
    "evaluate": ["evaluate", "nowhere", "--out", "RUN"],
    "rescore": ["rescore", "nowhere.jsonl", "--reward", "exact", "--out", "RUN/evaluation/a.jsonl"],
    "report": ["report", "RUN"],
    "compare": ["compare", "oracle", "parrot", "--out", "RUN"],
    "probe": ["probe", "nowhere", "--out", "RUN"],
    "sweep": ["sweep", "--seeds", "0..1", "--out", "RUN", "--", "quickstart"],
    "data tokenizer": ["data", "tokenizer", "nowhere.txt", "--out", "RUN"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_writes_into_a_runs_folder_is_refused_while_another_does(command, holder, tmp_path):
    """Whichever command holds it: all of them claim it in the same way, before they do anything else there."""
    run = tmp_path / "run"
    (run / "evaluation").mkdir(parents=True)
    (run / "config.yaml").touch()
    first = holder(run)
    before = sorted(map(str, tmp_path.rglob("*")))
    refused = CliRunner().invoke(app, [part.replace("RUN", str(run)) for part in COMMANDS[command]])
    assert refused.exit_code == 2
    assert re.search(rf"Error: \S*run is in use by process {first.pid} on", refused.stderr)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_every_command_that_is_given_a_folder_of_a_run_is_tried_above():
    """A command that writes to `--out` claims it; those that write single files of data or published checkpoints have no run's folder."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path("rxrl/cli").glob("*.py")}
    claiming = {name for name, text in texts.items() if re.search(r"claimed\(|claimed_around\(|run_folder\(", text)} - {"shared"}
    assert claiming == {command.split()[0] for command in COMMANDS}


def test_an_unfinished_run_is_moved_away_under_the_lock_and_the_new_one_holds_its_own(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("old")
    folder = RunFolder(tmp_path / "run")
    with folder.claimed():
        moved = folder.set_aside()
        assert (moved.name, os.listdir(moved)) == ("run.unfinished-1", ["config.yaml"])
        assert os.listdir(tmp_path / "run") == [LOCK_FILE]
