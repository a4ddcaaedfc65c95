"""``openmplug recipes``: what can be trained, and the published number of each."""

from __future__ import annotations

from typing import Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Json, Overrides, Recipe

app = typer.Typer(help="List and show the shipped recipes.", pretty_exceptions_enable=False)


def describe(name: str) -> dict[str, Any]:
    """Return the row of one recipe: name, task, benchmark, model, metric, the paper's number and its source."""
    from openmplug.config import load_tree
    from openmplug.engine.catalog import find_recipe, recipes_root

    tree = load_tree(find_recipe(name), base=recipes_root())
    paper = tree.get("paper") or {}
    return {
        "name": name,
        "task": tree.get("task"),
        "description": tree.get("description", ""),
        "benchmark": paper.get("benchmark"),
        "model": (tree.get("model") or {}).get("name"),
        "metric": paper.get("metric"),
        "paper": paper.get("value"),
        "source": paper.get("source"),
    }


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List and show the shipped recipes."""
    if context.invoked_subcommand is None:
        list_all()


@app.command("list")
def list_all(json_output: Json = False, debug: Debug = False) -> None:
    """List every shipped recipe with its benchmark, model and the paper's number."""
    from openmplug.engine.catalog import list_recipes

    rows = [describe(name) for name in list_recipes()]
    if json_output:
        screen.document(rows)
        return
    columns = ("recipe", "benchmark", "metric", "paper")
    cells = [(row["name"], row["benchmark"], row["metric"], row["paper"]) for row in rows]
    screen.table("Recipes (the name says task, benchmark, model)", columns, cells, right=("paper",))
    screen.note("One recipe in full: openmplug recipes show NAME")


@app.command("show")
def show(recipe: Recipe, overrides: Overrides = None, json_output: Json = False, debug: Debug = False) -> None:
    """Print a recipe as it would run: every setting, defaults included."""
    import sys

    from openmplug.config import dump_yaml
    from openmplug.engine.catalog import find_recipe
    from openmplug.engine.recipe import load_recipe

    config = load_recipe(recipe, overrides or [])
    tree = config.model_dump(mode="json")
    if json_output:
        screen.document(tree)
        return
    header = [line for line in find_recipe(recipe).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    sys.stdout.write("\n".join([*header, dump_yaml(tree)]))
