"""Runs `rxrl` commands in processes that are forked from one that has imported everything, with a fault that is due at a chosen moment.

A fault is due at the n-th file operation below the working folder (an audit hook sees them all but those of native code), after some
seconds of computing, or at the n-th time that a file is opened to be written.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
OPERATIONS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod"}
LIMIT = 300.0
"""Seconds until a command counts as hung; a busy machine takes ten times as long as an idle one."""


@dataclass(frozen=True)
class Fault:
    """What happens to a command.

    Attributes:
        kill_at: Number of the file operation before which the process is killed; 0: none.
        stop_at: The same, to be stopped until a signal lets it go on.
        kill_after: Seconds of computing after which it is killed; 0: never.
        kill_child_after: Seconds of computing of a process that it has started, after which that one is killed; 0: never.
        full_at: Number of the opening of a file to be written that finds the disk full; 0: none.
        full_for_good: Whether the disk stays full from then on.
    """

    kill_at: int = 0
    stop_at: int = 0
    kill_after: float = 0.0
    kill_child_after: float = 0.0
    full_at: int = 0
    full_for_good: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Exit code; minus the signal's number where one ended it; None where it hung.
        output: What it said, standard output and errors together.
        operations: File operations below the working folder.
        opened: How often a file was opened there to be written.
        seconds: CPU seconds.
        child_killed: Whether a process that it had started was killed.
    """

    code: int | None
    output: str
    operations: int
    opened: int
    seconds: float
    child_killed: bool

    @property
    def killed(self) -> bool:
        return self.child_killed or self.code in {-signal.SIGKILL, -signal.SIGPROF}

    @property
    def sentence(self) -> str | None:
        """The one line that a refused command says; None where it says something else."""
        lines = [line for line in self.output.splitlines() if line.startswith("Error: ")]
        return lines[0] if self.code == 2 and len(lines) == 1 and "Traceback" not in self.output else None


class Nursery:
    """The process that forks the others."""

    def __enter__(self) -> Nursery:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        command = [sys.executable, "-m", "tests.torture.nursery"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def start(self, folder: Path, arguments: Sequence[object], fault: Fault = Fault()) -> int:
        """Starts `rxrl ARGUMENTS` in a folder; returns the process id."""
        return int(self._ask({"start": [str(each) for each in arguments], "folder": str(folder), "fault": vars(fault)}))

    def stopped(self, pid: int) -> bool:
        """Waits until a process has stopped, or has ended before it did."""
        return bool(self._ask({"stopped": pid}))

    def wait(self, pid: int) -> Outcome:
        """How a process that was started ended."""
        return Outcome(**self._ask({"wait": pid}))

    def run(self, folder: Path, *arguments: object, fault: Fault = Fault()) -> Outcome:
        """Runs `rxrl ARGUMENTS` in a folder to its end."""
        return self.wait(self.start(folder, arguments, fault))

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


class Watch:
    """Counts what a process does to files below a folder, and brings about its fault."""

    def __init__(self, folder: str, fault: Fault, counts: int) -> None:
        self.folder, self.fault, self.counts = os.path.realpath(folder), fault, counts
        self.operations = self.opened = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(arguments[0], int) or not arguments[2] & WRITES or not self._inside(arguments[0]):
                return
            self._operation()
            self.opened += 1
            self._tell()
            at = self.fault.full_at
            if at and (self.opened == at or (self.fault.full_for_good and self.opened > at)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(arguments[0]))
        elif event in OPERATIONS and self._inside(arguments[0]):
            self._operation()
            self._tell()

    def _operation(self) -> None:
        self.operations += 1
        if self.operations == self.fault.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.operations == self.fault.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _inside(self, path: Any) -> bool:
        # Names without a folder are those of shutil.rmtree, which works in an opened folder.
        place = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        return bool(place) and (os.sep not in place or os.path.abspath(place).startswith(self.folder + os.sep))

    def _tell(self) -> None:
        os.pwrite(self.counts, f"{self.operations:9} {self.opened:9}".encode(), 0)


def child(question: dict[str, Any]) -> int:
    """The command, in the process that was forked for it; returns the exit code."""
    folder, fault = question["folder"], Fault(**question["fault"])
    os.chdir(folder)
    # Both are opened before anything is counted, and lie outside the folder, whose disk may be small.
    log, counts = (os.open(note(os.getpid(), kind), os.O_CREAT | os.O_TRUNC | os.O_RDWR) for kind in ("log", "counts"))
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    sys.addaudithook(Watch(folder, fault, counts))
    if fault.kill_after:
        signal.setitimer(signal.ITIMER_PROF, fault.kill_after)
    sys.argv = ["rxrl", *question["start"]]
    from rxrl.cli.main import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def note(pid: int, kind: str) -> Path:
    """File of what a child printed, or of its counts."""
    return Path(tempfile.gettempdir(), f"rxrl-nursery-{pid}.{kind}")


def ended(pid: int, kill_child_after: float = 0.0) -> dict[str, Any]:
    """Waits for a child."""
    until, status, usage, child_killed = time.monotonic() + LIMIT, None, None, False
    while time.monotonic() < until:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        for each in workers(pid) if kill_child_after and not child_killed else ():
            if cpu_seconds(each) >= kill_child_after:
                os.kill(each, signal.SIGKILL)
                child_killed = True
        time.sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        status = None
    log, counts = (note(pid, kind) for kind in ("log", "counts"))
    output, numbers = log.read_text(errors="replace"), counts.read_text().split() or [0, 0]
    log.unlink()
    counts.unlink()
    code = None if status is None else os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    return {"code": code, "output": output, "operations": int(numbers[0]), "opened": int(numbers[1]), "seconds": seconds} | {
        "child_killed": child_killed
    }


def workers(pid: int) -> list[int]:
    """Processes that a process has started to work beside it."""
    try:
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def cpu_seconds(pid: int) -> float:
    """What a process has computed so far; 0 for one that has ended."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Forks a child for each line of standard input."""
    import torch

    from rxrl.cli.main import COMMANDS, load_command

    torch.set_num_threads(1)
    for name, command in COMMANDS.items():
        load_command(command, name)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    kill_children: dict[int, float] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: Any = os.fork()
            if not answer:
                return child(question)
            kill_children[answer] = question["fault"]["kill_child_after"]
        elif "stopped" in question:
            found = os.waitid(os.P_PID, question["stopped"], os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            answer = found is not None and found.si_code == os.CLD_STOPPED
        else:
            answer = ended(question["wait"], kill_children.pop(question["wait"]))
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
