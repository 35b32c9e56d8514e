from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from rxrl import __version__
from rxrl.cli import main as cli
from rxrl.errors import DataError
from tests.cli.test_output import COMMANDS

runner = CliRunner()


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command `boom` in this module that fails as it is told."""
    monkeypatch.delenv(cli.DEBUG_VARIABLE, raising=False)
    monkeypatch.setitem(cli.COMMANDS, "presets", cli.LazyCommand("failing_command", "fail", "Fails."))

    def fail(how: str) -> None:
        """Fails as told."""
        match how:
            case "user":
                raise DataError("rows.jsonl, row 3: expected a query, got nothing; add one.")
            case "interrupt":
                raise KeyboardInterrupt
            case _:
                raise ZeroDivisionError("a defect of our own")

    module = type(sys)("failing_command")
    module.fail = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_command", module)


@pytest.mark.usefixtures("boom")
def test_an_error_of_the_user_is_one_sentence_and_exit_code_2() -> None:
    result = runner.invoke(cli.app, ["presets", "user"])
    assert result.exit_code == 2
    assert result.stderr == "Error: rows.jsonl, row 3: expected a query, got nothing; add one.\n"
    assert result.stdout == ""


@pytest.mark.usefixtures("boom")
def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    assert isinstance(runner.invoke(cli.app, ["presets", "user"]).exception, DataError)


@pytest.mark.usefixtures("boom")
def test_a_defect_of_our_own_is_not_hidden() -> None:
    assert isinstance(runner.invoke(cli.app, ["presets", "defect"]).exception, ZeroDivisionError)


@pytest.mark.usefixtures("boom")
def test_an_interrupt_exits_with_130() -> None:
    result = runner.invoke(cli.app, ["presets", "interrupt"])
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


@pytest.mark.usefixtures("boom")
def test_usage_errors_name_the_command() -> None:
    result = runner.invoke(cli.app, ["presets"], prog_name="rxrl")
    assert result.exit_code == 2
    assert "Usage: rxrl presets" in result.stderr


def test_a_mistyped_command_is_guessed() -> None:
    result = runner.invoke(cli.app, ["trian"])
    assert result.exit_code == 2
    assert "'train'" in result.stderr


def test_help_lists_every_command_with_a_whole_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = runner.invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name, command in cli.COMMANDS.items():
        assert name in result.stdout
        assert command.help in result.stdout


def test_version() -> None:
    assert runner.invoke(cli.app, ["--version"]).stdout == f"rxrl {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists_and_has_help(name: str) -> None:
    result = runner.invoke(cli.app, [name, "--help"], prog_name="rxrl")
    assert result.exit_code == 0, result.output
    assert f"Usage: rxrl {name}" in result.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_fits_a_terminal_of_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = runner.invoke(cli.app, [*name.split(), "--help"], prog_name="rxrl").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "╭" not in shown
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or str(getattr(parameter, "help", "")).endswith((".", ")", "'")), parameter.name


def test_a_typer_app_of_one_command_keeps_the_name_of_the_table() -> None:
    app = typer.Typer(add_completion=False)
    app.command()(lambda: None)
    module = type(sys)("single_command")
    module.app = app  # type: ignore[attr-defined]
    sys.modules["single_command"] = module
    try:
        assert cli.load_command(cli.LazyCommand("single_command", "app", "One."), "one").name == "one"
    finally:
        del sys.modules["single_command"]


def test_help_and_import_are_light() -> None:
    program = (
        "import sys, json, rxrl, rxrl.curricula\n"
        "from typer.testing import CliRunner\n"
        "from rxrl.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'datasets', 'accelerate', 'trl') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "rxrl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rxrl {__version__}\n"
