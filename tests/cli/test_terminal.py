"""What data, tokens and file names hold never steers the terminal."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.cli.progress import Named, Terminal
from rxrl.envs.render import Line, print_lines
from rxrl.policies.scripted import ask_at_terminal
from rxrl.terminal import PlainConsole, visible
from rxrl.training.alarms import Alarm
from rxrl.training.callbacks import Progress

BAD = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\x00\x7f\u202eabc\u2066[red]x[/red]:smile:"
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
RICH = re.compile(r"\x1b\[[0-9;]*[mKAGHJ]|\x1b\[\?25[lh]|\r")
"""What rich itself writes: colours, the cursor."""


@given(st.text())
def test_only_line_feeds_and_tabs_are_left(text: str) -> None:
    shown = visible(text)
    assert not STEERS.search(shown)
    assert shown == text or STEERS.search(text) or re.search("[\u061c\u200e\u200f\u2028\u2029]", text)
    assert (shown.count("\n"), shown.count("\t")) == (text.count("\n"), text.count("\t"))


def test_what_is_written_out_can_be_read() -> None:
    assert visible("a\x1b]0;b\x07\n\tc\u202e\x9b") == r"a\x1b]0;b\x07" + "\n\tc" + r"\u202e\x9b"
    assert visible("héllo 水 👍 עברית") == "héllo 水 👍 עברית"


@pytest.mark.parametrize("force", [False, True])
def test_consoles_show_text_as_it_is(force: bool) -> None:
    stream = io.StringIO()
    console = plain_console(file=stream, force_terminal=force, width=200)
    table = Table("head" + BAD, title="title" + BAD, caption=BAD)
    table.add_row(BAD)
    table.add_row(Text(BAD, style="red"))
    console.print(BAD, table, Text(BAD))
    console.print(BAD, soft_wrap=True)
    console.out(BAD)
    console.rule(BAD)
    shown = RICH.sub("", stream.getvalue())
    assert not STEERS.search(shown)
    assert "[red]x[/red]:smile:" in shown


@pytest.mark.parametrize("force", [False, True])
def test_progress_and_answers_show_text_as_it_is(force: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    terminal = Terminal(PlainConsole(file=stream, force_terminal=force, width=200))
    terminal.say(BAD)
    terminal.on_iteration(Progress(BAD, 1, 1, {}))
    Named(terminal, BAD).on_iteration(Progress(BAD, 1, 1, {}))
    terminal.close()
    assert not STEERS.search(RICH.sub("", stream.getvalue()))
    echo(BAD, fg="red", err=True)
    for letter in BAD:
        echo(letter, nl=False)
    print_lines([Line("A:", BAD)])
    monkeypatch.setattr("builtins.input", lambda prompt: prompt)
    assert not STEERS.search(ask_at_terminal(BAD))
    out, err = capsys.readouterr()
    assert not STEERS.search(RICH.sub("", out + err))


@pytest.mark.parametrize("force", [False, True])
def test_lines_of_two_jobs_stay_whole_and_tell_whose_they_are(force: bool) -> None:
    """Each line is written by a thread of its own job; a bar of one stays while the other speaks."""
    stream = io.StringIO()
    terminal = Terminal(PlainConsole(file=stream, force_terminal=force, width=200))
    other = Named(terminal, "other")

    def work(job: Terminal | Named, word: str) -> None:
        for step in range(1, 41):
            job.on_iteration(Progress("smat", step, 40, {"loss": 0.5}))
            if step % 10 == 0:
                job.say(f"{word} {step}")
        job.on_alarm(Alarm(word, "all is well"))

    threads = [threading.Thread(target=work, args=each) for each in ((terminal, "one"), (other, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.on_iteration(Progress("mrl", 1, 2, {}))
    terminal.say("last")
    if force:
        assert stream.getvalue().rstrip().rpartition("\n")[2].count("[other] mrl") == 1  # the bar of the other is still there
    terminal.close()
    # What was erased counts no more.
    lines = [RICH.sub("", line.rpartition("\x1b[2K")[2]).rstrip() for line in stream.getvalue().split("\n")]
    for mark, word in (("", "one"), ("[other] ", "two")):
        said = [line for line in lines if re.search(rf"{word}", line)]
        assert said == [*(f"{mark}{word} {step}" for step in (10, 20, 30, 40)), f"{mark}Alarm {word}: all is well"]
        assert f"  {mark}smat 40/40  loss 0.5" in lines


def test_conversations_ids_kinds_and_file_names_are_shown_as_they_are(invoke: Any, tmp_path: Path) -> None:
    row = {"id": BAD, "query": f"Mia has a cat.{BAD}", "answer": BAD, "facts": [{"key": "mia.pet", "value": "cat"}],
           "interactions": [{"query": BAD, "answer": f"A cat.{BAD}", "asks": ["mia.pet"], "kind": BAD}]}  # fmt: skip
    file = tmp_path / "a\x1b]0;b.jsonl"
    file.write_text(json.dumps(row) + "\n")
    shown = [invoke("data", "stats", file), invoke("play", file, "--policy", "parrot", "--memory", "none")]
    shown += [invoke("data", "stats", tmp_path / "no\x1b]0;b.jsonl", code=2), invoke("data", "stats", file, "--no\x1b]0;", code=2)]
    file.write_text(json.dumps(row | {"answer": None, "facts": [{"key": BAD}]}) + "\n")
    shown.append(invoke("data", "stats", file, code=2))
    shown.append(invoke("data", "import", "published", file, tmp_path / "o.jsonl", "--keep-valid", code=2))
    for result in shown:
        assert not STEERS.search(RICH.sub("", result.output))
        assert r"\x1b]0;" in result.output
