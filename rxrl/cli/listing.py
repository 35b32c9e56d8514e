"""`rxrl list KIND`: what can be named in commands and configurations, where it comes from, and what it does."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.errors import ConfigError, unknown_name
from rxrl.registry import Registry

KINDS = {
    "algorithms": ("rxrl.algorithms", "How the policy learns from rewards: `rxrl train --algorithm NAME`."),
    "curricula": ("rxrl.curricula", "How the number of turns grows during training: `rxrl train --curriculum NAME`."),
    "envs": ("rxrl.envs", "Environments: `rxrl train --env NAME`."),
    "importers": ("rxrl.data.importers", "Where conversations come from: `rxrl data import NAME`."),
    "memories": ("rxrl.envs", "What holds the conversation: `rxrl play --memory NAME`."),
    "policies": ("rxrl.policies", "Who answers: `rxrl play --policy NAME`."),
    "scenarios": ("rxrl.envs.scenarios", "Users who react: `rxrl train --data scenario:NAME`."),
    "signals": ("rxrl.training.signals", "What the update learns from: `rxrl train --signals NAME=COEFFICIENT`."),
    "suites": ("rxrl.evaluation.suites", "Benchmarks: `rxrl evaluate WHAT --suite NAME`."),
    "rewards": ("rxrl.rewards", "What an answer earns: `rxrl train --reward NAME`."),
}
"""Where the registry of a kind is, and where its names are used."""


def list_names(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help=f"One of {', '.join(KINDS)}.", show_default=False)] = None,
) -> None:
    """List rewards, algorithms, curricula and everything else that has a name.

    Without a KIND, lists the kinds.
    """
    if kind is None:
        table = names_table("", "kind", "")
        for name, (_, use) in KINDS.items():
            table.add_row(name, Text(use))
        plain_console().print(table)
        echo("The names of one kind: rxrl list KIND.")
        return
    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    print_names(registry_of(kind))


def registry_of(kind: str) -> Registry:
    """The registry of a kind, imported when it is asked for."""
    found: Registry = getattr(import_module(KINDS[kind][0]), {"envs": "ENVIRONMENTS"}.get(kind, kind.upper()))
    return found


def print_names(registry: Registry) -> None:
    """A table of the names of one kind, and how to name one's own."""
    table = names_table(registry.plural.capitalize(), "name", "from", "what it is")
    for line in registry.listing():
        table.add_row(line.name, line.origin, Text(line.summary))
    plain_console().print(table)
    echo(
        f"To use your own {registry.kind}, give package.module:name or path/file.py:name, "
        f"or register it in a package under the entry-point group rxrl.{registry.plural}."
    )


def names_table(title: str, *headings: str) -> Table:
    """A plain table whose first column is never cut."""
    table = Table(*headings, title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    if headings:
        table.columns[0].no_wrap = True
    return table
