"""``openmplug recipes``: what can be trained, and the published number of each."""

from __future__ import annotations

from typing import Any

import typer

from openmplug.cli import screen
from openmplug.cli.options import Debug, Json, Overrides, Recipe

WIDE = 130

app = typer.Typer(help="List and show the shipped recipes.", pretty_exceptions_enable=False)


def describe(name: str) -> dict[str, Any]:
    """Return the row of one recipe: name, task, benchmark, model, metric, the paper's number and its source, and what we measured."""
    from openmplug.config import load_tree
    from openmplug.engine.catalog import find_recipe, recipes_root
    from openmplug.engine.results import shipped_results

    tree = load_tree(find_recipe(name), base=recipes_root())
    paper = tree.get("paper") or {}
    measured = shipped_results().get(name)
    return {
        "name": name,
        "task": tree.get("task"),
        "description": tree.get("description", ""),
        "benchmark": paper.get("benchmark"),
        "model": (tree.get("model") or {}).get("name"),
        "metric": paper.get("metric"),
        "paper": paper.get("value"),
        "source": paper.get("source"),
        "ours": measured and measured["value"],
        "measured": measured,
    }


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """List and show the shipped recipes."""
    if context.invoked_subcommand is None:
        list_all()


@app.command("list")
def list_all(json_output: Json = False, debug: Debug = False) -> None:
    """List every shipped recipe with its benchmark, model, the paper's number, and ours where it was measured."""
    from openmplug.engine.catalog import list_recipes

    rows = [describe(name) for name in list_recipes()]
    if json_output:
        screen.document(rows)
        return
    # One line each: in 80 columns the name, which says task, benchmark and model, and the numbers; elsewhere the words too.
    wide = screen.width() >= WIDE
    columns = ("recipe", *(("task", "benchmark", "model") if wide else ()), "metric", "paper", "ours")
    cells = [[row["name"], *(row[column] for column in columns[1:])] for row in rows]
    title = "Recipes" if wide else "Recipes (the name says task, benchmark, model)"
    screen.table(title, columns, cells, right=("paper", "ours"))
    screen.note("What was measured, on what and with which control: openmplug recipes list --json, and docs/results.md")
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
