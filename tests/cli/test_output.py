"""What is shown decides over nothing, and a place that cannot be written is refused before the work."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import rxrl
from rxrl.cli import main as cli
from rxrl.cli.output import Forgiving
from tests.cli.conftest import MRL_SETTINGS, settings

PROGRAM = "from rxrl.cli.main import main; main()"
WRITTEN = {"out", "save_memory", "run"}
"""Names of parameters that are written to."""


def run(*arguments: object, encoding: str = "utf-8", **options: Any) -> subprocess.Popen[bytes]:
    """`rxrl ...` as a process of its own."""
    root = Path(rxrl.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONIOENCODING": encoding, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)], env=environment, stderr=subprocess.PIPE, **options)


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Commands that do something, with their names."""
    if isinstance(command, click.Group):
        for inner in command.commands:
            yield from leaves(command.commands[inner], f"{name} {inner}".strip())
    else:
        yield name, command


COMMANDS = {full: leaf for name, lazy in cli.COMMANDS.items() for full, leaf in leaves(cli.load_command(lazy, name), name)}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_place_that_is_written_is_looked_at_before_the_work(name: str, tmp_path: Path) -> None:
    """Whoever adds an output forgets this: so all parameters with the name of one are called with a place that cannot be written."""
    (tmp_path / "file").write_text("taken")
    for parameter in COMMANDS[name].params:
        if parameter.name in WRITTEN:
            context = click.Context(COMMANDS[name])
            with pytest.raises(rxrl.errors.WriteError, match="nothing has been done yet"):
                parameter.process_value(context, str(tmp_path / "file" / "below"))


@pytest.mark.parametrize(
    ("arguments", "untouched"),
    [
        (("evaluate", "CHECKPOINT", "--out", "FILE/out"), "Playing"),
        (("evaluate", "CHECKPOINT", "--out", "FILE"), "Playing"),
        (("stage", "pretrain", "--out", "FILE"), "Stage"),
        (("quickstart", "--budget", "tiny", "--out", "FILE/run"), "Tokenizer"),
        (("data", "generate", "FILE/rows.jsonl"), "Wrote"),
        (("data", "generate", "FOLDER"), "Wrote"),
        (("chat", "CHECKPOINT", "--save-memory", "FOLDER"), "Commands"),
    ],
)
def test_it_is_refused_with_one_sentence(arguments: tuple[str, ...], untouched: str, invoke: Any, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    places = {"CHECKPOINT": str(checkpoint), "FILE": str(tmp_path / "file"), "FOLDER": str(tmp_path)}
    words = []
    for word in arguments:
        first, slash, rest = word.partition("/")
        words.append(places.get(first, first) + slash + rest)
    result = invoke(*words, code=2)
    assert result.stderr.count("Error: ") == 1
    assert "could not be written" in result.stderr
    assert untouched not in result.stdout
    assert (tmp_path / "file").read_text() == "taken"


def test_a_fault_of_the_stream_is_noted_and_what_follows_is_dropped() -> None:
    reader, writer = os.pipe()
    stream = Forgiving(io.FileIO(writer, "w"))
    assert stream.write(b"seen") == 4
    assert os.read(reader, 10) == b"seen"
    os.close(reader)
    assert [stream.write(b"lost"), stream.write(b"lost too")] == [4, 8]
    assert stream.failure is not None
    assert stream.failure.errno == errno.EPIPE


def test_a_stream_that_is_full_for_the_moment_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = Forgiving(io.FileIO(writer, "w"))
    content = bytes(range(256)) * 4096
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"], stdin=reader, stdout=subprocess.PIPE
    )
    os.close(reader)
    with io.BufferedWriter(stream) as buffered:
        buffered.write(content)
    os.close(writer)
    assert child.communicate()[0].strip() == str(len(content)).encode()
    assert stream.failure is None


def test_a_training_goes_on_when_its_reader_leaves(checkpoint: Path, curriculum: Path, tmp_path: Path) -> None:
    options = ("train", "--from", checkpoint, "--curriculum", curriculum, *settings(MRL_SETTINGS))
    process = run(*options, "--out", tmp_path / "run", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert process.returncode == 0
    assert not {"Error", "Traceback", "Broken"} & set(errors.decode().replace(":", " ").split())
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "run" / "checkpoint").is_dir()


def test_a_list_whose_reader_leaves_ends_quietly_and_a_full_disk_is_told() -> None:
    process = run("list", "rewards", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert (process.communicate()[1], process.returncode) == (b"", 0)
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            process = run("list", "rewards", stdout=full)
            assert b"Error: The output could not be shown to its end" in process.communicate()[1]
            assert process.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:strict"])
def test_a_terminal_without_the_characters_shows_others(encoding: str, tmp_path: Path) -> None:
    row = {"query": "Zoë has a 猫.", "answer": "Okay.", "interactions": [{"query": "What?", "answer": "猫 – é"}]}
    (tmp_path / "talk.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    process = run("play", tmp_path / "talk.jsonl", "--policy", "oracle", encoding=encoding, stdout=subprocess.PIPE)
    shown, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert b"has a ?." in shown
    assert (b"Zo\xeb" in shown) == (encoding == "cp1252")


@pytest.mark.slow
def test_names_that_another_locale_cannot_say_are_saved_as_they_were_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LANG", raising=False)
    turn = {"query": "How many cats?", "answer": "3 cats.", "asks": ["mia.number"]}
    told = {"query": "Mia has 3 cats.", "answer": "Okay.", "facts": [{"key": "mia.number", "value": "3"}], "interactions": [turn] * 2}
    (tmp_path / "über.jsonl").write_text(json.dumps(told) + "\n")
    (tmp_path / "ürew.py").write_text("def mine(turns):\n    return [1.0 for _ in turns]\n")
    evaluate = ("evaluate", "oracle", "--data", "über.jsonl", "--reward", "ürew.py:mine", "--out", "evü")
    for command in (evaluate, evaluate, ("report", "evü")):
        process = run(*command, cwd=tmp_path, stdout=subprocess.PIPE)
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert json.loads((tmp_path / "evü/evaluation.json").read_text())["about"]["data"] == {"über.jsonl": 1.0}
