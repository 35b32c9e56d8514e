"""`rxrl recipes`: the training recipes that come with the package."""

from __future__ import annotations

from rich.text import Text

from rxrl.cli.console import echo, plain_console
from rxrl.cli.listing import names_table
from rxrl.pipeline.recipe import RECIPES, Recipe, load_recipe
from rxrl.stages.config import STAGES, LanguageConfig, StageConfig


def recipes() -> None:
    """List the recipes: all stages of a model size, with the published settings where there are any."""
    table = names_table("", "recipe", "size", "stages, tokens", "what it is")
    for name in RECIPES:
        recipe = load_recipe(name)
        table.add_row(name, recipe.preset, "\n".join(_stages(recipe)), Text(recipe.about))
    plain_console().print(table)
    echo("Run one: rxrl pipeline RECIPE --data SOURCE --out DIR. Time and memory first: add --dry-run.")


def _stages(recipe: Recipe) -> list[str]:
    """Each stage with its tokens, where they decide when it ends."""
    lines = []
    for name in STAGES:
        settings: StageConfig | None = getattr(recipe.stages, name.replace("-", "_"))
        if settings is not None:
            mode = f" ({settings.mode})" if isinstance(settings, LanguageConfig) else ""
            size = f"{settings.most_iterations:,} steps" if settings.max_tokens is None else f"{settings.max_tokens / 1e6:,.0f} million"
            lines.append(f"{name}{mode}: {size}")
    return [*lines, *([f"mrl: curriculum {recipe.curriculum}"] if recipe.mrl is not None else [])]
