"""Progress on the terminal: one line that is rewritten where there is a terminal, a line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rxrl.cli.console import plain_console
from rxrl.terminal import PlainConsole
from rxrl.training.alarms import Alarm
from rxrl.training.callbacks import Callback
from rxrl.training.callbacks import Progress as Training

PLAIN_SECONDS = 20.0
"""Seconds between two lines where the output is no terminal."""
_SHOWN = {
    "mrl": {"reward": "reward", "retention": "retention", "kl": "KL"},
    "stage": {
        "loss": "loss",
        "val_ar_accuracy": "accuracy",
        "val_cosine": "cosine",
        "val_asking_accuracy": "asked right",
        "val_steps": "turns",
        "tokens_per_second": "tokens/s",
    },
}
"""Metrics on the line of progress, and what they are called there."""


@dataclass
class _Phase:
    """What a job is doing: a stage, or MRL.

    Attributes:
        name: As in the metrics.
        values: The newest of each metric that is shown.
        line: Where it stands.
        printed: When that was last printed, where there is no bar.
        bar: On a terminal.
    """

    name: str
    values: dict[str, float] = field(default_factory=dict)
    line: str = ""
    printed: float = 0.0
    bar: TaskID | None = None


class Terminal(Callback):
    """Shows stage, step, reward, retention and time left of stages and of MRL, and alarms; of several jobs at a time."""

    def __init__(self, console: PlainConsole | None = None) -> None:
        self.console = console or plain_console()
        self._lock = threading.RLock()
        self._progress: Progress | None = None
        self._phases: dict[str, _Phase] = {}

    def say(self, text: str, job: str = "") -> None:
        """Prints one line."""
        with self._lock:
            self._leave(job)
            self.console.print(_marked(job, text), soft_wrap=True)

    def on_alarm(self, alarm: Alarm) -> None:
        """Shows the alarm."""
        self.say(_sounded(alarm))

    def on_iteration(self, progress: Training) -> None:
        """Shows where a stage or MRL stands."""
        self.show(progress)

    def show(self, progress: Training, job: str = "") -> None:
        """Shows where a stage or MRL of a job stands."""
        wanted = _SHOWN["mrl" if progress.stage else "stage"]
        label = progress.phase if progress.stage is None else f"mrl {progress.stage.name}"
        metrics = {**progress.metrics, **progress.times}
        values = {text: float(metrics[key]) for key, text in wanted.items() if metrics.get(key) is not None}
        with self._lock:
            self._draw(self._phase(job, progress.phase, values), _marked(job, label), progress.iteration, progress.total)

    def close(self) -> None:
        """Ends the progress bars."""
        with self._lock:
            for job in list(self._phases):
                self._leave(job)

    def _phase(self, job: str, name: str, values: dict[str, float]) -> _Phase:
        if job in self._phases and self._phases[job].name != name:
            self._leave(job)
        phase = self._phases.setdefault(job, _Phase(name))
        phase.values |= values
        return phase

    def _draw(self, phase: _Phase, label: str, step: int, total: int) -> None:
        text = "  ".join(f"{key} {value:,.0f}" if value >= 1000 else f"{key} {value:.3g}" for key, value in phase.values.items())
        phase.line = f"  {label} {step}/{total}  {text}"
        if self.console.is_terminal:
            if self._progress is None:
                self._progress = _bars(self.console)
            shown: dict[str, Any] = {"completed": step, "total": total, "label": f"{label:16}", "text": text}
            if phase.bar is None:
                phase.bar = self._progress.add_task("", **shown)
            self._progress.update(phase.bar, **shown)
        elif time.monotonic() - phase.printed > PLAIN_SECONDS or step == total:
            phase.printed = time.monotonic()
            self.console.print(phase.line)

    def _leave(self, job: str) -> None:
        """In place of the bar of a job stays a line; the bars of others go on below it."""
        phase = self._phases.pop(job, None)
        if phase is None or phase.bar is None or self._progress is None:
            return
        self._progress.remove_task(phase.bar)
        if not self._phases:
            self._progress.stop()
            self._progress = None
        self.console.print(phase.line)


class Named:
    """Shows the events of another job on a terminal, from whatever thread, marked with its name.

    Args:
        terminal: Also shows those of the first job.
        job: Name.
    """

    def __init__(self, terminal: Terminal, job: str) -> None:
        self._terminal, self._job = terminal, job

    def say(self, text: str) -> None:
        """Prints one line."""
        self._terminal.say(text, self._job)

    def on_alarm(self, alarm: Alarm) -> None:
        """Shows the alarm."""
        self.say(_sounded(alarm))

    def on_iteration(self, progress: Training) -> None:
        """Shows where a stage or MRL stands."""
        self._terminal.show(progress, self._job)


class Bar:
    """How far a piece of work is, with the time left: a bar on a terminal, a line now and then elsewhere.

    Args:
        console: Where it is shown.
        unit: What is counted.
    """

    def __init__(self, console: PlainConsole, unit: str) -> None:
        self.console, self.unit = console, unit
        self._progress: Progress | None = None
        self._task: Any = None
        self._started = self._printed = time.monotonic()
        self._before: int | None = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Shows that `done` of `total` units are done."""
        if self.console.is_terminal:
            if self._progress is None:
                self._progress = _bars(self.console, transient=False)
                self._task = self._progress.add_task("", total=total, label=self.unit, text="")
            self._progress.update(self._task, completed=done, total=total)
            return
        now = time.monotonic()
        if self._before is None or now - self._printed > PLAIN_SECONDS:
            if self._before is not None and done > self._before:
                left = (now - self._started) / (done - self._before) * (total - done)
                self.console.print(f"  {self.unit} {done:,}/{total:,}, about {left:.0f} s left")
                self._printed = now
            else:
                # What an earlier start has played takes no time now.
                self._before, self._started = done, now


def _marked(job: str, text: str) -> str:
    return f"[{job}] {text}" if job else text


def _sounded(alarm: Alarm) -> str:
    return f"Alarm {alarm.name}: {alarm.message}"


def _bars(console: PlainConsole, transient: bool = True) -> Progress:
    """A started display without bars yet; `transient`: it is removed when it stops."""
    columns = (
        TextColumn("{task.fields[label]}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=transient)
    progress.start()
    return progress
