"""The two jobs of the quickstart at the same time: the same bytes as one after the other, whatever happens to either process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rxrl.cli.quickstart import room_for_two
from rxrl.runs.folder import LOCK_FILE
from tests.torture.jobs import Whole, jobs, overrides
from tests.torture.nursery import Nursery, Outcome, workers

pytestmark = pytest.mark.slow
# The second job is still at work whenever a fault of the first reaches it, however busy the machine is.
LONG = overrides(("interactive.mrl.max_iterations=20",))
JOB, ONE_AFTER_ANOTHER = (
    replace(job, arguments=(*job.arguments, *LONG))
    for name in ("quickstart, side by side", "quickstart")
    for job in jobs()
    if job.name == name
)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """What the jobs leave one after the other."""
    folder = tmp_path_factory.mktemp("whole")
    return Whole.of(nursery, ONE_AFTER_ANOTHER, folder, folder / "work", runs=1)


def begun(nursery: Nursery, folder: Path, again: bool = False) -> tuple[int, int]:
    """Starts both jobs, and waits until the second holds its folder and has written metrics; returns the processes."""
    parent, second = nursery.start(folder, JOB.command(folder, again=again)), folder / "run/interactive"

    def works() -> bool:
        lock = second / LOCK_FILE
        holders = [json.loads(lock.read_text() or "{}").get("pid")] if lock.exists() else []
        return (second / "metrics.jsonl").exists() and holders != [] and workers(parent) == holders

    until(works)
    return parent, workers(parent)[0]


def until(condition: Callable[[], bool]) -> None:
    """Waits, until the machine counts as hung."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_both_jobs_leave_the_same_as_one_after_the_other_and_lines_are_whole(nursery: Nursery, whole: Whole, tmp_path: Path) -> None:
    outcome = nursery.run(tmp_path, *JOB.command(tmp_path))
    assert outcome.code == 0, outcome
    assert whole.differences(tmp_path) == []
    second = [line.removeprefix("[preferences] ") for line in outcome.output.splitlines() if line.startswith("[preferences] ")]
    first = [line for line in outcome.output.splitlines() if not line.lstrip().startswith("[preferences]")]
    starts = [
        "Tokenizer",
        "Stage pretrain",
        "Stage sft",
        "Stage memory-attention",
        "Stage smat",
        "Held-out after",
        "Memory",
        "Held-out after",
    ]
    assert [line.startswith(start) for line, start in zip(second, starts, strict=True)] == [True] * len(starts)
    assert first[0].startswith("The second job runs at the same time")
    assert first[-1] == "Report: run/report.html"


def test_whatever_ends_either_process_both_go_on_as_if_nothing_had_been(nursery: Nursery, whole: Whole, tmp_path: Path) -> None:
    # The parent is killed: the second job dies with it.
    parent, worker = begun(nursery, tmp_path)
    os.kill(parent, signal.SIGKILL)
    assert nursery.wait(parent).killed
    until(lambda: not Path(f"/proc/{worker}/cmdline").exists())

    # Ctrl-C, which a terminal sends to both.
    parent, worker = begun(nursery, tmp_path, again=True)
    for each in (worker, parent):
        os.kill(each, signal.SIGINT)
    outcome = nursery.wait(parent)
    assert outcome.code == 128 + signal.SIGINT
    assert "Traceback" not in outcome.output
    assert "go on with --resume" in outcome.output.splitlines()[-1]
    assert sum(line.startswith("[preferences] Interrupted") for line in outcome.output.splitlines()) == 1

    # The second job is killed: the first ends as it would have.
    parent, worker = begun(nursery, tmp_path, again=True)
    os.kill(worker, signal.SIGKILL)
    assert_refused(nursery.wait(parent), "The second job was ended by SIGKILL")
    assert (tmp_path / "run/evaluation/smat-continued").is_dir()
    assert not (tmp_path / "run/report.html").exists()

    outcome = nursery.run(tmp_path, *JOB.command(tmp_path, again=True))
    assert outcome.code == 0, outcome
    assert whole.differences(tmp_path) == []


def test_an_error_of_the_second_job_is_one_sentence_after_the_first_has_ended(nursery: Nursery, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(turns):\n    print('half')\n    raise ValueError('no such luck')\n")
    outcome = nursery.run(tmp_path, *JOB.command(tmp_path), "--set", "interactive.mrl.reward=mine.py:broken")
    assert_refused(outcome, "no such luck")
    assert "[preferences] half" in outcome.output.splitlines()
    assert (tmp_path / "run/evaluation/smat-continued").is_dir()


def test_an_error_of_the_first_job_saves_the_second(nursery: Nursery, tmp_path: Path) -> None:
    begun = "interactive/metrics.jsonl"
    (tmp_path / "mine.py").write_text(
        "import pathlib, time\n\ndef broken(turns):\n"
        f"    while not pathlib.Path('run/{begun}').exists():\n        time.sleep(0.01)\n    raise ValueError('no such luck')\n"
    )
    outcome = nursery.run(tmp_path, *JOB.command(tmp_path), "--set", "mrl.reward=mine.py:broken")
    assert_refused(outcome, "no such luck")
    assert any(line.startswith("[preferences] Interrupted") for line in outcome.output.splitlines())


def test_a_script_without_a_guard_starts_nothing_twice(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(
        "from rxrl.pipeline.beside import beside\n\n\nclass Voice:\n    def say(self, text):\n        print('heard', text)\n\n\n"
        "print('begun')\nwith beside(print, ('hello',), Voice()) as wait:\n    wait()\n"
    )
    found = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    begun, heard = found.stdout.splitlines()
    assert begun == "begun"
    assert heard.startswith("heard hello ")


def assert_refused(outcome: Outcome, what: str) -> None:
    assert outcome.sentence is not None, outcome
    assert what in outcome.sentence


def test_jobs_run_side_by_side_where_each_has_cpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, threads, enough in ((1, 1, False), (2, 1, True), (3, 2, False), (4, 2, True), (8, None, False)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cpus=cpus: set(range(cpus)), raising=False)
        assert room_for_two(threads) == enough
