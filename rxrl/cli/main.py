"""Entry point of the `rxrl` command: a table of commands that are imported when they are called, and error printing.

To add a command, write a module `rxrl/cli/NAME.py` with a function or a `typer.Typer`, and add a line to `COMMANDS`.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from rxrl import __version__
from rxrl.allocation import keep_freed_memory
from rxrl.cli.console import echo
from rxrl.cli.output import forgive_output, lost_output
from rxrl.errors import RxrlError
from rxrl.terminal import VisibleFormatter, visible

DEBUG_VARIABLE = "RXRL_DEBUG"
EXIT_LOST_OUTPUT, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


USAGE_ERROR: Any = typer.BadParameter.__base__
"""Click's error about options and arguments, which typer keeps in different places."""


class LazyCommand(NamedTuple):
    """Where a command lives.

    Attributes:
        module: Module that holds it.
        attribute: Name of the `typer.Typer` or of the command function in it.
        help: One line for `rxrl --help`.
    """

    module: str
    attribute: str
    help: str


COMMANDS = {
    "quickstart": LazyCommand("rxrl.cli.quickstart", "quickstart", "Train a small model from scratch and write a report."),
    "data": LazyCommand("rxrl.cli.data", "app", "Generate, import and inspect conversations."),
    "stage": LazyCommand("rxrl.cli.stage", "app", "Run one supervised stage of training."),
    "pipeline": LazyCommand("rxrl.cli.pipeline", "pipeline", "Train a model through all stages of a recipe."),
    "recipes": LazyCommand("rxrl.cli.recipes", "recipes", "List the recipes of the published model sizes."),
    "train": LazyCommand("rxrl.cli.train", "train", "Train a model's memory with reinforcement learning."),
    "evaluate": LazyCommand("rxrl.cli.evaluate", "evaluate", "Measure what a model remembers, and for how long."),
    "report": LazyCommand("rxrl.cli.report", "report", "Write the HTML and JSON report of a run."),
    "probe": LazyCommand("rxrl.cli.probe", "probe", "Look into a memory: what it forgets, stores and does."),
    "compare": LazyCommand("rxrl.cli.compare", "compare", "Put several runs and seeds on one page."),
    "sweep": LazyCommand("rxrl.cli.sweep", "sweep", "Run a command for several seeds and settings."),
    "chat": LazyCommand("rxrl.cli.chat", "chat", "Talk to a model that remembers the conversation."),
    "complete": LazyCommand("rxrl.cli.complete", "complete", "Continue a text with the decoder of a model."),
    "fill-mask": LazyCommand("rxrl.cli.fill_mask", "fill_mask", "Fill in masked tokens with the encoder of a model."),
    "import-rxlm": LazyCommand("rxrl.cli.import_rxlm", "import_rxlm_command", "Read a checkpoint in the published layout."),
    "export-rxlm": LazyCommand("rxrl.cli.export_rxlm", "export_rxlm_command", "Write a checkpoint in the published layout."),
    "push": LazyCommand("rxrl.cli.push", "push", "Upload a checkpoint and its model card to the Hub."),
    "play": LazyCommand("rxrl.cli.play", "play", "Play conversations and see what each answer earns."),
    "rewards": LazyCommand("rxrl.cli.rewards", "app", "List, describe and check rewards."),
    "scenarios": LazyCommand("rxrl.cli.scenarios", "app", "List, show and check scenarios, whose user reacts."),
    "rescore": LazyCommand("rxrl.cli.rescore", "rescore_transcripts", "Score stored transcripts again with other rewards."),
    "list": LazyCommand("rxrl.cli.listing", "list_names", "List rewards, algorithms, curricula and other names."),
    "presets": LazyCommand("rxrl.cli.presets", "presets", "List the model sizes and their parameter counts."),
}


def load_command(command: LazyCommand, name: str) -> Any:
    """Imports a command of the table and returns it as typer's command object, under `name`."""
    found = getattr(import_module(command.module), command.attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False, rich_markup_mode=None)
        found.command(name)(function)
    loaded = typer.main.get_command(found)
    loaded.name = name
    return loaded


class LazyGroup(TyperGroup):
    """Group whose commands are imported when they are called; prints errors of the user as one sentence."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replaces the placeholder that `--help` lists by the command itself."""
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, load_command(COMMANDS[name], name) if name in COMMANDS else placeholder, rest

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; an `RxrlError` ends it with exit code 2, an interrupt with 128 + the signal (130, 143)."""
        try:
            return super().invoke(ctx)
        except RxrlError as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            echo(f"Error: {error}", fg=typer.colors.RED, err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except OSError as error:
            if error.filename is None or os.environ.get(DEBUG_VARIABLE):
                raise
            sentence = f"Error: {error.filename} cannot be used ({error.strerror}): check the path, or give another one."
            echo(sentence, fg=typer.colors.RED, err=True)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except USAGE_ERROR as error:
            error.message = visible(error.message)
            raise
        except KeyboardInterrupt as stop:
            echo(str(stop) or "Interrupted.", err=True)
            raise typer.Exit(getattr(stop, "exit_code", EXIT_INTERRUPTED)) from None


app = typer.Typer(
    cls=LazyGroup, name="rxrl", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _show_version(asked: bool) -> None:
    if asked:
        echo(f"rxrl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    """Memory Reinforcement Learning for the Reactive Transformer."""


def _placeholder() -> None:
    raise AssertionError("LazyGroup replaces a placeholder before it is called")


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.help)(_placeholder)


def main() -> None:
    """Runs the command line of this process and exits."""
    keep_freed_memory()
    watched = forgive_output()
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(VisibleFormatter())
    try:
        app(prog_name="rxrl")
    except SystemExit as end:
        if (sentence := lost_output(watched)) is None:
            raise
        echo(f"Error: {sentence}", err=True)
        sys.exit(end.code or EXIT_LOST_OUTPUT)
