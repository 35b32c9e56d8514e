"""The runs of a sweep as processes: a few at a time, each with a log, none of them twice."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rxrl.cli.main import COMMANDS, load_command
from rxrl.errors import ConfigError, unknown_name
from rxrl.reading import OBJECT, Refusal, read_json, read_text
from rxrl.writing import append_line, write_json

STATE_FILE = "sweep.json"
_NOW = 0.2
"""Seconds between two looks at the processes."""
_REFUSAL = Refusal(ConfigError, "remove it to begin the sweep anew")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a sweep.

    Attributes:
        folder: Where it goes.
        seed: Its seed.
        values: Its settings.
    """

    folder: Path
    seed: int
    values: Mapping[str, str]


class Sweep:
    """Runs jobs, and notes in `sweep.json` which are done.

    Args:
        folder: Of the sweep, claimed.
        command: What the user gave after `--`.
        at_once: Most processes at a time.
        say: Is told each step in a sentence.

    Raises:
        ConfigError: The command is unknown, or takes no seed and no folder.
    """

    def __init__(self, folder: Path, command: Sequence[str], at_once: int, say: Callable[[str], None]) -> None:
        self.folder, self.at_once, self.say = folder, at_once, say
        self.command = list(command[1:] if command[0] == "rxrl" else command)
        self.options = _options(self.command)
        self.file = folder / STATE_FILE
        self.done: dict[str, list[str]] = read_json(self.file, OBJECT, _REFUSAL)["done"] if self.file.is_file() else {}

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Runs what is not done yet; returns the jobs that failed."""
        waiting = [job for job in jobs if self.done.get(str(job.folder)) != self.line(job) or not job.folder.exists()]
        self.say(f"{len(jobs)} runs, {len(jobs) - len(waiting)} of them done.")
        for job in waiting:
            self._refuse_another(job)
        failed: list[Job] = []
        running: list[_Running] = []
        try:
            while waiting or running:
                while waiting and len(running) < self.at_once:
                    running.append(self._start(waiting.pop(0)))
                time.sleep(_NOW)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    failed += [each.job] * (not self._ended(each, f"{len(jobs) - len(waiting) - len(running)} of {len(jobs)}"))
        finally:
            _stop([each.process for each in running])
        return failed

    def line(self, job: Job) -> list[str]:
        """The command of a job, without the option to go on."""
        placed = {"seed": str(job.seed), "out": str(job.folder), **job.values}
        if self.options is None:
            return [re.sub(r"\{([\w.]+)\}", lambda found: placed.get(found[1], found[0]), part) for part in self.command]
        changes = [part for key, value in job.values.items() for part in ("--set", f"{key}={value}")]
        return [*self.command, "--seed", placed["seed"], *changes, "--out", placed["out"]]

    def _start(self, job: Job) -> _Running:
        line = self.line(job)
        begun = job.folder.is_dir() and any(job.folder.iterdir())
        goes_on = ["--resume"] if begun and self.options is not None and "--resume" in self.options else []
        whole = [*line, *goes_on] if self.options is None else [sys.executable, "-m", "rxrl", *line, *goes_on]
        log = job.folder.with_name(f"{job.folder.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()  # a program may end without a word
        self.say(f"{job.folder}: {'goes on' if begun else 'begins'}, log in {log}.")
        try:
            # A session of its own: Ctrl-C reaches this process, which hands it on once.
            process = subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                                       errors="replace", start_new_session=True)  # fmt: skip
        except OSError as error:
            raise ConfigError(f"{shlex.join(whole)} cannot be run ({error.strerror}): give a command of rxrl, or a program.") from error
        reader = threading.Thread(target=_log, args=(process, log), daemon=True)
        reader.start()
        return _Running(job, process, log, reader, time.monotonic())

    def _ended(self, each: _Running, place: str) -> bool:
        """Notes a job that is done; returns whether it is."""
        each.reader.join()
        seconds = round(time.monotonic() - each.started)
        if each.process.returncode:
            last = next((line for line in reversed(read_text(each.log).splitlines()) if line.strip()), "")
            self.say(f"{each.job.folder}: failed with exit code {each.process.returncode} ({place}). {last}")
            return False
        self.done[str(each.job.folder)] = self.line(each.job)
        write_json(self.file, {"command": self.command, "done": self.done})
        self.say(f"{each.job.folder}: done in {seconds} s ({place}).")
        return True

    def _refuse_another(self, job: Job) -> None:
        """Two commands do not share a folder."""
        before = self.done.get(str(job.folder))
        if before is not None and job.folder.exists():
            raise ConfigError(f"{job.folder} holds a run of another command ({shlex.join(before)}): choose another folder with --out.")


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    process: subprocess.Popen[str]
    log: Path
    reader: threading.Thread
    started: float


def _log(process: subprocess.Popen[str], log: Path) -> None:
    assert process.stdout is not None, "the output is a pipe"
    for line in process.stdout:
        append_line(log, line.rstrip("\n"))


def _stop(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Lets runs that are under way write a checkpoint and end; a second interruption ends them at once."""
    try:
        for each in processes:
            each.send_signal(signal.SIGINT)
        for each in processes:
            each.wait()
    except KeyboardInterrupt:
        for each in processes:
            each.kill()
        raise


def _options(command: Sequence[str]) -> list[str] | None:
    """Options of a command of rxrl; None for another program, which has places to fill in.

    Raises:
        ConfigError: It is neither.
    """
    if any("{out}" in part for part in command):
        return None
    if command[0] not in COMMANDS:
        raise ConfigError(unknown_name("command", command[0], COMMANDS) + " Another program needs {seed} and {out} where they belong.")
    loaded = load_command(COMMANDS[command[0]], command[0])
    options = [name for parameter in loaded.params for name in parameter.opts]
    for needed in ("--seed", "--out"):
        if needed not in options:
            raise ConfigError(f"`rxrl {command[0]}` has no {needed}, so it cannot be swept.")
        if needed in command:
            raise ConfigError(f"A sweep sets {needed} of each run: leave it out behind --.")
    return options
