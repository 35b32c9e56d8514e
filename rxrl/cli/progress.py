"""Progress on the terminal: one line that is rewritten where there is a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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


class Terminal(Callback):
    """Shows stage, step, reward, retention and time left of stages and of MRL, and alarms."""

    def __init__(self, console: PlainConsole | None = None) -> None:
        self.console = console or plain_console()
        self._progress: Progress | None = None
        self._task: Any = None
        self._name = ""
        self._printed = 0.0
        self._kept: dict[str, float] = {}

    def say(self, text: str) -> None:
        """Prints one line."""
        self.close()
        self.console.print(text, soft_wrap=True)

    def on_alarm(self, alarm: Alarm) -> None:
        """Shows the alarm."""
        self.say(f"Alarm {alarm.name}: {alarm.message}")

    def on_iteration(self, progress: Training) -> None:
        """Shows where a stage or MRL stands."""
        metrics, wanted = {**progress.metrics, **progress.times}, _SHOWN["mrl" if progress.stage else "stage"]
        self._keep(progress.phase, {text: metrics[key] for key, text in wanted.items() if metrics.get(key) is not None})
        label = progress.phase if progress.stage is None else f"mrl {progress.stage.name}"
        self._show(label, progress.iteration, progress.total, group=progress.phase)

    def close(self) -> None:
        """Ends the progress bar."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._name = None, ""

    def _keep(self, name: str, values: dict[str, Any]) -> None:
        if self._name != name:
            self._kept = {}
        self._kept |= {key: float(value) for key, value in values.items()}

    def _show(self, label: str, step: int, total: int, group: str | None = None) -> None:
        name = group or label
        if self._name != name:
            self.close()
            self._name, self._printed = name, 0.0
            if self.console.is_terminal:
                self._begin(total)
        text = "  ".join(f"{key} {value:,.0f}" if value >= 1000 else f"{key} {value:.3g}" for key, value in self._kept.items())
        if self._progress is not None:
            self._progress.update(self._task, completed=step, total=total, label=f"{label:16}", text=text)
        elif time.monotonic() - self._printed > PLAIN_SECONDS or step == total:
            self._printed = time.monotonic()
            self.console.print(f"  {label} {step}/{total}  {text}")

    def _begin(self, total: int) -> None:
        self._progress = _bar(self.console)
        self._task = self._progress.add_task("", total=total, label="", text="")


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
                self._progress = _bar(self.console)
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


def _bar(console: PlainConsole) -> Progress:
    """A started bar with the columns that all bars have."""
    columns = (
        TextColumn("{task.fields[label]}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=console, transient=False)
    progress.start()
    return progress
